"""Who holds a run."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from conftest import ROOT
from data.files import Folder
from sweeps import holder
from sweeps.holder import Held, Hold, myself


def write(folder, who):
    (folder / "holder.json").write_text(json.dumps(asdict(who)))


def test_a_hold_is_written_and_removed(tmp_path):
    with Hold(Folder(tmp_path)):
        assert holder.read(Folder(tmp_path)).pid == myself().pid
    assert not (tmp_path / "holder.json").exists()


def test_a_live_process_on_this_host_is_named_and_refused(tmp_path):
    write(tmp_path, myself())
    with pytest.raises(Held, match=f"process {myself().pid} on"), Hold(Folder(tmp_path)):
        pass


def test_a_dead_process_on_this_host_is_taken_over_at_once(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write(tmp_path, replace(myself(), pid=dead.pid))
    said = []
    with Hold(Folder(tmp_path), said.append):
        assert said == []


def test_a_process_id_that_was_given_out_again_is_not_the_holder(tmp_path):
    write(tmp_path, replace(myself(), started=myself().started - 1000))
    with Hold(Folder(tmp_path)):
        pass


def test_elsewhere_a_counter_that_rests_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "PATIENCE_S", 1.0)
    write(tmp_path, replace(myself(), host="elsewhere"))
    said = []
    with Hold(Folder(tmp_path), said.append):
        assert "elsewhere" in said[0]


def test_elsewhere_a_counter_that_moves_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "PATIENCE_S", 30.0)
    there = replace(myself(), host="elsewhere")
    write(tmp_path, there)
    mover = threading.Timer(0.5, write, (tmp_path, replace(there, counter=1)))
    mover.start()
    started = time.monotonic()
    with pytest.raises(Held, match="on elsewhere, whose counter moves"), Hold(Folder(tmp_path), lambda _: None):
        pass
    mover.join()
    assert time.monotonic() - started < 20


def test_the_counter_moves_while_a_run_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "BEAT_S", 0.05)
    with Hold(Folder(tmp_path)):
        until = time.monotonic() + 20
        while holder.read(Folder(tmp_path)).counter < 3:
            assert time.monotonic() < until


def test_a_holder_that_was_replaced_is_interrupted_and_leaves_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "BEAT_S", 0.05)
    thief = replace(myself(), token="other")
    with pytest.raises(KeyboardInterrupt), Hold(Folder(tmp_path)):
        write(tmp_path, thief)
        time.sleep(20)
    assert holder.read(Folder(tmp_path)).token == "other"


def in_order(signals):
    """How a process ends that is sent signals, one after the other, while it holds something; and how long it took."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sweeps.interrupt import interruptible\n"
        "try:\n"
        "    with interruptible():\n"
        "        try:\n"
        "            print('running', flush=True); time.sleep(60)\n"
        "        finally:\n"
        "            print('ending', flush=True); time.sleep(60 if len(sys.argv) > 1 else 0)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    slow = ["slow to end"] if len(signals) > 1 else []
    process = subprocess.Popen([sys.executable, "-c", code, *slow], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for number, said in zip(signals, ("running", "ending"), strict=False):
        assert process.stdout.readline().strip() == said
        process.send_signal(number)
    return process.communicate(timeout=30)[0].split()[-1:], process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_in_order(number):
    assert in_order([number]) == (["interrupted"], 0)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_signal_kills(numbers):
    assert in_order(numbers) == ([], 130)
