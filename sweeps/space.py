"""The search space of a sweep: which parameters a trial has, its starting points, and its finite grid.

A parameter with `when` exists only in trials where other parameters have the values named there; `k` only where the strategy
is dmt. `params` of a trial holds the values of the parameters that it has, by column, in the order of the space.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from sweeps import scales
from sweeps.config import Int, LogUniform, Parameter, Uniform
from sweeps.scales import Params

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = Mapping[str, Parameter]
Distributions = Mapping[str, "BaseDistribution"]
PAPER_K = (0.0, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0)
"""The values of k in the tables of arXiv 2310.05492."""
FINITE = 10_000
"""A space of at most so many points is searched until all are tried."""


def columns(space: Space) -> dict[str, Parameter]:
    """The dotted paths that a space sets, in order, each with its parameter."""
    return {path: parameter for key, parameter in space.items() for path in scales.columns(key, parameter)}


def conditions(space: Space, key: str) -> dict[str, tuple[Any, ...]]:
    """The values that other parameters must have for this one to exist."""
    automatic = {"strategy": ("dmt",)} if key == "k" and "strategy" in space else {}
    return automatic | dict(space[key].when)


def ordered(space: Space) -> list[str]:
    """The keys, each after those that its conditions name. Raises ValueError where they name each other in a circle."""
    order: list[str] = []
    while len(order) < len(space):
        ready = [key for key in space if key not in order and set(conditions(space, key)) <= set(order)]
        if not ready:
            left = ", ".join(key for key in space if key not in order)
            raise ValueError(f"the conditions of {left} depend on each other or on what is not searched")
        order += ready
    return order


def exists(space: Space, key: str, params: Mapping[str, Any]) -> bool:
    """Whether a trial with these values has this parameter."""
    return all(name in params and params[name] in allowed for name, allowed in conditions(space, key).items())


def present(space: Space, params: Mapping[str, Any]) -> Iterator[tuple[str, Parameter]]:
    """The parameters that a trial has."""
    for key in ordered(space):
        if exists(space, key, params):
            yield key, space[key]


def chosen(space: Space, choose: Callable[[str, Parameter], Params]) -> Params:
    """The params of a trial whose values are chosen one parameter after the other."""
    params: Params = {}
    for key in ordered(space):
        if exists(space, key, params):
            params |= choose(key, space[key])
    return {path: params[path] for path in columns(space) if path in params}


def drawn(space: Space, draw: "Callable[[str, BaseDistribution], Any]") -> Params:
    """The params at coordinates that are drawn one after the other."""
    return chosen(space, lambda key, p: scales.at(key, p, {n: draw(n, d) for n, d in scales.coordinates(key, p).items()}))


def position(space: Space, params: Params) -> tuple[dict[str, Any], "dict[str, BaseDistribution]"]:
    """A trial's coordinates and their distributions, as the sampler sees it."""
    there = list(present(space, params))
    where = {name: value for key, p in there for name, value in scales.position(key, p, params).items()}
    return where, {name: d for key, p in there for name, d in scales.coordinates(key, p).items()}


def shown(space: Space, params: Params) -> "dict[str, BaseDistribution]":
    """The distributions of a trial's values in the study that people look at."""
    return {path: d for key, p in present(space, params) for path, d in scales.shown(key, p).items()}


def complete(space: Space, given: Mapping[str, Any]) -> Params:
    """The values given, and the middle of every other parameter; conditions of what is given are met where they can be."""
    needed = {n: allowed[0] for key in space if key in given for n, allowed in conditions(space, key).items()}

    def choose(key: str, parameter: Parameter) -> Params:
        paths = scales.columns(key, parameter)
        if all(path in given for path in paths):
            return {path: given[path] for path in paths}
        values = (needed[key],) if key in needed else scales.middle(parameter)
        return dict(zip(paths, values, strict=True))

    return chosen(space, choose)


def start_points(space: Space, wanted: Sequence[Mapping[str, Any]] = ()) -> list[Params]:
    """Points to try before the sampler is asked: 0 for each parameter that includes it, then those wanted, none twice."""
    zeros = {key: 0.0 for key, parameter in space.items() if isinstance(parameter, LogUniform) and parameter.include_zero}
    points = [complete(space, given) for given in ([zeros] if zeros else []) + [dict(point) for point in wanted]]
    return [point for i, point in enumerate(points) if point not in points[:i]]


def ends(space: Space) -> list[Params]:
    """The corners of a space of one or two ranges, of a larger one all at their high and all at their low ends."""
    ranges = {key: (p.high, p.low) for key, p in space.items() if isinstance(p, LogUniform | Uniform | Int)}
    corners = list(product(*ranges.values())) if len(ranges) <= 2 else list(zip(*ranges.values(), strict=True))
    return [complete(space, dict(zip(ranges, corner, strict=True))) for corner in corners]


def misfits(space: Space, point: Mapping[str, Any]) -> list[str]:
    """The columns of a point that are no columns of the space, or hold what their parameter cannot take."""
    known = columns(space)
    wrong = [path for path in point if path not in known]
    for key, parameter in space.items():
        paths = scales.columns(key, parameter)
        given = [path for path in paths if path in point]
        if given and (len(given) < len(paths) or not scales.fits(parameter, [point[path] for path in paths])):
            wrong += given
    return wrong


def size(space: Space) -> int | None:
    """How many combinations of values a finite space has at most, else None."""
    counts = [scales.values(parameter) for parameter in space.values()]
    points = prod(len(values) for values in counts if values is not None)
    return points if None not in counts and points <= FINITE else None


def grid(space: Space) -> list[Params]:
    """All points of a finite space; the last parameter changes fastest."""
    lists = [scales.values(parameter) or () for parameter in space.values()]
    combinations = (dict(zip(space, point, strict=True)) for point in product(*lists))
    points = [chosen(space, lambda key, _, p=point: {key: p[key]}) for point in combinations]  # type: ignore[misc]
    return list({tuple(point.items()): point for point in points}.values())
