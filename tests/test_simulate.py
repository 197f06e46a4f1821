"""Simulated sweeps: surfaces, noise, virtual time, every sampler and kind of parameter, and being killed at any moment."""

import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from urllib.request import urlopen
from wsgiref.simple_server import make_server

import pytest
import yaml
from rich.console import Console

from conftest import ROOT, fulcrum
from run_folders import events, table
from sweeps import budget, ledger
from sweeps.failures import SurfaceUnusable
from sweeps.inputs import Changed
from sweeps.loading import parse, with_params
from sweeps.progress import Progress
from sweeps.simulate import clock, tables
from sweeps.simulate.run import simulate
from sweeps.simulate.surfaces import SHIPPED, open_surface
from sweeps.simulate.world import World

K = {"type": "loguniform", "low": "1/256", "high": 1, "include_zero": True}
PAPER = {
    "name": "sim",
    "model": {"path": "nowhere/at-all"},
    "sources": {
        "math": {"path": "math.jsonl", "format": "gsm8k", "role": "specialist"},
        "code": {"path": "code.json", "format": "alpaca", "role": "specialist"},
        "talk": {"path": "talk.json", "format": "sharegpt", "role": "general"},
    },
    "evaluate": {
        "gsm8k": {"role": "specialist", "path": "gsm8k.jsonl"},
        "humaneval": {"role": "specialist", "path": "HumanEval.jsonl.gz"},
        "mt_bench": {"role": "general", "path": "question.jsonl"},
    },
    "search": {"sampler": "random", "trials": 12, "concurrency": 3, "space": {"k": K}},
}
FRACTIONS = {f"sources.{name}.fraction": {"type": "loguniform", "low": "1/256", "high": 1} for name in ("math", "code", "talk")}
WHAT_A_SURFACE_KNOWS = {
    "dmt-7b": ("dmt", {"k": K, "strategy": {"type": "choice", "values": ["dmt", "multi_task", "sequential"]}}),
    "dmt-13b": ("dmt", {"k": K}),
    "ratio-7b": ("multi_task", FRACTIONS),
    "mixing-7b": ("multi_task", FRACTIONS),
    "mixing-13b": ("multi_task", {"shares": {"type": "simplex", "over": list(FRACTIONS)}}),
    "mixing-33b": ("multi_task", {"sources.math.fraction": {"type": "uniform", "low": 0, "high": 1}}),
}
EVERY_KIND = {
    "k": K,
    "strategy": {"type": "choice", "values": ["dmt", "multi_task"]},
    "train.lr": {"type": "loguniform", "low": 1e-5, "high": 1e-3},
    "train.epochs": {"type": "int", "low": 1, "high": 3},
    "train.warmup": {"type": "uniform", "low": 0, "high": 0.1, "when": {"strategy": "multi_task"}},
    "shares": {"type": "simplex", "over": list(FRACTIONS)},
}
COLUMNS = ["state", "k", "strategy", "train.lr", "train.epochs", "train.warmup", *FRACTIONS, *tables.BENCHMARKS]
MEASURED = f"""{",".join(COLUMNS)}
complete,0,dmt,1e-5,1,,0.2,0.3,0.5,0.30,0.15,6.0
complete,0.25,dmt,1e-4,2,,0.6,0.2,0.2,0.48,0.13,5.7
complete,1,dmt,1e-3,3,,0.3,0.3,0.4,0.45,0.14,5.6
complete,,multi_task,1e-4,3,0.05,0.1,0.1,0.8,0.47,0.14,5.8
complete,,multi_task,1e-5,1,0.1,0.3,0.4,0.3,0.40,0.10,5.1
failed,0.5,dmt,1e-4,2,,0.3,0.3,0.4,,,
"""


def config(tmp_path, strategy="dmt", **search):
    values = PAPER | {"storage": str(tmp_path / "runs"), "strategy": strategy, "search": PAPER["search"] | search}
    return parse(values, inputs=False)


def quiet():
    return Progress(Console(file=StringIO()))


def run(made, surface="dmt-7b", world=0):
    return simulate(made, open_surface(surface, made), world, quiet())


