"""The search space: each parameter as Optuna sees it, and as the sampler works on it.

A `loguniform` parameter with `include_zero` cannot be a logarithmic distribution, because Optuna refuses 0 there. The study
that people look at holds its plain values; the sampler works on log2(value + low), where 0 is one octave below `low`.
"""

from collections.abc import Mapping
from itertools import product
from math import log2
from typing import TYPE_CHECKING, Any

from sweeps.config import Choice, Grid, Int, LogUniform, Parameter, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
Space = Mapping[str, Parameter]


def grid(space: Space) -> list[Params]:
    """All combinations of the values of a space of grids and choices; the last parameter changes fastest."""
    values = [parameter.values for parameter in space.values() if isinstance(parameter, Grid | Choice)]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def start_points(space: Space) -> list[Params]:
    """Points to try before the sampler is asked: 0 for each parameter that includes it, the middle of the others."""
    zeros = {name for name, parameter in space.items() if isinstance(parameter, LogUniform) and parameter.include_zero}
    return [{name: 0.0 if name in zeros else middle(parameter) for name, parameter in space.items()}] if zeros else []


def middle(parameter: Parameter) -> Any:
    """A value in the middle of a parameter, on its own scale."""
    match parameter:
        case Grid(values=values) | Choice(values=values):
            return values[len(values) // 2]
        case LogUniform(low=low, high=high):
            return (low * high) ** 0.5
        case Int(low=low, high=high):
            return (low + high) // 2
        case Uniform(low=low, high=high):
            return (low + high) / 2


def shown(parameter: Parameter) -> "BaseDistribution":
    """The distribution of the study that people look at: values as they are."""
    return _distribution(parameter, searched=False)


def searched(parameter: Parameter) -> "BaseDistribution":
    """The distribution that the sampler draws from."""
    return _distribution(parameter, searched=True)


def to_search(parameter: Parameter, value: Any) -> Any:
    """A value on the sampler's scale."""
    match parameter:
        case LogUniform(low=low, include_zero=True):
            return log2(value + low)
    return value


def from_search(parameter: Parameter, drawn: Any) -> Any:
    """The value that the sampler's draw stands for; between 0 and low it is low, since 0 has been tried."""
    match parameter:
        case LogUniform(low=low, high=high, include_zero=True):
            return min(max(2**drawn - low, low), high)
    return drawn


def _distribution(parameter: Parameter, searched: bool) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter:
        case Grid(values=values) | Choice(values=values):
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if isinstance(parameter, Grid) and len(numbers) == len(values):
                return FloatDistribution(min(numbers), max(numbers))
            return CategoricalDistribution(values)
        case Uniform(low=low, high=high):
            return FloatDistribution(low, high)
        case Int(low=low, high=high):
            return IntDistribution(low, high)
        case LogUniform(low=low, high=high, include_zero=False):
            return FloatDistribution(low, high, log=True)
        case LogUniform(low=low, high=high):
            return FloatDistribution(log2(low), log2(high + low)) if searched else FloatDistribution(0, high)
