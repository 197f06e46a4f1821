"""One parameter of the search space: its values as people read them, and the coordinates that a sampler works on.

A parameter has one column, a simplex one per path; both are pinned down by the coordinates, and these by the values, so that
a study can be rebuilt from what the ledger holds. Two scales differ from the values:

- `loguniform` with `include_zero` cannot be a logarithmic distribution, because Optuna refuses 0 there. The sampler works on
  log2(value + low), where 0 lies one octave below `low`.
- A `simplex` of n weights is n - 1 independent uniform coordinates: each breaks off a share of what the ones before left, by
  the quantile of Beta(1, weights left). That is the uniform distribution on the simplex, as is normalising n exponential
  draws, but it can be inverted and has no coordinate too many.
"""

from collections.abc import Mapping, Sequence
from math import log2
from typing import TYPE_CHECKING, Any

from sweeps.config import Choice, Grid, Int, LogUniform, Parameter, Simplex, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]


def columns(key: str, parameter: Parameter) -> tuple[str, ...]:
    """The dotted paths that a parameter sets."""
    return parameter.over if isinstance(parameter, Simplex) else (key,)


def middle(parameter: Parameter) -> tuple[Any, ...]:
    """A value in the middle of a parameter, on its own scale, for each of its columns."""
    match parameter:
        case Grid(values=values) | Choice(values=values):
            return (values[len(values) // 2],)
        case LogUniform(low=low, high=high):
            return ((low * high) ** 0.5,)
        case Int(low=low, high=high):
            return ((low + high) // 2,)
        case Uniform(low=low, high=high):
            return ((low + high) / 2,)
        case Simplex(over=over):
            return (1 / len(over),) * len(over)


def values(parameter: Parameter) -> Sequence[Any] | None:
    """All values of a parameter that has few of them, else None."""
    match parameter:
        case Grid(values=values) | Choice(values=values):
            return values
        case Int(low=low, high=high):
            return range(low, high + 1)
    return None


def fits(parameter: Parameter, given: Sequence[Any]) -> bool:
    """Whether a parameter can take the values given for its columns."""
    match parameter:
        case Grid(values=values) | Choice(values=values):
            return given[0] in values
        case Simplex():
            return all(_is_number(v) and v >= 0 for v in given) and abs(sum(given) - 1) < 1e-9
        case Int():
            return isinstance(given[0], int) and not isinstance(given[0], bool) and parameter.low <= given[0] <= parameter.high
        case LogUniform(include_zero=True) if given[0] == 0:
            return True
    return _is_number(given[0]) and parameter.low <= given[0] <= parameter.high


def coordinates(key: str, parameter: Parameter) -> "dict[str, BaseDistribution]":
    """What the sampler draws, by name."""
    from optuna.distributions import FloatDistribution

    match parameter:
        case LogUniform(low=low, high=high, include_zero=True):
            return {key: FloatDistribution(log2(low), log2(high + low))}
        case Simplex(over=over):
            return {f"{key}.{i}": FloatDistribution(0, 1) for i in range(len(over) - 1)}
    return shown(key, parameter)


def shown(key: str, parameter: Parameter) -> "dict[str, BaseDistribution]":
    """The distributions of the study that people look at: values as they are, by column."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter:
        case Grid(values=values) if all(map(_is_number, values)):
            return {key: FloatDistribution(min(values), max(values))}
        case Grid(values=values) | Choice(values=values):
            return {key: CategoricalDistribution(values)}
        case Int(low=low, high=high):
            return {key: IntDistribution(low, high)}
        case LogUniform(low=low, high=high, include_zero=zero):
            return {key: FloatDistribution(0, high) if zero else FloatDistribution(low, high, log=True)}
        case Uniform(low=low, high=high):
            return {key: FloatDistribution(low, high)}
        case Simplex(over=over):
            return {path: FloatDistribution(0, 1) for path in over}


def position(key: str, parameter: Parameter, params: Mapping[str, Any]) -> dict[str, Any]:
    """The coordinates of a trial's values, by name."""
    match parameter:
        case LogUniform(low=low, include_zero=True):
            return {key: log2(params[key] + low)}
        case Simplex(over=over):
            return {f"{key}.{i}": u for i, u in enumerate(_broken([params[path] for path in over]))}
    return {key: params[key]}


def at(key: str, parameter: Parameter, drawn: Mapping[str, Any]) -> Params:
    """The values that coordinates stand for, by column. Between 0 and `low` they are `low`, since 0 has been tried."""
    match parameter:
        case LogUniform(low=low, high=high, include_zero=True):
            return {key: min(max(2 ** drawn[key] - low, low), high)}
        case Simplex(over=over):
            return dict(zip(over, _weights([drawn[f"{key}.{i}"] for i in range(len(over) - 1)]), strict=True))
    return {key: drawn[key]}


def _weights(coordinates: Sequence[float]) -> list[float]:
    weights, rest = [], 1.0
    for left, u in zip(range(len(coordinates), 0, -1), coordinates, strict=True):
        weights.append(rest * (1 - (1 - u) ** (1 / left)))
        rest -= weights[-1]
    return [*weights, rest]


def _broken(weights: Sequence[float]) -> list[float]:
    coordinates, rest = [], 1.0
    for left, weight in zip(range(len(weights) - 1, 0, -1), weights, strict=False):
        share = min(weight / rest, 1.0) if rest > 0 else 0.0
        coordinates.append(1 - (1 - share) ** left)
        rest -= weight
    return coordinates


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
