"""Configuration: every error at once, with field, value and remedy, and before anything is started."""

import json
import subprocess
import sys

import pytest
import yaml

from conftest import ROOT, fulcrum
from sweeps import lineage, loading
from sweeps.loading import ConfigError, parse, with_params

LOG_LR = {"type": "loguniform", "low": 1e-5, "high": 1e-3, "include_zero": True}
HEAVY = {"torch", "ray", "transformers", "deepspeed", "datasets", "pandas"}


def problems(values) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(values)
    return {problem.field: str(problem) for problem in caught.value.problems}


def test_all_errors_come_at_once_with_field_value_and_remedy(tmp_path, small):
    small["colour"] = "red"
    small["k"] = 2
    small["sources"]["math"]["path"] = "missing.jsonl"
    del small["sources"]["chat"]["role"]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "bad.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "colour = 'red': no such field" in ended.stderr
    assert "k = 2: Input should be less than or equal to 1" in ended.stderr
    assert "sources.math.path = 'missing.jsonl': no such file" in ended.stderr
    assert "sources.chat.role is missing: add it: specialist or general" in ended.stderr
    assert "strategy = 'dmt': needs a source with role general" in ended.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml"]


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"train": {"lrr": 1}}, "train.lrr", "write lr"),
        ({"train": {"lr": -1}}, "train.lr", "Peak learning rate"),
        ({"strategy": "dmt", "search": {}}, "k", "add k to search.space"),
        ({"strategy": "explicit"}, "stages", "takes a list of stages"),
        ({"stages": [{"mixture": {"math": 1}}]}, "stages", "only that"),
        ({"strategy": "explicit", "stages": [{"mixture": {"maths": 1}}]}, "stages.0.mixture.maths", "no such source"),
        (
            {"strategy": "explicit", "stages": [{"mixture": {"math": 1}, "train": {"lr": 7}}]},
            "stages.0.train.lr",
            "less than or equal to 1",
        ),
        ({"model": {}}, "model", "give either path"),
        ({"model": {"path": "nowhere/at/all"}}, "model.path", "no such folder"),
        ({"model": {"init_from_config": {"hidden_size": 8}}}, "model.init_from_config", "add model_type"),
        ({"evaluate": {"toy_math": {"role": "specialist"}}}, "evaluate", "role general"),
        ({"search": {"space": {"k": {"type": "uniform", "low": 0, "high": 3}}}}, "search.space.k", "less than or equal"),
        ({"search": {"space": {"k": {"type": "uniform", "low": 1, "high": 0}}}}, "search.space.k.low", "below high"),
        ({"search": {"space": {"train.x": {"type": "choice", "values": [1]}}}}, "search.space.train.x", "not permitted"),
        ({"search": {"space": {"name": {"type": "choice", "values": ["a"]}}}}, "search.space.name", "search one of"),
        (
            {"search": {"sampler": "grid", "space": {"k": {"type": "uniform", "low": 0, "high": 1}}}},
            "search.space.k.type",
            "needs type grid or choice",
        ),
        ({"evaluate": {"engine": {"kind": "vllm", "python": "no/python"}}}, "evaluate.engine.python", "pip install vllm"),
        (
            {"evaluate": {"engine": {"kind": "openai", "base_url": "http://a/v1", "model": "m"}}},
            "evaluate.engine.kind",
            "cannot open",
        ),
        ({"evaluate": {"engine": {"kind": "openai", "base_url": "a", "model": "m"}}}, "evaluate.engine.base_url", "http"),
        ({"evaluate": {"engine": "fast"}}, "evaluate.engine", "transformers"),
        ({"name": "../up"}, "name", "Name of the run"),
        ({"storage": "ftp://host/runs"}, "storage", "s3://bucket/path"),
        ({"storage": "s3://key:secret@bucket/runs"}, "storage", "come from the environment"),
        ({"storage": "s3://bucket/runs?endpoint_override=host"}, "storage", "come from the environment"),
        ({"search": {"pruner": "asha"}}, "search.pruner", "valid dictionary"),
        ({"name": "store"}, "name", "give another name"),
        ({"train": {"weight_decay": float("inf")}}, "train.weight_decay", "finite"),
        ({"balance": {"rule": "weights", "specialist": 0, "general": 0}}, "balance", "above 0"),
        (
            {"search": {"space": {"model.seed": {"type": "choice", "values": [1, 2]}}}},
            "search.space.model.seed",
            "search one of",
        ),
        ({"search": {"space": {"k.x": {"type": "choice", "values": [1]}}}}, "search.space.k.x", "search one of"),
        (
            {"search": {"space": {"train.epochs": {"type": "uniform", "low": 1, "high": 3}}}},
            "search.space.train.epochs",
            "integer",
        ),
        ({"search": {"space": {"k": {"type": "grid", "values": [0, 1]}}}}, "search.space.k.type", "type grid sampler grid"),
        ({"search": {"space": {"k": {"type": "choice", "values": [0, "a"]}}}}, "search.space.k.values", "all numbers"),
        ({"search": {"space": {"train.lr": LOG_LR}}}, "search.space.train.lr", "greater than 0"),
        ({"strategy": "explicit", "stages": [{"mixture": {"math": 0}}]}, "stages.0.mixture", "fraction above 0"),
        (
            {"strategy": "multi_task", "search": {"space": {"k": {"type": "choice", "values": [0]}}}},
            "search.space.k",
            "search one of",
        ),
    ],
)
def test_what_is_wrong_is_named(small, change, field, said):
    found = problems(small | change)
    assert said in found[field], found


