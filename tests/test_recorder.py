"""What the driver writes down of a run that was cut off: nothing is lost, nothing is paid twice."""

import io
import json

import pytest
from rich.console import Console

from conftest import SMALL
from data.files import Folder
from data.store import Store
from run_folders import events
from sweeps import lineage
from sweeps.ledger import Ledger
from sweeps.loading import parse
from sweeps.progress import Progress
from sweeps.recorder import Recorder
from trainers.job import KIND


@pytest.fixture
def config(request, tmp_path):
    """The small sweep on a disk; with `@pytest.mark.parametrize("config", ["bucket"], indirect=True)` in a bucket."""
    in_bucket = getattr(request, "param", "disk") == "bucket"
    storage = f"{request.getfixturevalue('bucket')}/runs" if in_bucket else str(tmp_path / "runs")
    return parse(SMALL | {"storage": storage, "resources": {"workers": 2}})


def started(config, *more):
    """The ledger of a run with one trial and one stage begun at second 100, and further events."""
    ledger = Ledger(lineage.run_folder(config))
    about = {"key": "s", "parent": None, "strategy": "dmt", "mixture": {}, "trial": 0}
    for event, values in (
        ("run_started", {}),
        ("trial_started", {"trial": 0, "params": {"k": 0.0}}),
        ("stage_started", about),
        *more,
    ):
        ledger.append(event, **(about | values if event.startswith("stage_") else values))
    ledger.close()
    return about


def recorder(config, last_seen=0.0):
    return Recorder(config, Ledger(lineage.run_folder(config)), Progress(Console(file=io.StringIO())), last_seen)


def ends(config, *names):
    return [e for e in events(lineage.run_folder(config)) if e["event"] in ("stage_finished", "stage_stopped")]


def test_a_stage_that_died_with_its_driver_is_charged_up_to_when_the_driver_was_last_alive(config):
    started(config)
    began = events(lineage.run_folder(config))[-1]["time"]
    made = recorder(config, last_seen=began + 50)
    assert [(e["event"], e["trial"], e["device_seconds"]) for e in ends(config)] == [("stage_stopped", 0, pytest.approx(100))]
    assert made.spent.device_seconds == pytest.approx(100)
    assert [number for number, _ in made.unfinished] == [0]


def test_a_stage_that_the_store_holds_was_finished_whatever_the_driver_could_tell(config):
    started(config)
    with Store(lineage.store_root(config)).writing(KIND, "s", {"tokens": 7, "device_seconds": 30.0}):
        pass
    recorder(config)
    assert [(e["event"], e["tokens"], e["device_seconds"]) for e in ends(config)] == [("stage_finished", 7, 30.0)]
    recorder(config)
    assert len(ends(config)) == 1, "once"


@pytest.mark.parametrize("end", ["stage_elsewhere", "stage_failed"])
def test_a_stage_whose_end_was_told_is_not_ended_again(config, end):
    started(config, (end, {"device_seconds": 1.0, "error": "e"} if end == "stage_failed" else {}))
    with Store(lineage.store_root(config)).writing(KIND, "s", {"tokens": 7, "device_seconds": 30.0}):
        pass  # by another run
    recorder(config, last_seen=1e12)
    assert ends(config) == []


def test_a_trial_that_was_stopped_by_a_limit_stays_open(config):
    made = recorder(config)
    made.note("run_started")
    number, _ = made.ask()
    made.finish(number, {"state": "stopped", "error": "budget.device_hours = 1: 1 are spent"})
    assert made.stopped.startswith("budget.device_hours")
    assert made.left == 3
    assert [n for n, _ in recorder(config).unfinished] == [number]


def test_damage_in_the_store_is_said_once(config):
    made, store = recorder(config), Store(lineage.store_root(config))
    made.note("run_started")
    store.folder.write("stages/s/DONE", b"half a rec")
    assert store.record("stages", "s") is None
    made.note_damage()
    made.note_damage()
    said = [e for e in events(lineage.run_folder(config)) if e["event"] == "entry_set_aside"]
    assert [(e["kind"], e["key"], e["reason"]) for e in said] == [("stages", "s", "its marker DONE is no record")]


@pytest.mark.parametrize("config", ["disk", "bucket"], indirect=True)
def test_the_study_is_in_the_folder_of_the_run_and_made_from_the_ledger_alone(config, tmp_path):
    import optuna

    folder = lineage.run_folder(config)
    made = recorder(config)
    made.note("run_started")
    number, params = made.ask()
    made.finish(number, {"state": "failed", "error": "e"})
    Folder(str(folder)).remove("study.db")
    recorder(config)
    database = tmp_path / "copy.db"
    database.write_bytes(folder.read("study.db"))
    (trial,) = optuna.load_study(study_name="small", storage=f"sqlite:///{database}").trials
    assert (trial.number, trial.params, trial.state.name, trial.user_attrs["error"]) == (number, params, "FAIL", "e")
    assert json.loads(folder.read("trials/0000/log"))["state"] == "failed"


def test_a_trial_that_was_measured_differently_does_not_stand_beside_an_earlier_one_of_the_same_session(config):
    made = recorder(config)
    about = dict.fromkeys(("specialist", "general", "specialist_stderr", "general_stderr"), 0.1)
    for items in "aab":
        number, _ = made.ask()
        made.finish(number, {"state": "complete", "scores": {"toy_math": 0.5}, "items": {"toy_math": items}} | about)
    states = [e["state"] for e in made.events if e["event"] == "trial_finished"]
    assert states == ["complete", "complete", "failed"]


def test_a_stage_that_had_reached_a_rung_is_charged_for_the_rest_alone(config):
    """The record of a stage counts from its beginning, its rung was charged when it was reached."""
    rung = {"key": "s@0.5", "device_seconds": 60.0, "tokens": 5}
    started(config, ("stage_finished", rung), ("stage_started", {}))
    store = Store(lineage.store_root(config))
    with store.writing(KIND, "s", {"device_seconds": 100.0, "tokens": 10}):
        pass
    made = recorder(config)
    assert [(e["key"], e["device_seconds"]) for e in ends(config)] == [("s@0.5", 60.0), ("s", pytest.approx(40.0))]
    assert made.spent.device_seconds == pytest.approx(100.0)


def test_what_is_saved_by_a_stage_counts_all_its_rungs():
    from sweeps.accounts import Accounts

    stage = {"event": "stage_finished", "trial": 0}
    accounts = Accounts([stage | {"key": "s@0.5", "device_seconds": 60.0}, stage | {"key": "s", "device_seconds": 40.0}])
    assert accounts.cost(0, ["s"]) == {"device_seconds": 100.0, "saved_device_seconds": 0.0}
    assert accounts.cost(1, ["s"]) == {"device_seconds": 0.0, "saved_device_seconds": 100.0}
    assert accounts.cost(2, ["s@0.5"])["saved_device_seconds"] == 60.0
