"""Response surfaces: the noise-free scores of a configuration, from published tables or from measured trials."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from math import exp, log2
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeps import space
from sweeps.config import LogUniform, SweepConfig
from sweeps.failures import SurfaceUnusable
from sweeps.scales import Params
from sweeps.simulate import tables
from sweeps.simulate.tables import scale_of

SMALLEST = 1 / 256
"""The smallest fraction in the tables: values are interpolated on log2(fraction + it), in which 0 has a place."""
Scores = Mapping[str, float]


class Surface(ABC):
    """Scores by benchmark, as published, of a trial's configuration and parameters."""

    name: str
    size: str = "7b"
    """Size of the model, for what a trial costs."""

    @abstractmethod
    def truth(self, config: SweepConfig, params: Params) -> Scores:
        """The noise-free scores. Raises SurfaceUnusable where the surface ends."""

    def begin(self, config: SweepConfig) -> Scores:
        """The scores of the model that the last stage starts from: of the base model, unless the surface knows better."""
        return {name: tables.BASE[scale_of(name)] for name in config.evaluate.benchmarks}

    def at(self, config: SweepConfig, params: Params, share: float) -> Scores:
        """The noise-free scores after a share of the last stage: most is learned early."""
        end, begin = self.truth(config, params), self.begin(config)
        learned = (1 - exp(-tables.LEARNING * share)) / (1 - exp(-tables.LEARNING))
        return {name: begin[name] + learned * (value - begin[name]) for name, value in end.items()}

    @abstractmethod
    def unknown(self, config: SweepConfig) -> list[str]:
        """Columns of the search space and benchmarks of the configuration that the surface says nothing about."""


class Interpolated:
    """Values between points: straight lines where there is one coordinate, else a linear radial basis; flat beyond."""

    def __init__(self, points: Sequence[Sequence[float]], values: Sequence[Sequence[float]]) -> None:
        known: dict[tuple[float, ...], list[Sequence[float]]] = {}
        for point, value in zip(points, values, strict=True):
            known.setdefault(tuple(point), []).append(value)
        where = sorted(known)
        self._points = np.array(where, float)
        self._values = np.array([np.mean(known[point], axis=0) for point in where])  # repeats are averaged
        self._between = self._lines if self._points.shape[1] == 1 or len(where) == 1 else self._basis()

    def __call__(self, point: Sequence[float]) -> NDArray[np.float64]:
        ends = self._points.min(0), self._points.max(0)
        found = self._between(np.clip(np.array(point, float), *ends))
        return np.clip(found, self._values.min(0), self._values.max(0))

    def _lines(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.interp(point[0], self._points[:, 0], column) for column in self._values.T])

    def _basis(self) -> Any:
        from scipy.interpolate import RBFInterpolator

        basis = RBFInterpolator(self._points, self._values, kernel="linear")
        return lambda point: basis(point[None])[0]


class PaperSurface(Surface):
    """A surface of arXiv 2310.05492."""

    searched: tuple[str, ...]

    def unknown(self, config: SweepConfig) -> list[str]:
        columns = [c for c in space.columns(config.search.space) if c.rsplit(".", 1)[-1] not in self.searched]
        return columns + [name for name in config.evaluate.benchmarks if name not in tables.BENCHMARKS]


class Dmt(PaperSurface):
    """Scores over k, and those of the strategies that have none."""

    searched = ("k", "strategy")

    def __init__(self, size: str) -> None:
        self.name, self.size = f"dmt-{size}", size
        rows = tables.DMT[size]
        self._over_k = Interpolated([[_octaves(k)] for k in rows], list(rows.values()))

    def truth(self, config: SweepConfig, params: Params) -> Scores:
        if config.strategy in ("dmt", "mixed_sequential"):
            return _published(self._over_k([_octaves(config.k or 0.0 if config.strategy == "dmt" else 0.0)]))
        if config.strategy in tables.STRATEGIES[self.size]:
            return _published(tables.STRATEGIES[self.size][config.strategy])
        raise SurfaceUnusable(f"surface {self.name} knows no strategy {config.strategy}")

    def begin(self, config: SweepConfig) -> Scores:
        staged = config.strategy in ("dmt", "mixed_sequential")
        return _published(tables.SPECIALISTS_ONLY[self.size]) if staged else super().begin(config)


class Ratio(PaperSurface):
    """Scores over the fractions of the specialist and of the general data, all in one stage."""

    searched = ("fraction",)
    name = "ratio-7b"

    def __init__(self) -> None:
        rows = tables.RATIO_7B
        self._over = Interpolated([[_octaves(s), _octaves(g)] for s, g in rows], list(rows.values()))

    def truth(self, config: SweepConfig, params: Params) -> Scores:
        _only_multi_task(self, config)
        return _published(self._over([_octaves(_fraction(config, role)) for role in ("specialist", "general")]))