def folder(made):
    return Path(made.storage) / made.name


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_a_surface_goes_through_the_published_points(tmp_path, size):
    made = config(tmp_path)
    surface = open_surface(f"dmt-{size}", made)
    for k, row in tables.DMT[size].items():
        truth = surface.truth(with_params(made, {"k": k}), {"k": k})
        assert [truth["gsm8k"] * 100, truth["humaneval"] * 100, truth["mt_bench"]] == pytest.approx(row)


def test_between_two_points_a_surface_lies_between_them(tmp_path):
    made = config(tmp_path)
    surface = open_surface("dmt-7b", made)
    values = [surface.truth(with_params(made, {"k": k}), {})["gsm8k"] for k in (1 / 16, 1 / 12, 1 / 8, 1 / 5, 1 / 4)]
    assert values == sorted(values) and len(set(values)) == 5


def test_the_ratio_surface_goes_through_its_points_and_stays_within_them(tmp_path):
    made = config(tmp_path, "multi_task", space=FRACTIONS)
    surface = open_surface("ratio-7b", made)

    def at(specialist, general):
        shares = dict(zip(FRACTIONS, (specialist, specialist, general), strict=True))
        truth = surface.truth(with_params(made, shares), shares)
        return [truth["gsm8k"] * 100, truth["humaneval"] * 100, truth["mt_bench"]]

    for point, row in tables.RATIO_7B.items():
        assert at(*point) == pytest.approx(row)
    assert 4.69 <= at(1 / 100, 1 / 100)[2] <= 5.84


@pytest.mark.parametrize("name", SHIPPED)
def test_every_surface_can_be_searched_to_the_end(tmp_path, name):
    strategy, searched = WHAT_A_SURFACE_KNOWS[name]
    made = config(tmp_path, strategy, space=searched, trials=6)
    chosen = run(made, name)
    assert chosen and [row["state"] for row in table(folder(made))] == ["complete"] * 6


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "nsga2", "nsga3", "gp"])
def test_every_sampler_searches_every_kind_of_parameter(tmp_path, sampler):
    (tmp_path / "measured.csv").write_text(MEASURED)
    made = config(tmp_path, space=EVERY_KIND, sampler=sampler, trials=14)
    assert run(made, str(tmp_path / "measured.csv"))
    rows = table(folder(made))
    assert [row["state"] for row in rows] == ["complete"] * 14
    assert list(rows[0])[2:10] == ["k", "strategy", "train.lr", "train.epochs", "train.warmup", *FRACTIONS]
    for row in rows:
        assert (row["k"] == "") == (row["strategy"] == "multi_task") == (row["train.warmup"] != "")
        assert sum(float(row[path]) for path in FRACTIONS) == pytest.approx(1)


def test_a_grid_is_simulated_point_by_point(tmp_path):
    made = config(tmp_path, sampler="grid", trials=None, space={"k": {"type": "grid", "values": [0, "1/256", "1/4", 1]}})
    run(made)
    assert [float(row["k"]) for row in table(folder(made))] == [0, 1 / 256, 1 / 4, 1]


def test_what_a_surface_says_nothing_about_is_refused(tmp_path):
    with pytest.raises(SurfaceUnusable, match=r"nothing about train\.lr"):
        open_surface("dmt-7b", config(tmp_path, space={"k": K, "train.lr": EVERY_KIND["train.lr"]}))
    (tmp_path / "other.csv").write_text("k,gsm8k,humaneval\n0.5,0.1,0.2\n")
    with pytest.raises(SurfaceUnusable, match="nothing about mt_bench"):
        open_surface(str(tmp_path / "other.csv"), config(tmp_path))
    with pytest.raises(SurfaceUnusable, match="give one of dmt-7b"):
        open_surface("dmt-70b", config(tmp_path))


def test_the_noise_of_a_score_is_that_of_its_items():
    """Over many worlds, which draw the questions and the answers anew, a score scatters as a binomial one does."""
    scores = [World(seed, "7b").answers("gsm8k", 0.4, "e").mean() for seed in range(300)]
    assert fmean(scores) == pytest.approx(0.4, abs=0.003)
    assert stdev(scores) == pytest.approx((0.4 * 0.6 / 1319) ** 0.5, rel=0.15)


