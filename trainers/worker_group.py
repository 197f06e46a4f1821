"""A Ray Train run whose controller lives in this process and needs no torch: a stage that waits is one small process.

Train puts the controller, a watcher for preempted nodes, a cleaner of placement groups and a manager of data sets into
actors of their own, for each run, and imports torch into two of them. Here the controller and the watcher run in the
process that calls `fit()`; there are no data sets; and the placement group carries the name of its owner, so that the
sweep can remove it when this process is killed. Written against Ray 2.60, whose internals it uses.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import placement_group

from trainers.job import OWNED

DISCONNECT_WITHIN_S = 5.0
TURN_S = 1.0


class StageTrainer(DataParallelTrainer):
    """Runs a loop on a worker group and blocks; when it returns or raises, the group is gone."""

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"  # it would be an actor
        held: list[Any] = []
        controller = type("Controller", (TrainController,), {"worker_group_cls": type("Held", (Workers,), {"held": held})})
        loop = asyncio.new_event_loop()
        try:
            run = controller(**parts)
            # Not asyncio.run, which would turn the interrupt of a cancelled task into a request that blocking calls never see.
            loop.run_until_complete(run.run())
            return run.get_result()
        finally:
            for group in held:
                group.let_go()
            loop.close()

    def _create_default_callbacks(self) -> list[Any]:
        unused = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)] + [WatchHere()]


class Workers(WorkerGroup):
    """A worker group without a controller's actor. `held` lists the groups of one run that may hold devices."""

    held: list["Workers"]

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:
        for earlier in self.held:  # a group that failed while it started is not taken down by Train
            earlier.let_go()
        asked = worker_group_context
        bundles = [asked.resources_per_worker] * asked.num_workers
        owner = f"{OWNED}{ray.get_runtime_context().get_worker_id()}"
        made = placement_group(bundles, asked.placement_strategy, owner, bundle_label_selector=asked.label_selector)
        self._placed = Placed(made)
        self.held[:] = [self]
        return self._placed

    def let_go(self) -> None:
        """Give the devices back, whatever runs on them. Harmless when it is done twice."""
        for callback in self._callbacks:
            if isinstance(callback, WatchHere):
                callback._stop_watcher()
        if self.has_started():
            ray.kill(self._worker_group_state.sync_actor)  # on this machine, and in no placement group
        self._placed.shutdown()

    def _init_train_context_on_workers(self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, Any]) -> None:
        told = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,  # asked for checkpoints in Train's registry alone
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ]
        ray.get(told)
        self._decorate_worker_log_file_paths(workers)


class Placed(DefaultPlacementGroupHandle):
    """A placement group that is waited for in turns, between which the interrupt of a cancelled task gets through."""

    def wait(self, timeout_seconds: float = 30) -> bool:
        until = time.monotonic() + timeout_seconds
        while not (ready := super().wait(min(timeout_seconds, TURN_S))) and time.monotonic() < until:
            pass
        return ready


class WatchHere(PreemptionCallback):
    """Train's watcher for nodes that are about to go, as a thread of this process."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._stop_watcher()
        nodes: dict[str, list[int]] = {}
        actors = {worker.distributed_context.world_rank: worker.actor for worker in worker_group.get_workers()}
        for worker in worker_group.get_workers():
            nodes.setdefault(worker.metadata.node_id, []).append(worker.distributed_context.world_rank)
        self._watcher = PreemptionWatcher(nodes, self._poll_interval_s, actors)

    def _stop_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher._stop_event.set()
        self._watcher = None


@dataclass
class TorchThere(BackendConfig):
    """What Train's TorchConfig sets up, with torch imported by the workers alone."""

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        return Processes

    @property
    def train_func_context(self) -> Any:
        return _device

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend, "timeout_s": self.timeout_s}


class Processes(Backend):
    """torch.distributed among the workers."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        about = (size, address, port, backend_config.backend, backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(rank, _connect, rank, *about) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        ending = worker_group.execute_async(_disconnect, len(worker_group) > 1)
        ray.wait(ending, num_returns=len(ending), timeout=DISCONNECT_WITHIN_S)


def _connect(rank: int, size: int, address: str, port: int, backend: str, timeout_s: int) -> None:
    from ray.train.torch import config

    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, size, "env://", timeout_s)


def _disconnect(destroy: bool) -> None:
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=destroy)


@contextmanager
def _device() -> Iterator[None]:
    from ray.train.torch.config import TorchConfigContextManager

    with TorchConfigContextManager():
        yield
