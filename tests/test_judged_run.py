"""A sweep whose general side is rated by a judge over HTTP: what it leaves, what it refuses."""

import json

import pytest
import yaml
from judge_server import KEY, MODEL, JudgeServer

from conftest import fulcrum
from run_folders import events, table
from sweeps import inputs, lineage
from sweeps.dotted import with_value
from sweeps.ledger import Ledger
from sweeps.loading import ConfigError, load, parse
from sweeps.run import write_config

QUESTIONS = [
    {"question_id": 81 + i, "category": category, "turns": [f"Say {i}.", "Say it again."]}
    for i, category in enumerate(("writing", "roleplay", "stem"))
]


@pytest.fixture
def judged(small, tmp_path, monkeypatch):
    """The small sweep with a judge in the place of the toy rubric; judge.base_url is to be set."""
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": MODEL, "key_env": "TEST_JUDGE_KEY"}
    mt_bench = {"role": "general", "path": str(tmp_path / "questions.jsonl"), "max_new_tokens": 8, "judge": judge}
    small["evaluate"] = {"toy_math": small["evaluate"]["toy_math"], "mt_bench": mt_bench}
    small["storage"] = str(tmp_path / "runs")
    return small


def started(config):
    """A run of a configuration that has begun, and what it reads."""
    known = lineage.identities(config)
    folder = lineage.run_folder(config)
    write_config(folder, config)
    Ledger(folder).append("run_started", identities=known.plain())
    return folder


def refused(folder, config):
    with pytest.raises(inputs.Changed) as told:
        inputs.refuse_changes(folder, config, lineage.identities(config))
    return str(told.value)


def test_a_run_is_not_continued_with_another_judge_nor_under_other_prompts(judged, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(
        "".join(
            json.dumps({"name": name, "system_prompt": "", "prompt_template": "{answer_1}" if "multi" in name else "{answer}"})
            + "\n"
            for name in ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
        )
    )
    judged["evaluate"]["mt_bench"]["prompts"] = str(tmp_path / "prompts.jsonl")
    folder = started(parse(judged))
    told = refused(folder, parse(with_value(judged, "evaluate.mt_bench.judge.model", "another")))
    assert f"evaluate.mt_bench.judge.model: '{MODEL}' before, 'another' now" in told
    assert f"rated by {MODEL} at http://127.0.0.1:9/v1" in told
    assert "would now be by another at" in told and "judges are never mixed" in told
    text = (tmp_path / "prompts.jsonl").read_text()
    (tmp_path / "prompts.jsonl").write_text(text.replace("{answer}", "Rate {answer}"))
    assert "evaluate.mt_bench was rated by" in refused(folder, parse(judged))


def test_a_run_is_continued_with_more_patience_for_the_same_judge(judged):
    folder = started(parse(judged))
    for name, value in {"concurrency": 2, "timeout": 9, "deadline": 99, "retries": 2, "key_env": "OTHER"}.items():
        judged = with_value(judged, f"evaluate.mt_bench.judge.{name}", value)
    inputs.refuse_changes(folder, parse(judged), lineage.identities(parse(judged)))


def test_what_is_to_be_known_of_a_judge_is_told_before_it_is_paid(judged, tmp_path):
    reasoning = {"question_id": 104, "category": "reasoning", "turns": ["How many?", "And now?"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(reasoning))
    (tmp_path / "references.jsonl").write_text(json.dumps({"question_id": 104, "choices": [{"turns": ["3", "4"]}]}))
    judged["evaluate"]["mt_bench"]["references"] = str(tmp_path / "references.jsonl")
    told = inputs.notes(parse(judged))
    assert told[0].startswith(f"mt_bench: rated by {MODEL} at http://127.0.0.1:9/v1, our own words")
    assert told[1] == "mt_bench: references known to be wrong for questions 104; give corrected_references"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("judge.model", None, "evaluate.mt_bench.judge"),
        ("judge.base_url", "https://u:p@h/v1", "evaluate.mt_bench.judge.base_url"),
        ("references", "gone.jsonl", "evaluate.mt_bench.references = 'gone.jsonl': no such file"),
        ("judge", {"path": "gone"}, "evaluate.mt_bench.judge.path = 'gone': no such folder"),
        ("judge.modle", "m", "evaluate.mt_bench.judge.modle = 'm': no such field; write model"),
        ("judge", "gpt", "evaluate.mt_bench.judge"),
    ],
)  # fmt: skip
def test_a_wrong_judge_is_told_with_its_field(judged, field, value, told):
    with pytest.raises(ConfigError) as error:
        parse(with_value(judged, f"evaluate.mt_bench.{field}", value))
    assert told in str(error.value)