def test_the_same_questions_are_hard_for_all_trials():
    """So the difference of two trials is less noisy than if each had its own questions."""
    pairs = [[World(seed, "7b").answers("gsm8k", 0.4, e).mean() for e in "ab"] for seed in range(300)]
    assert stdev(a - b for a, b in pairs) < 0.85 * (2 * 0.4 * 0.6 / 1319) ** 0.5


def test_a_rung_is_scored_on_the_first_items_and_is_noisier(tmp_path):
    made = config(tmp_path)
    whole, quarter = (World(0, "7b").measured("gsm8k", 0.4, made, ["s"], "e", share) for share in (1.0, 0.25))
    assert (whole["n"], quarter["n"]) == (1319, 330)
    assert quarter["stderr"] == pytest.approx(2 * whole["stderr"], rel=0.05)


def test_trials_that_share_a_stage_share_the_luck_of_its_seed(tmp_path):
    made = config(tmp_path)

    def shift(world, *stages):
        return World(world, "7b").measured("mt_bench", 6.0, made, stages, "same")["value"]

    together = [(shift(w, "first", "a"), shift(w, "first", "b")) for w in range(200)]
    apart = [(shift(w, "x", "a"), shift(w, "y", "b")) for w in range(200)]
    assert stdev(a - b for a, b in together) < 0.85 * stdev(a - b for a, b in apart)


def test_shared_stages_are_paid_once_in_virtual_time(tmp_path):
    run(config(tmp_path, trials=5))
    told = events(tmp_path / "runs" / "sim")
    first = [e for e in told if e["event"] == "stage_finished" and e["parent"] is None]
    assert len(first) == 1 and len([e for e in told if e["event"] == "stage_finished"]) == 6
    seconds = first[0]["device_seconds"]
    rows = list(csv.DictReader((tmp_path / "runs" / "sim" / "trials.csv").open()))
    assert [float(row["saved_device_seconds"]) for row in rows] == pytest.approx([0] + [seconds] * 4)
    ended = {e["key"]: e["time"] for e in told if e["event"] == "stage_finished"}
    assert ended[first[0]["key"]] == pytest.approx(seconds), "one device"


def test_virtual_time_passes_without_waiting_and_a_deadlock_is_an_error():
    async def sleep():
        await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time()

    async def never():
        await asyncio.get_running_loop().create_future()

    assert clock.run(sleep(), clock.VirtualLoop(5.0)) == pytest.approx(1e6 + 5)
    with pytest.raises(RuntimeError, match="never happen"):
        clock.run(never(), clock.VirtualLoop())


@pytest.mark.parametrize("start", [2.0**24 + 0.1, 2.0**31])
def test_virtual_time_does_not_stand_still_after_half_a_year(start):
    seen = []

    async def sleep():
        while len(seen) < 50:
            await asyncio.wait_for(asyncio.sleep(0.1), 1)
            seen.append(asyncio.get_running_loop().time())

    stuck = threading.Timer(30, lambda: loop.call_soon_threadsafe(loop.stop))
    loop = clock.VirtualLoop(start)
    stuck.start()
    try:
        clock.run(sleep(), loop)
    finally:
        stuck.cancel()
    assert seen[-1] == pytest.approx(start + 5, abs=1e-3)


def test_a_budget_ends_a_simulation_and_more_of_it_continues_it(tmp_path):
    made = config(tmp_path)
    limited = made.model_copy(update={"budget": made.budget.model_copy(update={"device_hours": 500.0})})
    run(limited)
    told = events(folder(made))
    spent = sum(e.get("device_seconds", 0) for e in told if e["event"] in ("stage_finished", "rung_finished")) / 3600
    assert told[-1]["event"] == "run_stopped" and 300 < spent <= 500
    run(made)
    assert len(table(folder(made))) == 12


