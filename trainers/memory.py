"""How many rows a stage takes at a time, once a worker has run out of memory.

The step at which that happened is not repeated in place: ZeRO's buckets hold half of its gradients and the other workers
wait for the rest. The attempt ends on all workers, the store remembers what to try next, and the next attempt takes it from
there, whoever starts it. Nobody has to hear of the failure for that. The examples of a step stay the same.
"""

from data.store import Record, Store
from trainers.failures import NothingFits, OutOfMemory
from trainers.job import StageJob

KIND = "rows"


def allowed(job: StageJob, store: Store) -> Record | None:
    """What the store remembers: `rows` for the next attempt, `tried` and `step` of the last; None for no trouble yet."""
    return store.record(KIND, job.key)


def forget(job: StageJob, store: Store) -> None:
    """The stage is published: nobody will try again."""
    store.delete(KIND, job.key)


def halve(job: StageJob, store: Store, tried: int, step: int) -> RuntimeError:
    """Remember that `tried` rows were too many at a step (from 1); the error to raise."""
    where = f"out of memory at step {step} with {tried} row{'s' * (tried > 1)} of {job.train.max_length} tokens"
    if tried == 1:
        return NothingFits(f"{where}; lower train.max_length, raise train.deepspeed.zero or offload")
    store.publish(KIND, job.key, store.attempt(), {"rows": tried // 2, "tried": tried, "step": step}, {})
    return OutOfMemory(f"{where}; the next attempt takes {tried // 2}")


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has an error for it; its CPU allocator has only a text."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: " in str(error)
