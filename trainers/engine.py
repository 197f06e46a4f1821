"""The DeepSpeed engine of a stage: settings, process group and full weights."""

import os
from typing import Any

import torch
import torch.distributed as dist

from trainers.config import ModelConfig, TrainConfig


def join_workers(gpu: bool) -> None:
    """Join the process group that a launcher has made, or make one of this process alone.

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
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def leave_workers() -> None:
    """Forget the process group, so that the process can train another stage."""
    import deepspeed

    deepspeed.comm.destroy_process_group()


def start(model: torch.nn.Module, train: TrainConfig, precision: ModelConfig, workers: int) -> Any:
    """A DeepSpeed engine around a model. Gradient accumulation is left to the loop."""
    import deepspeed

    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": workers,
        "zero_optimization": {"stage": train.deepspeed.zero},
        "bf16": {"enabled": precision.dtype == "bf16"},
        "gradient_clipping": train.clip,
        # torch's own AdamW: DeepSpeed's would be compiled on the first use
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": train.lr, "weight_decay": train.weight_decay, "torch_adam": True, "fused": True},
        },
        "steps_per_print": 10**9,
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    return deepspeed.initialize(model=model, model_parameters=parameters, config=settings)[0]


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """All weights of the model on the first worker, {} on the others; of an adapter's base not all are gathered.

    Every worker must call it.
    """
    if engine.zero_optimization_stage() == 3:
        frozen = any(not p.requires_grad for p in engine.module.parameters())
        return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=frozen) or {}
    return dict(engine.module.state_dict()) if dist.get_rank() == 0 else {}
