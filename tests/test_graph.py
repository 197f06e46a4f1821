"""The stage graph on a Ray of its own, with real stages of the toy world that train in seconds."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from conftest import ROOT
from data.store import Store
from run_folders import Quiet, wait_for
from sweeps import cluster, lineage
from sweeps.actor import StageGraph
from sweeps.budget import Spent
from sweeps.config import BudgetConfig
from sweeps.inputs import prepare_sources
from sweeps.loading import parse, with_params
from sweeps.terms import Terms
from sweeps.trial import Context, known, outcome_of
from trainers.job import KIND

pytestmark = pytest.mark.cluster


@pytest.fixture
def made(tmp_path, small, ray):
    """From changes of the small sweep to its configuration, with its sources prepared."""

    def make(**changes):
        config = lineage.absolute(parse(small | {"storage": str(tmp_path / "runs")} | changes))
        prepare_sources(config, Quiet())
        return config

    return make


@pytest.fixture
def graphs(ray):
    """Starts graphs, and ends them with all that they have started."""
    started = []

    def start(config, owner="small", variables=None, **terms):
        terms = Terms(owner, config.resources, **{"budget": config.budget} | terms)
        environment = {"runtime_env": {"env_vars": variables}} if variables else {}
        graph = StageGraph.options(**environment).remote(terms, cluster.nodes(), Spent())
        started.append(graph)
        return graph

    yield start
    for graph in started:
        ray.kill(graph)
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 60, "free CPUs")


def path_of(config, k):
    return lineage.lineage(with_params(config, {"k": k}), lineage.identities(config))


def events(ray, graph):
    return ray.get(graph.news.remote("", 0, cluster.nodes(), Spent())).events


def named(ray, graph, *names):
    return [(e["event"], e["key"]) for e in events(ray, graph) if e["event"] in names]


def slow(config):
    """The same sweep with a second stage that takes minutes."""
    return config.model_copy(update={"train": config.train.model_copy(update={"epochs": 300, "batch_size": 2})})


def test_trials_that_ask_at_once_share_what_is_the_same(ray, made, graphs):
    config = made()
    graph, paths = graphs(config), [path_of(config, k) for k in (0, 0.5, 0.5)]
    ray.get([graph.want_stages.remote(n, path, known(path)) for n, path in enumerate(paths)])
    finished = [key for _, key in named(ray, graph, "stage_finished")]
    assert sorted(finished) == sorted({key for path in paths for key in path.keys})
    assert len(finished) == 3


def test_a_failed_stage_is_tried_again_within_the_limit(ray, made, graphs, tmp_path):
    config = made()
    graph, path = graphs(config), path_of(config, 0)
    path = replace(path, jobs=path.jobs[:1])
    blocked = tmp_path / "runs" / "store" / KIND
    blocked.write_text("a file where a folder is needed")
    wanted = graph.want_stages.remote(0, path, known(path))
    wait_for(lambda: named(ray, graph, "stage_failed"), 120, "the first failure")
    blocked.unlink()
    assert ray.get(wanted)["tokens"] > 0
    assert [name for name, _ in named(ray, graph, "stage_failed", "stage_finished")] == ["stage_failed", "stage_finished"]


def test_a_stage_that_failed_for_good_fails_all_who_need_it_and_is_paid_for_once(ray, made, graphs):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    broken = {"model_type": "granite", "num_key_value_heads": 2, "logits_scaling": 1e-40}
    config = made(model={"init_from_config": sizes | broken, "tokenizer": "characters"}, resources={"workers": 0, "retries": 5})
    graph = graphs(config)
    for trial, k in enumerate((0, 0.5)):
        path = path_of(config, k)
        with pytest.raises(ray.exceptions.RayTaskError, match=r"LossNotFinite.*lower train.lr"):
            ray.get(graph.want_stages.remote(trial, path, known(path)))
    assert [name for name, _ in named(ray, graph, "stage_started", "stage_failed")] == ["stage_started", "stage_failed"]


def test_a_damaged_parent_is_made_again_and_the_trial_ends_well(ray, made, graphs):
    config = made()
    store, path, graph = Store(lineage.store_root(config)), path_of(config, 0), graphs(config)
    first = replace(path, jobs=path.jobs[:1])
    ray.get(graph.want_stages.remote(0, first, known(first)))
    weights = Path(store.root) / KIND / path.keys[0] / store.record(KIND, path.keys[0])["attempt"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    outcome = outcome_of(0, {"k": 0}, Context(config, lineage.identities(config), graph))
    assert outcome["state"] == "complete"
    assert [key for _, key in named(ray, graph, "stage_finished")] == [path.keys[0], *path.keys]
    assert [note["key"] for note in store.damage()] == [path.keys[0]]


def test_a_parent_that_was_taken_away_is_made_again(ray, made, graphs):
    config = made()
    store, path, graph = Store(lineage.store_root(config)), path_of(config, 0), graphs(config)
    first = replace(path, jobs=path.jobs[:1])
    ray.get(graph.want_stages.remote(0, first, known(first)))
    store.delete(KIND, path.keys[0])
    assert outcome_of(0, {"k": 0}, Context(config, lineage.identities(config), graph))["state"] == "complete"


def test_prepared_data_that_was_damaged_leaves_the_trial_open_and_is_prepared_again_by_the_next_run(ray, made, graphs):
    config = made()
    store, path, graph = Store(lineage.store_root(config)), path_of(config, 0), graphs(config)
    key = path.jobs[0].shares[0].prepared
    rows = next((Path(store.root) / "prepared" / key).rglob("*.arrow"))
    rows.write_bytes(rows.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ray.exceptions.RayTaskError, match=f"prepared/{key} is damaged"):
        outcome_of(0, {"k": 0}, Context(config, lineage.identities(config), graph))
    prepare_sources(config, Quiet())
    assert outcome_of(0, {"k": 0}, Context(config, lineage.identities(config), graph))["state"] == "complete"


def test_a_graph_that_is_killed_comes_back_and_trains_nothing_that_was_finished(ray, made, graphs, small):
    small["sources"]["chat"]["limit"] = 2000
    config = made()
    graph, path = graphs(config), path_of(config, 0)
    outcome: dict = {}
    context = Context(config, lineage.identities(config), graph)
    trial = threading.Thread(target=lambda: outcome.update(outcome_of(0, {"k": 0}, context)))
    trial.start()
    wait_for(lambda: path.keys[1] in [key for _, key in named(ray, graph, "stage_started")], 120, "stage 2")
    assert len(named(ray, graph, "stage_finished")) == 1
    ray.kill(graph, no_restart=False)
    trial.join(180)
    assert outcome["state"] == "complete"
    assert [key for _, key in named(ray, graph, "stage_started")] == [path.keys[1]], "what it did in its second life"


def test_two_sweeps_on_one_storage_train_a_shared_stage_once(ray, made, graphs):
    config = made()
    path = path_of(config, 0)
    both = [graphs(config, owner) for owner in ("one", "other")]
    ray.get([graph.want_stages.remote(0, path, known(path)) for graph in both])
    finished = [key for graph in both for _, key in named(ray, graph, "stage_finished")]
    assert sorted(finished) == sorted(path.keys)
    assert [name for graph in both for name, _ in named(ray, graph, "stage_elsewhere")]


def test_a_stage_that_no_trial_needs_any_more_is_cancelled_and_gives_its_devices_back(ray, made, graphs):
    config = slow(made())
    graph, path = graphs(config, grace_s=1.0), path_of(config, 0)
    graph.want_stages.remote(0, path, known(path))
    graph.want_stages.remote(1, path, known(path))
    wait_for(lambda: ray.get(graph.news.remote("", 0, cluster.nodes(), Spent())).progress, 120, "training")
    ray.get(graph.leave.remote(0))
    time.sleep(0.5)
    assert not named(ray, graph, "stage_stopped"), "trial 1 needs it"
    ray.get(graph.leave.remote(1))
    late = graph.want_stages.remote(2, path, known(path))
    wait_for(lambda: named(ray, graph, "stage_stopped"), 60, "the end of the stage")
    wait_for(lambda: len(named(ray, graph, "stage_started")) == 2, 60, "its second start, for who came while it was stopped")
    ray.get(graph.leave.remote(2))
    with pytest.raises(ray.exceptions.RayTaskError, match="trial 2 has ended"):
        ray.get(late, timeout=60)
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 60, "free CPUs")


def mine():
    """The processes of this test's own Ray: others may run on the machine."""
    return psutil.Process().children(recursive=True)