@pytest.mark.parametrize("name", sorted(loading.shipped()))
def test_every_shipped_configuration_is_valid_and_can_be_planned(name, benchmarks, monkeypatch, tmp_path):
    monkeypatch.setenv("FULCRUM_BENCHMARKS", str(benchmarks))
    monkeypatch.chdir(tmp_path)
    config = loading.load(name)
    assert config.name == name
    assert lineage.stages(with_params(config, {"k": 0.25}), lineage.identities(config))


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_validate_and_plan_import_nothing_heavy(tmp_path, verb):
    code = (
        "import sys; sys.argv = ['fulcrum', sys.argv[1], 'demo']\n"
        "from sweeps.cli import main\n"
        "try: main()\n"
        f"finally: print('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, verb], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "heavy: []" in ended.stdout, ended.stdout + ended.stderr


def test_overrides_set_fields_by_dotted_path(tmp_path, small):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    config = loading.load(str(tmp_path / "c.yaml"), ["train.lr=1e-4", "k=1/256", "sources.math.fraction=1/2"])
    assert (config.train.lr, config.k, config.sources["math"].fraction) == (1e-4, 1 / 256, 0.5)
    with pytest.raises(ConfigError, match="key=value"):
        loading.load(str(tmp_path / "c.yaml"), ["train.lr"])


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    (tmp_path / "c.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' stands twice"):
        loading.load(str(tmp_path / "c.yaml"))


def test_variables_are_read_in_paths_and_nowhere_else(small, monkeypatch, tmp_path):
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "f.jsonl").write_text("")
    small["sources"]["math"]["path"] = "${HERE}/f.jsonl"
    assert parse(small).sources["math"].path == f"{tmp_path}/f.jsonl"
    assert "name" in problems(small | {"name": "${HERE}"})


def test_config_commands_list_copy_and_describe(tmp_path):
    assert fulcrum("config", "list", cwd=tmp_path).stdout.split() == sorted(loading.shipped())
    assert fulcrum("config", "copy", "demo", cwd=tmp_path).returncode == 0
    assert fulcrum("validate", "demo.yaml", cwd=tmp_path).returncode == 0
    assert fulcrum("config", "copy", "demo", cwd=tmp_path).returncode == 2
    assert "k" in json.loads(fulcrum("config", "schema", cwd=tmp_path).stdout)["properties"]


def test_a_local_path_is_refused_with_an_address(tmp_path, small):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", "--address", "10.0.0.1:6379", cwd=tmp_path)
    assert ended.returncode == 2
    assert "storage = 'runs': other nodes cannot see a local path" in ended.stderr


