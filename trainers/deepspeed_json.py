"""The user's DeepSpeed JSON: what fulcrum sets is refused in it, and what it may change of the result enters the stage's key.

The word "auto", which files written for transformers hold, stands for a value that fulcrum fills in.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]
FIELDS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.rows",
    "gradient_accumulation_steps": "train.batch_size, from which it is derived",
    "gradient_clipping": "train.clip",
    "optimizer": "train.lr and train.weight_decay",
    "scheduler": "train.schedule and train.warmup",
    "bf16.enabled": "model.dtype",
    "fp16.enabled": "model.dtype, fp32 or bf16",
    "amp.enabled": "model.dtype, fp32 or bf16",
    "checkpoint.load_universal": "the resume point that is found",
    "steps_per_print": "the progress line",
}
"""Keys that fulcrum sets, and the field that says what they are."""

OFFLOADED = {"optimizer": "optimizer's state", "param": "weights"}

LAYOUT = {
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "aio", "activation_checkpointing",
    "checkpoint", "comms_logger", "flops_profiler", "monitor_config", "tensorboard", "wandb", "csv_monitor",
    "wall_clock_breakdown", "memory_breakdown", "dump_state", "disable_allgather", "steps_per_print", "elasticity",
    "autotuning", "timers", "nebula", "dataloader_drop_last", "use_node_local_storage", "compile",
}  # fmt: skip
"""Keys that say where numbers lie, when they travel and what is printed. Any other is taken to change what is learned."""
NOT_LAYOUT = ("zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients", "zeropp_loco_param")
"""Keys of `zero_optimization` that round what travels between workers."""


def read(value: Any) -> Any:
    """The values of a JSON at a path; anything else as it is. Raises ValueError for what cannot be read."""
    if not isinstance(value, str):
        return value
    try:
        values = json.loads(Path(value).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; give the path of a DeepSpeed JSON") from error
    if not isinstance(values, dict):
        raise ValueError("holds no JSON object; give the path of a DeepSpeed JSON")
    return values


def refuse_ours(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Raises ValueError that names each key which fulcrum sets, with the field to use instead."""
    given = {key: _at(values, key) for key in FIELDS}
    never = [key for key in ("fp16.enabled", "amp.enabled") if given[key] is False]  # says what holds anyway
    wrong = [
        f"{key} = {value!r} conflicts with {FIELDS[key]}"
        for key, value in given.items()
        if value not in (None, "auto") and key not in never
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; remove {'it' if len(wrong) == 1 else 'them'} from the DeepSpeed JSON")
    return values


def refuse_conflicts(values: Values | None, zero: int, offloaded: Mapping[str, bool]) -> None:
    """Raises ValueError where the JSON and the fields beside it disagree, or ask for an offload that the stage does not have.

    `offloaded` is what the fields say of `optimizer` and `param`, by the name that DeepSpeed gives them.
    """
    stage = _at(values, "zero_optimization.stage")
    if stage not in (None, "auto", zero):
        raise ValueError(f"config has zero_optimization.stage = {stage!r}, zero is {zero}; give them the same value")
    for name, needed in (("optimizer", 1), ("param", 3)):
        key = f"zero_optimization.offload_{name}.device"
        device = _at(values, key)
        if offloaded[name] and device not in (None, "auto", "cpu"):
            raise ValueError(f"config has {key} = {device!r}, the field beside it asks for cpu; leave one of them out")
        if (offloaded[name] or device not in (None, "auto", "none")) and zero < needed:
            raise ValueError(f"offloading the {OFFLOADED[name]} needs zero {needed}{' or more' * (needed < 3)}, zero is {zero}")


def mathematics(values: Values | None) -> dict[str, Any]:
    """The part of the JSON that may change what is learned."""
    given = _filled(values or {})
    numerics = {key: value for key, value in given.items() if key not in LAYOUT}
    rounded = {key: value for key, value in given.get("zero_optimization", {}).items() if key in NOT_LAYOUT and value}
    return numerics | ({"zero_optimization": rounded} if rounded else {})


def merged(ours: Values, values: Values | None) -> dict[str, Any]:
    """Our settings with the user's among them, mapping by mapping."""
    both = dict(ours)
    for key, value in _filled(values or {}).items():
        both[key] = merged(both.get(key, {}), value) if isinstance(value, Mapping) else value
    return both


def _filled(values: Values) -> dict[str, Any]:
    """Without what is left to fulcrum, and without mappings that are empty then."""
    return dict(_stated(values))


def _stated(values: Values) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        inner = _filled(value) if isinstance(value, Mapping) else value
        if inner != "auto" and inner != {}:
            yield key, inner


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
