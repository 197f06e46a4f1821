"""Configuration of a model, of a training stage and of the machines it runs on."""

from typing import Annotated, Any, Literal

from pydantic import Field

from data.config import Frozen
from data.fraction import Fraction


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
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Only for code that you have read."""


class DeepSpeedConfig(Frozen):
    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage: what is sharded over the workers. It does not change the result."""


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
    lora: None = None
    """Reserved for adapters; only null (full fine-tuning) for now."""


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
    retries: int = Field(default=1, ge=0)
    """Times that a failed stage or evaluation is tried again; a lost node does not count."""
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