def test_tracking_writes_to_a_disk(small):
    assert parse(small | {"tracking": ["tensorboard"]}).tracking
    assert problems(small | {"tracking": ["tensorboard"], "storage": "s3://bucket/runs"}).keys() == {"tracking"}


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "name: 2020-99-99", "a: &a {b: *a}", "!!int foo", "!!map [1]", "name: " + "9" * 5000, "\0", "sources: []",
     "sources: {math: 3}\nevaluate: null", "stages: 5", "sources: {a: {role: []}}", "search: {space: null}", "1: 2",
     "evaluate: {gsm8k: {role: {}}}", "train: []", "balance: 3", "k: 1/0", "k: .nan", "search: {space: {k: [1]}}", "${X}",
     "search: {confirm: {evaluate: {gsm8k: {path: [1]}}}, anchors: [{}]}", "search: {space: {a: {type: simplex, over: 3}}}",
     "search: {space: {model.path: {type: choice, values: [[1], 2]}}}", "sources: {a: {role: general}}\nsearch: {anchors: k0}"],
)  # fmt: skip
def test_any_text_is_a_valid_configuration_or_an_error_with_exit_code_2(tmp_path, text, capsys, monkeypatch):
    from sweeps.cli import main

    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["fulcrum", "plan", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "in the configuration; nothing was started" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["x" * 300, "/", "tests", "\0"])
def test_what_is_no_file_is_no_configuration(where):
    with pytest.raises(ConfigError, match="no such file"):
        loading.load(where)


def test_a_sweep_without_benchmarks_or_a_recipe_without_k_is_refused(tmp_path, small):
    without = {key: value for key, value in small.items() if key not in ("evaluate", "search")} | {"k": 0.5}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(without))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert (ended.returncode, "use `fulcrum train`" in ended.stderr) == (2, True)
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("train", "d.yaml", cwd=tmp_path)
    assert (ended.returncode, "write k=1/8" in ended.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()


def test_items_that_cannot_be_read_stop_the_run_before_anything_is_paid_for(tmp_path, small):
    (tmp_path / "items.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n{"question": "q"}\n')
    small["evaluate"]["gsm8k"] = {"role": "specialist", "path": "items.jsonl"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "items.jsonl:2: field 'answer' must be str, is None" in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_source_that_cannot_be_read_stops_the_run_with_its_name(tmp_path, small):
    (tmp_path / "math.jsonl.gz").write_bytes(b"no gzip")
    small["sources"]["math"] |= {"path": "math.jsonl.gz", "format": "gsm8k"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "math.jsonl.gz: cannot be read" in ended.stderr


def test_the_confirmation_needs_test_items_where_the_search_has_training_items(tmp_path, small):
    (tmp_path / "train.jsonl").write_text("")
    (tmp_path / "t.jsonl").write_text("")
    gsm8k = {"role": "specialist", "path": str(tmp_path / "train.jsonl")}

    def found(confirm, **gsm8k_more):
        values = small | {"evaluate": small["evaluate"] | {"gsm8k": gsm8k | gsm8k_more}}
        return problems(values | {"search": small["search"] | {"confirm": confirm}})

    assert "test file" in found({})["search.confirm.evaluate.gsm8k.path"]
    assert "no such file" in found({"evaluate": {"gsm8k": {"path": "nowhere"}}})["search.confirm.evaluate.gsm8k.path"]
    assert "no such benchmark" in found({"evaluate": {"humaneval": {}}}, split="test")["search.confirm.evaluate.humaneval"]
    parse(small | {"search": small["search"] | {"confirm": {"top": 2}}})


def test_an_anchor_needs_the_sources_that_it_trains_on(small):
    small["sources"] = {name: s | {"role": "specialist"} for name, s in small["sources"].items()}
    small["strategy"], small["search"] = "multi_task", {"sampler": "random", "anchors": ["general", "multi_task"], "space": {}}
    assert "needs a source with role general" in problems(small)["search.anchors"]


def test_what_differs_on_the_test_items_is_checked_like_any_field(small):
    def found(**fields):
        return problems(small | {"search": small["search"] | {"confirm": {"evaluate": {"toy_math": fields}}}})

    assert "Extra inputs" in found(pth="x")["search.confirm.evaluate.toy_math.pth"]
    assert "greater than or equal to 1" in found(limit=0)["search.confirm.evaluate.toy_math.limit"]
    assert "leave it out" in found(role="general")["search.confirm.evaluate.toy_math.role"]


def test_an_anchor_has_no_weights_where_they_are_searched(small):
    over = [f"sources.{name}.weight" for name in small["sources"]]
    search = {"sampler": "random", "space": {"w": {"type": "simplex", "over": over}}, "anchors": ["base", "general"]}
    found = problems(small | {"strategy": "multi_task", "data": {"total": 100}, "search": search})
    assert "has no weights" in found["search.anchors"] and "general" in found["search.anchors"]
