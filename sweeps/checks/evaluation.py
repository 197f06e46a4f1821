"""What can be wrong with the benchmarks, and with those that confirm."""

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from data import sources
from evaluators.config import EvaluateConfig, names_file
from sweeps.checks.problem import Problem, Values, entries, is_file, is_there
from sweeps.dotted import mapping_at


def benchmark_paths(values: Values) -> Iterator[Problem]:
    for name, benchmark in entries(values, "evaluate").items():
        hub = name == "gsm8k"  # the one that can be read from there
        for field in filter(names_file, benchmark):
            path = benchmark[field]
            if isinstance(path, str) and not is_file(path) and not (hub and sources.looks_like_hub_id(path)):
                what = "items" if field == "path" else field.replace("_", " ")
                yield Problem(f"evaluate.{name}.{field}", path, f"no such file; give the benchmark's {what}")
        judge = mapping_at(benchmark, "judge").get("path")
        if isinstance(judge, str) and not is_there(judge):
            yield Problem(f"evaluate.{name}.judge.path", judge, "no such folder; give the folder of the judge's model")


def engine(values: Values) -> Iterator[Problem]:
    """An engine whose environment is not there."""
    python = mapping_at(values, "evaluate", "engine").get("python")
    if isinstance(python, str) and not is_file(python):
        remedy = "no such interpreter; make an environment with `python -m venv DIR && DIR/bin/pip install vllm`"
        yield Problem("evaluate.engine.python", python, remedy)


def server(values: Values) -> Iterator[Problem]:
    chosen = mapping_at(values, "evaluate").get("engine")
    if chosen == "openai" or (isinstance(chosen, Mapping) and chosen.get("kind") == "openai"):
        remedy = "a server cannot open what the sweep trains; use transformers here, or the server with `fulcrum evaluate`"
        yield Problem("evaluate.engine.kind", "openai", remedy)


def benchmarks(values: Values) -> Iterator[Problem]:
    benchmarks = entries(values, "evaluate")
    searched = mapping_at(values, "search", "space")
    given = [benchmark.get("role") for benchmark in benchmarks.values()]
    for role in ("specialist", "general") if benchmarks or searched else ():
        if role not in given:
            yield Problem("evaluate", sorted(benchmarks), f"add a benchmark with role {role}: a balance has two sides")


def confirm_paths(values: Values) -> Iterator[Problem]:
    """The test items of a confirmation: those of GSM8K lie in a file of their own, unless the hub has both."""
    confirm = mapping_at(values, "search").get("confirm")
    if not isinstance(confirm, Mapping):
        return
    given, benchmarks = entries(confirm, "evaluate"), entries(values, "evaluate")
    for name, fields in given.items():
        field = f"search.confirm.evaluate.{name}"
        if name not in benchmarks:
            yield Problem(field, fields, f"no such benchmark is scored; name one of {sorted(benchmarks)}")
        else:
            yield from _on_test(name, benchmarks[name], fields)
        for key, file in fields.items():
            hub = name == "gsm8k" and sources.looks_like_hub_id(str(file))
            if names_file(key) and isinstance(file, str) and not is_file(file) and not hub:
                yield Problem(f"{field}.{key}", file, "no such file; give the benchmark's test items")
    gsm8k = benchmarks.get("gsm8k", {})
    path, test = gsm8k.get("path"), given.get("gsm8k", {}).get("path")
    if gsm8k.get("split", "dev") == "dev" and isinstance(path, str) and is_file(path) and not test:
        remedy = "give the test file; that of evaluate.gsm8k holds training items"
        yield Problem("search.confirm.evaluate.gsm8k.path", "missing", remedy)


def _on_test(name: str, benchmark: Values, fields: Values) -> Iterator[Problem]:
    """What the benchmark cannot be on the test items: what only the search decides, or what no field takes."""
    for decided in {"role", "weight"} & fields.keys():
        yield Problem(f"search.confirm.evaluate.{name}.{decided}", fields[decided], "is that of evaluate; leave it out")
    split = {"split": "test"} if name == "gsm8k" else {}
    try:
        EvaluateConfig.model_validate({name: {**benchmark, **split, **fields}})
    except ValidationError as error:
        for entry in error.errors():
            path = ".".join(map(str, entry["loc"][1:]))
            if entry["loc"][1:2] and entry["loc"][1] in fields:
                yield Problem(f"search.confirm.evaluate.{name}.{path}", entry["input"], entry["msg"])