class Mixing(PaperSurface):
    """Scores over one fraction of every source, all in one stage; the mean where sources differ."""

    searched = ("fraction",)

    def __init__(self, size: str) -> None:
        self.name, self.size = f"mixing-{size}", size
        rows = tables.MIXING[size]
        self._over = Interpolated([[_octaves(f)] for f in rows], list(rows.values()))

    def truth(self, config: SweepConfig, params: Params) -> Scores:
        _only_multi_task(self, config)
        return _published(self._over([_octaves(fmean(source.fraction for source in config.sources.values()))]))


class Measured(Surface):
    """Scores of measured trials in a table: columns are dotted paths and benchmarks, as in trials.csv of a run."""

    def __init__(self, path: Path, config: SweepConfig) -> None:
        self.name = path.name
        self._rows = [row for row in _rows(path) if row.get("state", "complete") == "complete"]
        self._parameters = space.columns(config.search.space)
        self._benchmarks = list(config.evaluate.benchmarks)
        if not self._rows:
            raise SurfaceUnusable(f"{path} holds no complete trial")
        if self.unknown(config):
            return  # the caller says so
        self._levels = {
            path: sorted({_text(row[path]) for row in self._rows if _is_text(row[path])}) for path in self._parameters
        }
        scores = [[float(row[name]) for name in self._benchmarks] for row in self._rows]
        self._over = Interpolated([self._features(row) for row in self._rows], scores)

    def truth(self, config: SweepConfig, params: Params) -> Scores:
        return dict(zip(self._benchmarks, map(float, self._over(self._features(params))), strict=True))

    def unknown(self, config: SweepConfig) -> list[str]:
        return [name for name in [*self._parameters, *self._benchmarks] if name not in self._rows[0]]

    def _features(self, values: Mapping[str, Any]) -> list[float]:
        """A coordinate of 0 to 1 for each number, one of 0 or 1 for each text that stands in a column."""
        found: list[float] = []
        for path, parameter in self._parameters.items():
            value = values.get(path, "")
            levels = self._levels[path]
            found += [float(_text(value) == level) for level in levels]
            if len(levels) < len({_text(row[path]) for row in self._rows}):
                found.append(0.0 if _is_text(value) else _scaled(parameter, float(value)))
        return found


def open_surface(name: str, config: SweepConfig) -> Surface:
    """A shipped surface by name, or that of a table of measured trials. Raises SurfaceUnusable."""
    if name in SHIPPED:
        surface: Surface = SHIPPED[name]()
    elif Path(name).suffix in (".csv", ".parquet") and Path(name).is_file():
        surface = Measured(Path(name), config)
    else:
        raise SurfaceUnusable(f"--surface {name}: give one of {', '.join(SHIPPED)}, or a .csv or .parquet file of trials")
    unknown = surface.unknown(config)
    if unknown:
        raise SurfaceUnusable(f"--surface {name} says nothing about {', '.join(unknown)}; leave it out of search or evaluate")
    return surface


SHIPPED: Mapping[str, Any] = {
    "dmt-7b": partial(Dmt, "7b"),
    "dmt-13b": partial(Dmt, "13b"),
    "ratio-7b": Ratio,
    "mixing-7b": partial(Mixing, "7b"),
    "mixing-13b": partial(Mixing, "13b"),
    "mixing-33b": partial(Mixing, "33b"),
}


def _published(row: Sequence[float] | NDArray[np.float64]) -> Scores:
    gsm8k, humaneval, mt_bench = map(float, row)
    return {"gsm8k": gsm8k / 100, "humaneval": humaneval / 100, "mt_bench": mt_bench}


def _octaves(fraction: float) -> float:
    return log2(fraction + SMALLEST)


def _fraction(config: SweepConfig, role: str) -> float:
    return fmean(source.fraction for source in config.sources.values() if source.role == role)


def _only_multi_task(surface: Surface, config: SweepConfig) -> None:
    if config.strategy != "multi_task":
        raise SurfaceUnusable(f"surface {surface.name} is of strategy multi_task, not {config.strategy}")


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as lines:
                return [{name: _read(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]
        import pyarrow.parquet as parquet

        table: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return [{name: "" if cell is None else cell for name, cell in row.items()} for row in table]
    except (OSError, ValueError) as error:
        raise SurfaceUnusable(f"--surface {path} cannot be read: {error}") from error


def _read(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bool)


def _text(value: Any) -> str:
    return str(value).lower()


def _scaled(parameter: Any, value: float) -> float:
    """A number on 0 to 1 of its parameter, on a logarithmic scale where the parameter has one."""
    if isinstance(parameter, LogUniform):
        low, high = (log2(end + parameter.low) for end in (0.0 if parameter.include_zero else parameter.low, parameter.high))
        return (log2(max(value, 0.0) + parameter.low) - low) / (high - low)
    ends = getattr(parameter, "values", None) or (getattr(parameter, "low", 0.0), getattr(parameter, "high", 1.0))
    width = max(ends) - min(ends)
    return (value - min(ends)) / width if width else 0.0