@pytest.mark.slow
def test_a_stage_that_hears_neither_the_request_nor_the_interrupt_is_killed(ray, made, graphs, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import signal\nsignal.default_int_handler = signal.SIG_IGN\n")
    config = made()  # one step of it takes minutes, and a stage looks up after each
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 5000, "batch_size": 500_000})})
    graph, path = graphs(config, grace_s=2.0, variables={"PYTHONPATH": f"{tmp_path}:{ROOT}"}), path_of(config, 0)
    graph.want_stages.remote(0, path, known(path))
    training = wait_for(lambda: [p for p in mine() if "ray::train_stag" in p.name()], 60, "training")[0]
    time.sleep(3)
    asked = time.monotonic()
    ray.get(graph.leave.remote(0))
    wait_for(lambda: named(ray, graph, "stage_stopped"), 60, "the end of the stage")
    assert time.monotonic() - asked > 3, "it was asked, then interrupted, and then killed"
    wait_for(lambda: not training.is_running(), 60, "the end of its process")
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 60, "free CPUs")


def test_a_running_stage_stops_at_the_limit_and_no_other_begins(ray, made, graphs):
    config = slow(made())
    graph, path = graphs(config, budget=BudgetConfig(device_hours=6 / 3600), grace_s=1.0), path_of(config, 0)
    with pytest.raises(ray.exceptions.RayTaskError, match=r"budget\.device_hours = 0\.0016"):
        ray.get(graph.want_stages.remote(0, path, known(path)))
    assert [name for name, _ in named(ray, graph, "stage_started", "stage_stopped")] == ["stage_started", "stage_stopped"]
    other = path_of(config, 0.5)
    with pytest.raises(ray.exceptions.RayTaskError, match=r"budget\.device_hours"):
        ray.get(graph.want_stages.remote(1, other, known(other)))
    assert len(named(ray, graph, "stage_started")) == 1


def test_an_evaluation_that_no_trial_needs_any_more_ends_with_what_it_has_cost_and_is_made_for_who_comes_late(
    ray, made, graphs
):
    config = made()
    graph, path = graphs(config), path_of(config, 0)
    graph.want.remote(0, path, known(path))
    wait_for(lambda: named(ray, graph, "rung_started"), 120, "the evaluation")
    ray.get(graph.leave.remote(0))
    wait_for(lambda: named(ray, graph, "rung_stopped"), 60, "its end")
    assert "rung_finished" not in [e["event"] for e in events(ray, graph)]
    assert ray.get(graph.want.remote(1, path, known(path)))["scores"].keys() == set(config.evaluate.benchmarks)
    paid = [e["device_seconds"] for e in events(ray, graph) if e["event"] in ("rung_stopped", "rung_finished")]
    assert len(paid) == 2 and paid[1] > 0