def killed_after(lines: int, made) -> None:
    """Simulate in a process of its own that is killed once it has written so many lines, the last one only in part."""
    child = os.fork()
    if child == 0:
        written = 0
        append = ledger._File.write

        def write(self, line):
            nonlocal written
            written += 1
            if written > lines:
                append(self, line[: len(line) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, line)

        ledger._File.write = write
        try:
            run(made)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_what_a_killed_simulation_was_charged_is_what_an_undisturbed_one_was(tmp_path):
    made, again = (config(tmp_path / name, trials=4) for name in ("once", "again"))
    run(made)
    begun = [e["event"] for e in events(folder(made))].index("rung_started")
    killed_after(begun + 1, again)
    run(again)
    spent = [budget.spent(events(folder(each))).device_seconds for each in (made, again)]
    assert spent[0] == pytest.approx(spent[1])


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_killed_at_ten_moments_and_continued_it_ends_with_the_same_table(tmp_path, sampler):
    made = config(tmp_path, sampler=sampler, trials=200, concurrency=4)
    again = made.model_copy(update={"storage": str(tmp_path / "again")})
    run(again)
    moments = random.Random(7)
    for _ in range(10):
        killed_after(moments.randint(1, 130), made)
    run(made)
    assert table(folder(made)) == table(folder(again))
    kept = [e for e in events(folder(made)) if e["event"] == "stage_finished"]
    assert len(kept) == len({e["key"] for e in kept}) == 201, "no stage was trained twice"


def test_a_simulation_says_so_everywhere_and_is_no_run(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(PAPER))
    ended = fulcrum("simulate", "c.yaml", "--surface", "dmt-7b", "search.trials=4", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("SIMULATION against the surface dmt-7b") == 2
    run_dir = tmp_path / "runs" / "sim"
    assert events(run_dir)[0]["simulation"] == {"surface": "dmt-7b", "world": 0}
    for shown in (run_dir / "report.html", run_dir / "best.yaml"):
        assert "SIMULATION against the surface dmt-7b" in shown.read_text()
    for verb in ("status", "report"):
        assert "SIMULATION" in fulcrum(verb, "runs/sim", cwd=tmp_path).stdout
    for name in ("balance.json", "trials.parquet", "study.db", "front.png", "tradeoff.png"):
        assert (run_dir / name).stat().st_size
    other = fulcrum("simulate", "c.yaml", "--surface", "dmt-13b", "search.trials=4", cwd=tmp_path)
    assert other.returncode == 2 and "give the simulation another `name`" in other.stderr


def test_a_simulation_is_not_continued_for_real(tmp_path, small):
    from sweeps import inputs, lineage

    (tmp_path / "m.csv").write_text("k,toy_math,toy_chat\n0,0.1,8\n1/2,0.9,6\n".replace("1/2", "0.5"))
    made = parse(small | {"storage": str(tmp_path / "runs")})
    run(made, str(tmp_path / "m.csv"))
    with pytest.raises(Changed, match="it is a simulation"):
        inputs.refuse_changes(lineage.run_folder(made), made, lineage.identities(made))


def test_simulating_starts_without_torch_and_ray(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(PAPER))
    code = (
        "import sys; sys.argv = ['fulcrum', 'simulate', 'c.yaml', '--surface', 'dmt-7b', 'search.trials=2']\n"
        "from sweeps.cli import main\n"
        "try: main()\n"
        "finally: print('heavy:', sorted({'torch', 'ray', 'transformers', 'deepspeed', 'datasets'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "heavy: []" in ended.stdout, ended.stdout + ended.stderr


@contextmanager
def serving(app):
    """From a path to the JSON that a web application answers, over HTTP on this machine."""
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield lambda path: json.load(urlopen(f"http://127.0.0.1:{server.server_port}{path}"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_study_opens_in_optuna_and_in_its_dashboard(tmp_path):
    """The HTTP API of the dashboard: what a browser would be sent."""
    import optuna
    import optuna_dashboard

    made = config(tmp_path, trials=5)
    run(made)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder(made)}/study.db")
    study = optuna.load_study(study_name="sim", storage=storage)
    rows = table(folder(made))
    assert [t.number for t in study.trials] == [int(row["trial"]) for row in rows]
    assert [t.params["k"] for t in study.trials] == [float(row["k"]) for row in rows]
    assert [t.values for t in study.trials] == [[float(row["specialist"]), float(row["general"])] for row in rows]
    assert study.metric_names == ["specialist", "general"] and len(study.best_trials) >= 1
    with serving(optuna_dashboard.wsgi(storage)) as get:
        [summary] = get("/api/studies")["study_summaries"]
        assert summary["study_name"] == "sim"
        detail = get(f"/api/studies/{summary['study_id']}")
    assert [t["state"] for t in detail["trials"]] == ["Complete"] * 5
