"""All checks of a sweep's configuration."""

from collections.abc import Callable, Iterable

from sweeps.checks import evaluation, inputs, recipe, run, search
from sweeps.checks.problem import Problem, Values

Check = Callable[[Values], Iterable[Problem]]
OF_INPUTS: tuple[Check, ...] = (
    inputs.model_path,
    inputs.source_paths,
    evaluation.benchmark_paths,
    evaluation.engine,
    evaluation.confirm_paths,
)
"""Those that look for files; a simulation reads none."""
OF_VALUES: tuple[Check, ...] = (
    inputs.model,
    inputs.weights,
    recipe.strategy,
    recipe.stages,
    recipe.workers,
    recipe.four_bits,
    evaluation.server,
    evaluation.benchmarks,
    search.find,
    run.storage,
    run.tracking,
    run.budget,
)


def find(values: Values, files: bool = True) -> list[Problem]:
    """All problems; without those of files that are not there, where nothing will be read."""
    return [problem for check in (*(OF_INPUTS if files else ()), *OF_VALUES) for problem in check(values)]