def test_a_key_in_the_place_of_its_name_is_not_printed(judged):
    with pytest.raises(ConfigError) as error:
        parse(with_value(judged, "evaluate.mt_bench.judge.key_env", KEY))
    assert "evaluate.mt_bench.judge.key_env = '(not shown)'" in str(error.value)
    assert KEY not in str(error.value)


def test_paths_of_references_and_prompts_are_expanded_and_made_absolute(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("FILES", "files")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "references.jsonl").write_text(json.dumps({"question_id": 1, "choices": [{"turns": ["3"]}]}))
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump(with_value(judged, "evaluate.mt_bench.references", "${FILES}/references.jsonl"))
    )
    config = load("c.yaml")
    assert config.evaluate.mt_bench.references == "files/references.jsonl"
    assert lineage.absolute(config).evaluate.mt_bench.references == str(tmp_path / "files" / "references.jsonl")


@pytest.mark.cluster
def test_without_the_key_a_run_ends_with_2_before_anything_is_started(judged, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_JUDGE_KEY")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(judged))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "judge.key_env = 'TEST_JUDGE_KEY': no such variable is set" in ended.stderr
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_with_a_judge_over_http(judged, tmp_path):
    with JudgeServer(lambda n, asked: "broken" if n == 1 else "rate") as server:
        judged["evaluate"]["mt_bench"]["judge"] |= {"base_url": server.url, "price": {"prompt": 30, "completion": 60}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(judged))
        ended = fulcrum("run", "c.yaml", cwd=tmp_path)
        folder = tmp_path / "runs" / "small"
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert server.keys == {f"Bearer {KEY}"}
        answered = sum(server.answered.values())
        told = [e for e in events(folder) if e["event"] == "trial_finished"]
        assert sum(e["cost"]["calls"] for e in told) == answered
        assert sum(e["cost"]["calls"] + e["cost"]["cached"] for e in told) == 3 * 6
        rungs = [e["cost"]["usd"] for e in events(folder) if e["event"] == "rung_finished"]
        assert sum(rungs) == pytest.approx(answered * 0.0036)
        other = fulcrum("run", "c.yaml", "evaluate.mt_bench.judge.model=another", cwd=tmp_path)
        assert other.returncode == 2
        assert "judges are never mixed" in other.stderr and "another at" in other.stderr
    assert all(1 <= float(row["mt_bench"]) <= 10 for row in table(folder))
    page = (folder / "report.html").read_text()
    assert f"rated by {MODEL} at" in page and "in our own words" in page and "The judge replied" in page
    said = [ended.stdout, ended.stderr] + [p.read_bytes().decode(errors="replace") for p in tmp_path.rglob("*") if p.is_file()]
    assert KEY not in "".join(said)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_judge_that_is_down_fails_the_trials_and_gives_no_score(judged, tmp_path):
    judged["search"]["space"]["k"]["values"] = [0]
    with JudgeServer(lambda n, asked: "no_rating" if n > 2 else "rate") as server:
        judged["evaluate"]["mt_bench"]["judge"] |= {"base_url": server.url}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(judged))
        ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    folder = tmp_path / "runs" / "small"
    [row] = table(folder)
    assert (row["state"], row["mt_bench"], row["general"]) == ("failed", "", "")
    assert "judgments are missing: no rating from 1 to 10" in row["error"]
    [end] = [e for e in events(folder) if e["event"] == "trial_finished"]
    assert end["cost"]["calls"] == len(server.bodies) > 6
