"""The DeepSpeed engine of a stage: settings, process group and full weights."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainers import deepspeed_json
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig


def join_workers(gpu: bool, timeout_s: float) -> None:
    """Join the process group that a launcher has made, or make one: of this process alone where there is no launcher.

    A worker that waits longer than `timeout_s` for the others fails.

    The group of one process needs no port, so nothing can take it away. DeepSpeed's shared-memory collective for CPUs is
    declared incompatible first: it would be compiled for minutes, and a killed build hangs the next run.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    import deepspeed
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
    backend = "nccl" if gpu else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    if not dist.is_initialized() and "MASTER_ADDR" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=timedelta(seconds=timeout_s))


def leave_workers() -> None:
    """Forget the process group, so that the process can train another stage."""
    import deepspeed

    deepspeed.comm.destroy_process_group()


def start(model: torch.nn.Module, train: TrainConfig, precision: ModelConfig, workers: int, universal: bool = False) -> Any:
    """A DeepSpeed engine around a model. Gradient accumulation is left to the loop.

    `universal` says that it will be given a universal checkpoint.
    """
    import deepspeed

    ours = settings(train, precision, workers) | ({"checkpoint": {"load_universal": True}} if universal else {})
    parameters = [p for p in model.parameters() if p.requires_grad]
    config = deepspeed_json.merged(ours, train.deepspeed.config)
    engine = deepspeed.initialize(model=model, model_parameters=parameters, config=config)[0]
    _limit_waiting(train.collective_timeout)
    return engine


def _limit_waiting(timeout_s: float) -> None:
    """Give every process group the time-out. DeepSpeed makes groups of its own, which would wait for half an hour."""
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)


def settings(train: TrainConfig, precision: ModelConfig, workers: int) -> dict[str, Any]:
    """What fulcrum tells DeepSpeed."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": workers,
        "zero_optimization": {"stage": train.deepspeed.zero} | _offloads(train.deepspeed),
        "zero_force_ds_cpu_optimizer": False,  # it, too, would be compiled
        "bf16": {"enabled": precision.dtype == "bf16"},
        "gradient_clipping": train.clip,
        # torch's own AdamW: DeepSpeed's would be compiled on the first use
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": train.lr, "weight_decay": train.weight_decay, "torch_adam": True, "fused": True},
        },
        "steps_per_print": 10**9,
    }


def _offloads(config: DeepSpeedConfig) -> dict[str, Any]:
    wanted = {"offload_optimizer": config.offload_optimizer, "offload_param": config.offload_parameters}
    return {name: {"device": "cpu", "pin_memory": torch.cuda.is_available()} for name, asked in wanted.items() if asked}


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """All weights of the model on the first worker, {} on the others; of an adapter's base not all are gathered.

    Every worker must call it.
    """
    if engine.zero_optimization_stage() == 3:
        frozen = any(not p.requires_grad for p in engine.module.parameters())
        return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=frozen) or {}
    return dict(engine.module.state_dict()) if dist.get_rank() == 0 else {}
