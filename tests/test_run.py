"""The whole path through the command line, in-process training: files, sharing, continuing, refusing."""

import csv
import json
import sqlite3

import pytest
import yaml

from conftest import fulcrum
from run_folders import events, finished_stages, table

pytestmark = pytest.mark.cluster


def test_a_run_leaves_everything_that_was_promised(finished):
    folder, ended = finished
    assert ended.returncode == 0, ended.stderr
    made = {p.name for p in folder.iterdir()}
    assert made >= {"sweep.yaml", "config.json", "ledger.jsonl", "study.db", "trials.csv", "trials.parquet", "balance.json"}
    assert made >= {"best.yaml", "report.html", "front.png", "tradeoff.png", "trials"}
    assert "holder.json" not in made
    assert {p.name for p in (folder / "trials" / "0001").iterdir()} == {
        "params.json",
        "log",
        "toy_math.jsonl",
        "toy_chat.jsonl",
    }
    assert "Balance point: k=" in ended.stdout
    assert str(folder / "report.html") in ended.stdout


def test_the_shared_stage_is_trained_once(finished):
    folder, _ = finished
    assert [stage["parent"] for stage in finished_stages(folder)].count(None) == 1
    assert len(finished_stages(folder)) == 4


def test_the_table_has_one_row_per_trial_and_the_columns_of_the_design(finished):
    folder, _ = finished
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert list(rows[0]) == [
        "trial", "state", "k", "toy_math", "toy_math_stderr", "toy_chat", "toy_chat_stderr",
        "specialist", "general", "device_seconds", "saved_device_seconds", "error",
    ]  # fmt: skip
    assert [(row["trial"], row["state"], float(row["k"])) for row in rows] == [
        ("0", "complete", 0), ("1", "complete", 0.25), ("2", "complete", 0.5),
    ]  # fmt: skip


def test_device_seconds_of_the_trials_are_those_of_the_ledger(finished):
    folder, _ = finished
    charged = [e["device_seconds"] for e in events(folder) if e["event"] in ("stage_finished", "rung_finished")]
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert sum(float(row["device_seconds"]) for row in rows) == pytest.approx(sum(charged))
    shared = next(stage for stage in finished_stages(folder) if stage["parent"] is None)
    saved = [float(row["saved_device_seconds"]) for row in rows if row["trial"] != str(shared["trial"])]
    assert saved == pytest.approx([shared["device_seconds"]] * 2)


def test_the_ledger_says_of_each_trial_what_the_table_says(finished):
    folder, _ = finished
    ended = {e["trial"]: e for e in events(folder) if e["event"] == "trial_finished"}
    for row in csv.DictReader((folder / "trials.csv").open()):
        event = ended[int(row["trial"])]
        assert (event["state"], event["error"], event["params"]["k"]) == (row["state"], None, float(row["k"]))
        assert event["scores"] == {name: float(row[name]) for name in ("toy_math", "toy_chat")}
        for name in ("device_seconds", "saved_device_seconds"):
            assert event[name] == pytest.approx(float(row[name]))


def test_the_study_can_be_opened_with_optuna(finished):
    import optuna

    folder, _ = finished
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'study.db'}")
    rows = table(folder)
    assert [t.number for t in study.trials] == [0, 1, 2]
    assert [t.params["k"] for t in study.trials] == [0, 0.25, 0.5]
    assert [t.values for t in study.trials] == [[float(r["specialist"]), float(r["general"])] for r in rows]
    assert study.metric_names == ["specialist", "general"]


def test_running_again_trains_nothing_and_changes_nothing(finished, tmp_path):
    folder, _ = finished
    before, stages = (folder / "trials.csv").read_bytes(), len(finished_stages(folder))
    (folder / "study.db").unlink()
    for lost in ("trials.csv", "balance.json", "report.html"):
        (folder / lost).unlink()
    ended = fulcrum("run", str(folder / "sweep.yaml"), cwd=folder.parents[1])
    assert ended.returncode == 0, ended.stderr
    assert (folder / "trials.csv").read_bytes() == before
    assert len(finished_stages(folder)) == stages
    assert json.loads((folder / "balance.json").read_text())["trial"] is not None
    assert sqlite3.connect(folder / "study.db").execute("select count(*) from trials").fetchone() == (3,)


