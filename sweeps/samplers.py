"""Who proposes trials: Optuna's samplers, each built anew for every proposal.

The seed is a hash of the search's own and the trial's number, so that what is drawn depends on the finished trials and on
nothing else: a study that was rebuilt proposes what the old one would have.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sweeps import space
from sweeps.config import SearchConfig
from sweeps.scales import Params
from sweeps.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

TRIES = 3
"""Draws of a sampler before chance decides, where it insists on points that have been tried."""
CHANCES = 20
MODELS = ("tpe", "gp")
STARTUP = 8
"""Trials before these samplers have seen enough to propose. They are the ends of the space, where the best mixture often
lies and which a sampler hits last, and a quasi-random sequence, which covers the rest better than chance does."""


def proposals(search: SearchConfig, finished: int, study: "Study", trial: "FrozenTrial") -> Iterator[Params]:
    """What a sampler wants for a trial, and wants instead when that is refused; at the end, chance."""
    if search.sampler in MODELS and finished < STARTUP:
        yield from space.ends(search.space)
    for attempt in range(TRIES):
        yield draw(sampler(search, finished, trial.number, attempt), study, trial, search.space)
    from optuna.samplers import RandomSampler

    for attempt in range(CHANCES):
        yield draw(RandomSampler(seed=_seed(search.seed, trial.number, TRIES + attempt)), study, trial, search.space)


def draw(sampler: "BaseSampler", study: "Study", trial: "FrozenTrial", searched: Space) -> Params:
    """The values that a sampler gives to a running trial, by Optuna's protocol for samplers."""
    together = sampler.infer_relative_search_space(study, trial)
    drawn = sampler.sample_relative(study, trial, together)

    def one(name: str, distribution: "BaseDistribution") -> Any:
        if name in drawn and together.get(name) == distribution:
            return drawn[name]
        return sampler.sample_independent(study, trial, name, distribution)

    return space.drawn(searched, one)


def leaves_notes(search: SearchConfig, finished: int, number: int) -> bool:
    """Whether the sampler of a proposal writes into the study: then it has to draw again when that is rebuilt."""
    return search.sampler in ("nsga2", "nsga3") or spreads(search, finished, number)


def spreads(search: SearchConfig, finished: int, number: int) -> bool:
    """Whether a proposal comes from the quasi-random sequence. What a model of noisy scores has not seen it does not believe,
    so TPE leaves every third trial to the sequence."""
    early = search.sampler in MODELS and finished < STARTUP
    return search.sampler == "qmc" or early or (search.sampler == "tpe" and number % 3 == 0)


def sampler(search: SearchConfig, finished: int, number: int, attempt: int = 0) -> "BaseSampler":
    """The sampler of one proposal, made after so many trials have finished without failing."""
    from optuna import samplers

    seed = _seed(search.seed, number, attempt)
    if spreads(search, finished, number):
        return _spread(search.seed)
    match search.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP)
        case "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=_population(search))
        case "nsga3":
            return samplers.NSGAIIISampler(seed=seed, population_size=_population(search))
    return samplers.RandomSampler(seed=seed)


def _spread(seed: int) -> "BaseSampler":
    """A scrambled Sobol sequence; one seed for all of it."""
    from optuna.samplers import QMCSampler

    return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False)


def _population(search: SearchConfig) -> int:
    """About five generations, of 8 to 50 trials."""
    return min(50, max(8, (search.trials or 0) // 5))


def _seed(*purpose: int) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, purpose)).encode()).digest()[:4], "big")
