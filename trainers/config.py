"""Configuration of a model, of a training stage and of the machines it runs on."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from data.config import Frozen
from data.fraction import Fraction
from trainers import deepspeed_json


class ModelConfig(Frozen):
    path: str | None = Field(default=None, min_length=1)
    """Folder or Hugging Face hub id of the base model, or `toy` for the embedded tiny LLaMA."""
    init_from_config: dict[str, Any] | None = None
    """Start from random weights instead: the values of a transformers config, `model_type` among them."""
    tokenizer: str | None = None
    """With init_from_config: `bytes`, `characters`, or a folder or hub id to take the tokenizer from."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights of `toy` and init_from_config."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations."""
    attention: Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"] | None = None
    """Kernel of the attention layers, null for the model's own choice; only speed and memory depend on it."""
    add_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Special tokens that the base model's tokenizer lacks; their embeddings start as the mean of all others."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Only for code that you have read."""

    @model_validator(mode="after")
    def _flash_has_no_fp32(self) -> Self:
        if self.attention and self.attention.startswith("flash") and self.dtype == "fp32":
            raise ValueError(f"attention: {self.attention} computes in 16 bits only; set dtype: bf16")
        return self


class DeepSpeedConfig(Frozen):
    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage: what is sharded over the workers. It does not change the result."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the memory of the CPU; needs zero 1 or more."""
    offload_parameters: bool = False
    """Keep the weights in the memory of the CPU; needs zero 3."""
    config: Annotated[
        dict[str, Any] | None, BeforeValidator(deepspeed_json.read), AfterValidator(deepspeed_json.refuse_ours)
    ] = None
    """A DeepSpeed JSON of your own, as a path or its values, for everything that has no field here."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        offloaded = {"optimizer": self.offload_optimizer, "param": self.offload_parameters}
        deepspeed_json.refuse_conflicts(self.config, self.zero, offloaded)
        return self


class LoraConfig(Frozen):
    rank: int = Field(default=16, ge=1)
    """Rank of the update of a weight matrix."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / rank (with rslora by alpha / sqrt(rank))."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before an adapter. Above 0 the result depends a little on packing, rows and workers."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Names of the modules that are adapted, or all-linear: every linear layer but the head."""
    dora: bool = False
    """Learn magnitude and direction of the weights apart (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""
    quantize: Literal["nf4"] | None = None
    """Hold the frozen weights in 4 bits (QLoRA, arXiv 2305.14314); needs bitsandbytes."""
    parent: Literal["continue", "merge"] = "continue"
    """Where the parent stage ended with an adapter: train the same one on, or merge it and begin a new one."""


class TrainConfig(Frozen):
    epochs: int = Field(default=3, ge=1)
    """Passes over the mixture."""
    lr: float = Field(default=2e-5, gt=0, le=1)
    """Peak learning rate."""
    batch_size: int = Field(default=128, ge=1)
    """Examples per optimiser step, whatever the number of workers."""
    max_length: int = Field(default=2048, ge=8)
    """Tokens an example may have, and the length of a packed row."""
    seed: int = Field(default=0, ge=0)
    """Seed of the subsets and of the order of examples."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    rows: int = Field(default=8, ge=1)
    """Packed rows per worker and forward pass; only memory and speed depend on it."""
    packing: bool = True
    """Put several examples into one row, without seeing each other; false pads instead. Only speed depends on it."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Settings of the DeepSpeed engine."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Write a resume point every so many optimiser steps."""
    checkpoint_minutes: float | None = Field(default=10.0, gt=0)
    """Write a resume point every so many minutes; null for none."""
    bad_steps: int = Field(default=3, ge=1)
    """So many steps in a row whose loss or gradient is not finite end the stage; fewer are left out, and noted."""
    collective_timeout: float = Field(default=1800.0, gt=0)
    """Seconds that workers wait for one that does not answer, before the attempt ends and is taken up again."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""
    lora: LoraConfig | None = None
    """Train an adapter (LoRA, DoRA, QLoRA) instead of all weights; null trains all weights."""

    @model_validator(mode="after")
    def _quantised_weights_are_whole(self) -> Self:
        if self.lora and self.lora.quantize and self.deepspeed.zero == 3:
            raise ValueError("lora.quantize: 4-bit weights cannot be sharded; set deepspeed.zero to 2 or below")
        return self


class StageConfig(Frozen):
    mixture: dict[str, Annotated[Fraction, Field(ge=0)]] = Field(min_length=1)
    """Fraction of each source, by name; a source that is not named is not used."""
    train: dict[str, Any] = {}
    """Fields of `train` that differ in this stage."""


class PoolConfig(Frozen):
    workers: int | None = Field(default=None, ge=0)
    """Ray Train workers per stage in this pool; null is `resources.workers`."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of a worker in this pool; null is `resources.gpus_per_worker`."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPUs of a worker in this pool; null is `resources.cpus_per_worker`."""
    accelerator: str | None = Field(default=None, min_length=1)
    """Ray's accelerator type of the nodes of this pool, for example A100; null is any."""
    slots: int | None = Field(default=None, ge=1)
    """Tasks at once, for a cluster that grows on demand; null is what the present nodes have room for."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Tokens that one stage trains per second, for the plan while nothing has been measured."""


PoolName = Literal["train", "evaluate"]


class ResourcesConfig(Frozen):
    workers: int = Field(default=1, ge=0)
    """Ray Train workers per stage; 0 trains inside the stage's own task."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of a worker."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of a worker."""
    accelerator: str | None = Field(default=None, min_length=1)
    """Ray's accelerator type of the workers' nodes, for example A100; null is any."""
    pools: dict[PoolName, PoolConfig] = {}
    """What is different for stages (`train`) and for evaluations (`evaluate`)."""
    price: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Money per device-hour, by accelerator type, or by `gpu` or `cpu`."""
    retries: int = Field(default=2, ge=0)
    """Times that a failed stage or evaluation is tried again; an attempt that got further and a lost node do not count."""
    wait_minutes: float | None = Field(default=None, ge=0)
    """Longest wait for devices that the cluster lacks. Null has no end, but refuses a cluster that lacks them at the start."""

    def pool(self, name: PoolName) -> "ResourcesConfig":
        """These resources as one pool sees them."""
        own = self.pools.get(name, PoolConfig()).model_dump(exclude_none=True, exclude={"slots", "tokens_per_second"})
        return self.model_copy(update=own)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that a stage trains per second, where the user wrote it."""
        return self.pools["train"].tokens_per_second if "train" in self.pools else None

    @field_validator("gpus_per_worker")
    @classmethod
    def _gpu_of_its_own(cls, gpus: float, info: ValidationInfo) -> float:
        """NCCL refuses two workers on one GPU."""
        if 0 < gpus < 1 and info.data.get("workers", 1) > 1:
            raise ValueError(
                f"{info.data['workers']} workers cannot share GPUs; give each a whole one, or set workers to 1 or 0"
            )
        return gpus

    @property
    def devices(self) -> float:
        """Accelerators that one stage holds; CPUs where there are none."""
        each = self.gpus_per_worker or self.cpus_per_worker
        return each * max(self.workers, 1)

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        return "gpu" if self.gpus_per_worker else "cpu"

    @property
    def accelerator_name(self) -> str:
        """What a device is called in prices and in the records of stages."""
        return self.accelerator or self.kind

    @property
    def device_hour(self) -> float:
        """The price of a device for an hour, 0 where none is written."""
        return self.price.get(self.accelerator_name, self.price.get(self.kind, 0.0))
