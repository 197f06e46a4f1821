"""What can be wrong with where a run lies and what it may cost."""

from collections.abc import Iterator

from sweeps.checks.problem import Problem, Values, is_file
from sweeps.dotted import mapping_at


def storage(values: Values) -> Iterator[Problem]:
    storage = values.get("storage", "runs")
    if values.get("name") == "store":
        yield Problem("name", "store", "is the folder of the artefacts that all runs share; give another name")
    if isinstance(storage, str) and is_file(storage.removeprefix("file://")):
        yield Problem("storage", storage, "is a file; give a folder")
    if not isinstance(storage, str) or "://" not in storage:
        return
    if not storage.startswith(("file:///", "s3://", "gs://")):
        yield Problem("storage", storage, "give a local path, file:///shared/path, s3://bucket/path or gs://bucket/path")
    elif set("?@") & set(storage):
        yield Problem("storage", storage, "give the bucket and a path alone; keys and endpoints come from the environment")


def tracking(values: Values) -> Iterator[Problem]:
    storage = str(values.get("storage", "runs")).removeprefix("file://")
    if values.get("tracking") and "://" in storage:
        yield Problem("tracking", values["tracking"], "is written to a disk; give a storage on one, or leave it out")


def budget(values: Values) -> Iterator[Problem]:
    budget, resources = mapping_at(values, "budget"), mapping_at(values, "resources")
    if budget.get("usd") is not None and not resources.get("price"):
        yield Problem(
            "budget.usd", budget["usd"], "write resources.price: money per device-hour by gpu, cpu or accelerator type"
        )
