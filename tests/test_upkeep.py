"""`fulcrum store`: nothing that a live run or a balance point needs is ever removed."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from conftest import SMALL
from data.files import Folder
from data.store import Store
from run_folders import Quiet
from sweeps import beside, cli, holder, inputs, lineage, upkeep
from sweeps.config import SweepConfig
from sweeps.ledger import Ledger
from sweeps.loading import parse, with_params
from sweeps.run import sweep

YEAR_S = 365 * 24 * 3600


BOTH = pytest.mark.parametrize("config", ["disk", "bucket"], indirect=True)


@pytest.fixture
def config(request, tmp_path) -> SweepConfig:
    """The small sweep on a disk, or in a bucket."""
    in_bucket = getattr(request, "param", "disk") == "bucket"
    storage = f"{request.getfixturevalue('bucket')}/runs" if in_bucket else str(tmp_path / "runs")
    return parse(SMALL | {"storage": storage})


def chain(config, k):
    """All keys behind a trial."""
    path = lineage.lineage(with_params(config, {"k": k}), lineage.identities(config))
    prepared = [("prepared", share.prepared) for job in path.jobs for share in job.shares]
    evaluated = [
        (kind, key) for o in path.orders for kind, key in (("evaluations", o.evaluation), ("generations", o.generation))
    ]
    return [*evaluated, *(("stages", key) for key in path.keys), *prepared, ("bases", path.jobs[0].base)]


def publish(store, kind, key, **record):
    if store.record(kind, key) is None:
        with store.writing(kind, key, record) as folder:
            (folder / "file").write_text(f"{kind}/{key}")


def filled(config, *ks):
    """A store with the chains of some trials."""
    store = Store(lineage.store_root(config))
    for k in ks:
        for kind, key in chain(config, k):
            publish(store, kind, key)
    return store


def run(config, name="small", chosen=None, held=False):
    """The folder of a run with what `prune` reads."""
    folder = Folder(lineage.root(config.storage)) / name
    folder.write("config.json", config.model_copy(update={"name": name}).model_dump_json().encode())
    ledger = Ledger(folder)
    ledger.append("run_started", identities=lineage.identities(config).plain())
    ledger.append("trial_started", trial=0, params={"k": 0.0})
    ledger.close()
    folder.write(
        "balance.json", json.dumps({"trial": 0, "params": {"k": chosen}} if chosen is not None else {"trial": None}).encode()
    )
    if held:
        me = holder.myself()
        folder.write("holder.json", json.dumps(vars(me)).encode())
    return folder


def left(store):
    return {(e.kind, e.key) for e in upkeep.entries(store) if e.record}


def prune(config, now=None, **limits):
    store = Store(lineage.store_root(config))
    limits = {"older_than_s": None, "down_to": None} | limits
    going = upkeep.to_prune(upkeep.entries(store), upkeep.needed(config.storage), now=now or time.time() + YEAR_S, **limits)
    for entry in going:
        upkeep.remove(store, entry)
    return {(e.kind, e.key) for e in going}


@BOTH
def test_what_a_balance_point_was_made_from_stays_and_the_rest_goes_by_age(config):
    store = filled(config, 0, 0.25, 0.5)
    run(config, chosen=0.25)
    prune(config, older_than_s=1)
    assert left(store) == set(chain(config, 0.25))


def test_everything_that_a_live_run_has_asked_for_or_plans_stays(config):
    store = filled(config, 0, 0.25, 0.5)
    publish(store, "judgments", "by-content")
    publish(store, "stages", "of-nobody")
    run(config, held=True)
    prune(config, older_than_s=1)
    assert left(store) == {*chain(config, 0), *chain(config, 0.25), *chain(config, 0.5), ("judgments", "by-content")}


def test_what_a_run_needs_that_is_still_preparing_its_sources_stays(config, monkeypatch):
    store = filled(config, 0, 0.25, 0.5)
    publish(store, "stages", "of-nobody")

    class Enough(Exception):
        pass

    def prepare(*told):
        prune(config, older_than_s=1)
        raise Enough

    monkeypatch.setattr(inputs, "prepare_sources", prepare)
    with pytest.raises(Enough):
        sweep(config, Quiet())
    assert left(store) == {*chain(config, 0), *chain(config, 0.25), *chain(config, 0.5)}
    prune(config, older_than_s=1)
    assert not left(store), "the run has ended, and nothing was chosen"


def test_what_belongs_to_a_needed_stage_stays_with_it(config):
    store = filled(config, 0, 0.25)
    kept, other = (lineage.lineage(with_params(config, {"k": k}), lineage.identities(config)).keys[-1] for k in (0.25, 0))
    for stage in (kept, other):
        publish(store, "resume", f"{stage}-120")
        publish(store, "rungs", f"{stage}@0.5")
        publish(store, "generations", f"of-{stage}", stage=stage)
    run(config, chosen=0.25)
    prune(config, older_than_s=1)
    assert left(store) == {
        *chain(config, 0.25),
        ("resume", f"{kept}-120"),
        ("rungs", f"{kept}@0.5"),
        ("generations", f"of-{kept}"),
    }


def test_a_parent_that_only_the_store_names_stays(config):
    store = Store(lineage.store_root(config))
    last = lineage.lineage(with_params(config, {"k": 0.25}), lineage.identities(config)).keys[-1]
    publish(store, "stages", "merged", base="the-base")
    publish(store, "bases", "the-base")
    publish(store, "stages", last, parent="merged")
    run(config, chosen=0.25)
    assert prune(config, older_than_s=1) == set()


def test_by_size_the_oldest_go_first_and_only_as_many_as_must(config):
    store = Store(lineage.store_root(config))
    for key in ("a", "b", "c"):
        publish(store, "stages", key)
        time.sleep(0.02)
    each = upkeep.entries(store)[0].size
    assert prune(config, down_to=each) == {("stages", "a"), ("stages", "b")}


@BOTH
def test_an_attempt_that_was_never_published_goes_after_a_day(config):
    store = Store(lineage.store_root(config))
    publish(store, "stages", "a")
    for key in ("a", "b"):
        store.folder.write(f"stages/{key}/1-dead/file", b"half")
    assert prune(config, now=time.time()) == set()
    assert prune(config) == {("stages", "a"), ("stages", "b")}
    assert left(store) == {("stages", "a")}
    assert (store.fetch("stages", "a") / "file").read_text() == "stages/a"
    assert not store.folder.exists("stages/b/1-dead/file")


def test_nothing_is_removed_where_a_run_cannot_be_understood(config):
    filled(config, 0)
    folder = run(config, chosen=0)
    folder.write("config.json", b"{}")
    with pytest.raises(upkeep.Unreadable, match="remove or repair its folder"):
        upkeep.needed(config.storage)


def test_a_run_whose_process_is_gone_is_not_live(config):
    run(config, held=True).write("holder.json", json.dumps(vars(holder.myself()) | {"started": 1.0}).encode())
    assert not upkeep.needed(config.storage).live


def test_a_run_on_another_machine_is_taken_to_be_live(config):
    elsewhere = vars(holder.myself()) | {"host": "elsewhere", "started": 1.0}
    run(config).write("holder.json", json.dumps(elsewhere).encode())
    assert upkeep.needed(config.storage).live


def test_what_a_live_run_has_asked_for_beside_its_plan_stays(config):
    store = filled(config, 0.125)
    folder = run(config, held=True)
    assert prune(config, older_than_s=1)
    filled(config, 0.125)
    ledger = Ledger(folder)
    ledger.append("trial_started", trial=1, params={"k": 0.125})
    ledger.close()
    assert prune(config, older_than_s=1) == set()
    assert left(store) == set(chain(config, 0.125))


def store_command(*arguments):
    ended = CliRunner().invoke(cli.app, ["store", *arguments], standalone_mode=False)
    return ended.return_value or getattr(ended.exception, "exit_code", 0), ended.stdout


@BOTH
def test_the_command_lists_verifies_and_prunes(config):
    store = filled(config, 0, 0.25)
    run(config, chosen=0.25)
    code, said = store_command("list", config.storage)
    assert code == 0 and "the balance point of small" in said
    assert store_command("verify", config.storage) == (0, f"{len(left(store))} entries read, 0 damaged\n")
    evaluation = chain(config, 0)[0]
    store.folder.write(f"evaluations/{evaluation[1]}/{store.record(*evaluation)['attempt']}/file", b"altered")
    code, said = store_command("verify", config.storage)
    assert code == 1 and f"evaluations/{evaluation[1]}: file was altered; set aside" in said
    assert store.record(*evaluation) is None
    before = left(store)
    assert store_command("prune", config.storage, "--older-than", "0h", "--dry-run")[0] == 0
    assert left(store) == before
    assert store_command("prune", config.storage, "--older-than", "0h")[0] == 0
    assert left(store) == set(chain(config, 0.25))


def test_wrong_sizes_and_storages_are_refused(tmp_path):
    (tmp_path / "runs" / "store").mkdir(parents=True)
    assert store_command("prune", str(tmp_path / "runs"), "--older-than", "soon")[0] == 2
    assert store_command("list", str(tmp_path / "nothing"))[0] == 2


def test_old_files_keep_their_age(tmp_path):
    store = Store(str(tmp_path))
    publish(store, "stages", "a")
    for file in tmp_path.rglob("*"):
        os.utime(file, (1.0, 1.0))
    assert upkeep.entries(store)[0].time == 1.0


def test_what_a_live_run_measures_at_rungs_and_beside_the_search_stays(config):
    search = {**SMALL["search"], "repeats": 2, "pruner": {"rungs": ["1/2", 1]}, "anchors": ["general"]}
    config = parse(config.model_dump() | {"search": search})
    known = lineage.identities(config)
    second = lineage.reseeded(with_params(config, {"k": 0.25}), 1)
    paths = [lineage.lineage(second, known, 0.5), *next(iter(beside.anchors(config, known))).paths]
    store = Store(lineage.store_root(config))
    for path in paths:
        for order in path.orders:
            publish(store, "evaluations", order.evaluation)
        for job in path.jobs:
            publish(store, job.kind, job.end)
    wanted = left(store)
    assert len(wanted) == 2 + 2 + 2 * (2 + 1), "a first stage and a rung, two anchors, each scored twice"
    publish(store, "rungs", "of-nobody@0.5")
    run(config, held=True)
    prune(config, older_than_s=1)
    assert left(store) == wanted