def test_a_run_is_not_continued_with_another_configuration(finished):
    folder, _ = finished
    before = (folder / "ledger.jsonl").read_bytes()
    ended = fulcrum("run", str(folder / "sweep.yaml"), "train.lr=1e-5", cwd=folder.parents[1])
    assert ended.returncode == 2
    assert "train.lr: 0.002 before, 1e-05 now" in ended.stderr
    assert "give the run another `name`" in ended.stderr
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_what_may_change_may_change(finished):
    folder, _ = finished
    ended = fulcrum("run", str(folder / "sweep.yaml"), "balance={rule: floor, general: 0}", cwd=folder.parents[1])
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "balance.json").read_text())["rule"] == "floor"
    assert fulcrum("run", str(folder / "sweep.yaml"), cwd=folder.parents[1]).returncode == 0


def test_status_report_and_plan_read_a_finished_run(finished):
    folder, _ = finished
    (folder / "report.html").unlink()
    told = fulcrum("status", str(folder), cwd=folder)
    assert "3 complete" in told.stdout
    assert "state: finished" in told.stdout
    assert fulcrum("report", str(folder), cwd=folder.parents[1]).returncode == 0
    assert (folder / "report.html").exists()
    planned = fulcrum("plan", str(folder / "sweep.yaml"), cwd=folder.parents[1])
    assert "4 cached, 0 to train" in planned.stdout
    assert fulcrum("report", str(folder / "trials"), cwd=folder).returncode == 2


def test_another_run_on_the_same_storage_trains_nothing_twice(finished):
    folder, _ = finished
    ended = fulcrum("run", str(folder / "sweep.yaml"), "name=other", cwd=folder.parents[1])
    assert ended.returncode == 0, ended.stderr
    other = folder.parent / "other"
    assert finished_stages(other) == []
    assert table(other) == table(folder)
    rows = list(csv.DictReader((other / "trials.csv").open()))
    assert all(float(row["device_seconds"]) == 0 and float(row["saved_device_seconds"]) > 0 for row in rows)


def test_best_is_a_config_that_trains_the_balance_point(finished):
    from transformers import AutoModelForCausalLM

    folder, _ = finished
    ended = fulcrum("train", str(folder / "best.yaml"), cwd=folder.parents[1])
    assert ended.returncode == 0, ended.stderr
    model = folder.parent / "small-best" / "model"
    assert f"model: {model}" in ended.stdout
    assert AutoModelForCausalLM.from_pretrained(model).config.hidden_size == 64


def test_a_source_with_too_many_bad_rows_stops_the_run_before_ray(tmp_path, small):
    rows = [{"question": f"1+{i}?", "answer": f"#### {i + 1}"} for i in range(9)] + [{"question": "no answer"}]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small["sources"]["math"] |= {"path": "math.jsonl", "format": "gsm8k"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "sources.math: 1 of 10 rows are unusable (missing_field 1)" in ended.stderr
    assert "data.max_bad_rows" in ended.stderr
    assert not list((tmp_path / "runs" / "small").glob("*"))
    kept = [json.loads(file.read_text() or "{}") for file in (tmp_path / "runs" / "store").rglob("quarantine.jsonl")]
    assert "math.jsonl:10" in [row.get("place") for row in kept]


def test_a_stage_that_fits_no_node_ends_with_what_is_asked_and_what_is_there(tmp_path, small):
    small["resources"], small["train"]["batch_size"] = {"workers": 64}, 64
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 1
    assert "'CPU': 64" in ended.stderr
    assert "lower resources.workers" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_failed_stage_fails_its_trial_with_the_reason_and_the_run_with_1(tmp_path, small):
    small["search"]["space"]["k"]["values"] = [0]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    broken = {"model_type": "granite", "num_key_value_heads": 2, "logits_scaling": 1e-40}
    small["model"] = {"init_from_config": sizes | broken, "tokenizer": "characters"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "LossNotFinite" in table(tmp_path / "runs" / "small")[0]["error"]
    assert "lower train.lr" in ended.stdout
    assert "No balance point" in ended.stdout
