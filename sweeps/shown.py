"""The study that people open: plain values and the reasons of failures, in SQLite or in a storage of the user's own.

It is a cache. It is written anew whenever a run starts, and never read.
"""

import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.config import SearchConfig
from sweeps.scales import Params

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import Trial, TrialState

OWNER = "fulcrum_run"
"""Attribute of a study that says which run writes it."""


class StorageUnusable(ValueError):
    """The storage that `search.storage_env` names cannot be opened, or its study is not ours."""


class ShownStudy:
    """One study in a storage. Raises StorageUnusable where a study of that name belongs to something else."""

    def __init__(self, storage: "BaseStorage", name: str, owner: str, objectives: Sequence[str]) -> None:
        optuna = quiet()
        if name in optuna.get_all_study_names(storage):
            theirs = optuna.load_study(study_name=name, storage=storage).user_attrs.get(OWNER)
            if theirs != owner:
                raise StorageUnusable(f"the storage holds a study {name!r} of {theirs or 'another program'}; change `name`")
            optuna.delete_study(study_name=name, storage=storage)
        self._study = optuna.create_study(
            study_name=name, storage=storage, directions=["maximize"] * len(objectives), pruner=optuna.pruners.NopPruner()
        )
        self._study.set_metric_names(list(objectives))
        self._study.set_user_attr(OWNER, owner)
        self._trials: dict[int, Trial] = {}

    def put(self, number: int, params: Params, distributions: Mapping[str, Any]) -> None:
        """Add a running trial."""
        from optuna.samplers import PartialFixedSampler, RandomSampler

        self._study.sampler = PartialFixedSampler(params, RandomSampler(seed=0))
        trial = self._study.ask(dict(distributions))
        if trial.number != number:
            raise StorageUnusable(f"another program added a trial to the study {self._study.study_name!r}; change `name`")
        self._trials[number] = trial

    def tell(
        self,
        number: int,
        objectives: Sequence[float] | None,
        state: "TrialState",
        constraints: Mapping[str, float],
        notes: Mapping[str, Any],
    ) -> None:
        """End a trial."""
        trial = self._trials.pop(number)
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        for name, value in notes.items():
            trial.set_user_attr(name, value[:2000] if isinstance(value, str) else value)
        self._study.tell(trial, list(objectives) if objectives else None, state)


def quiet() -> Any:
    """Optuna, without its log lines and its warnings about what is new in it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def of(search: SearchConfig, path: Path) -> "BaseStorage":
    """The storage that a search names, else a file."""
    return _own(search.storage_env) if search.storage_env else _file(path)


def _own(variable: str) -> "BaseStorage":
    """The storage at the URL in an environment variable. Neither the URL nor an error of its driver is told to anyone:
    both may hold a password. Raises StorageUnusable."""
    from optuna.storages import RDBStorage

    url = os.environ.get(variable)
    if not url:
        raise StorageUnusable(f"search.storage_env = {variable!r}: the environment has no such variable; set it to a URL")
    try:
        return RDBStorage(url)
    except Exception as error:
        told = f"search.storage_env: the storage in ${variable} cannot be opened ({type(error).__name__}); check the URL"
    raise StorageUnusable(told)


def _file(path: Path) -> "BaseStorage":
    """A new SQLite file. It is made again from the ledger after a crash, so nothing waits for the disk."""
    from optuna.storages import RDBStorage

    path.unlink(missing_ok=True)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})
