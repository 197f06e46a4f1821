"""The sandbox: what must run, what must not, and as whom."""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys

import pytest

from conftest import ROOT
from evaluators import sandbox
from evaluators.sandbox import Limits, calls, run, run_all, seccomp
from evaluators.sandbox.suspicion import means

NOBODY = 65534


def corpus(python: str, path: str, landlock: int, **user) -> dict:
    script = f"{path}/corpus.py"
    ended = subprocess.run(
        [python, script, str(landlock)], env={"PYTHONPATH": path}, cwd="/", capture_output=True, text=True, **user
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def readable(tmp_path_factory):
    """A copy of the sandbox and its corpus in a folder that every user may read."""
    folder = tmp_path_factory.mktemp("readable")
    (folder / "evaluators").mkdir()
    (folder / "evaluators" / "__init__.py").touch()
    shutil.copytree(ROOT / "evaluators" / "sandbox", folder / "evaluators" / "sandbox")
    shutil.copy(ROOT / "tests" / "sandbox" / "corpus.py", folder)
    for part in [folder, *folder.parents][:-2]:
        part.chmod(0o755)
    return str(folder)


def blocked(found: dict) -> None:
    """No attack came to its end but those that cannot be told apart, which are marked; and nothing was damaged."""
    assert len(found["results"]) >= 60
    for name, (verdict, reason, suspicious) in found["results"].items():
        if name.startswith("marked"):
            assert suspicious, name
        else:
            assert verdict in ("failed", "timeout"), (name, verdict, reason)
    assert found["damage"] == []


def interpreter_for(user: int) -> str:
    """An interpreter that the user may start."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(PermissionError):
            subprocess.run([python, "-c", ""], user=user, group=user, cwd="/", check=True)
            return python
    pytest.skip("no interpreter that an unprivileged user may start")


@pytest.mark.parametrize("landlock", [Limits.landlock, 1], ids=["full", "landlock 1"])
def test_every_attack_is_blocked(readable, landlock):
    blocked(corpus(sys.executable, readable, landlock))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_every_attack_is_blocked_for_an_unprivileged_user(readable):
    python = interpreter_for(NOBODY)
    blocked(corpus(python, readable, Limits.landlock, user=NOBODY, group=NOBODY, extra_groups=[]))


def test_the_self_test_passes_and_names_what_confines(readable):
    problem, confined_by = sandbox.self_test()
    assert problem == ""
    assert {"rlimits", "seccomp"} < set(confined_by)
    assert sandbox.require() == confined_by


def test_without_landlock_everything_is_refused_with_the_remedy():
    result = run("x = 1", Limits(landlock=0))
    assert (result.verdict, "use Linux 5.13" in result.reason) == ("refused", True)
    with pytest.raises(sandbox.Escaped, match=r"Use Linux 5\.13.*allow_unsandboxed_code"):
        sandbox.require(0)


def test_a_canary_that_escapes_is_found(monkeypatch):
    from evaluators.sandbox import selftest

    monkeypatch.setitem(selftest.CANARIES, "does nothing wrong", "x = 1")
    assert "does nothing wrong" in sandbox.self_test()[0]


@pytest.mark.parametrize(
    ("program", "verdict", "reason"),
    [
        ("import math, re, collections, hashlib, random, typing, copy, string", "passed", ""),
        ("open('own', 'w').write('x'); assert open('own').read() == 'x'", "passed", ""),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", "passed", ""),
        ("import os; assert os.environ.get('HOME') is None and len(os.environ) < 8", "passed", ""),
        ("if __name__ == '__main__': print('x' * 1_000_000)", "passed", ""),
        ("1 / 0", "failed", "ZeroDivisionError: division by zero"),
        ("def f(:", "failed", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(0)", "failed", "SystemExit: 0"),
        ("\0", "failed", "SyntaxError: source code string cannot contain null bytes"),
        ("\ud800", "failed", "UnicodeEncodeError"),
        ("while True: pass", "timeout", ""),
    ],
)
def test_programs_end_as_they_should(program, verdict, reason):
    result = run(program, Limits(cpu_s=1))
    assert result.verdict == verdict
    assert reason in result.reason


def test_results_come_in_order_and_slow_programs_get_a_second_chance():
    programs = [f"assert {i} != 3" for i in range(8)] + ["while True: pass"]
    results = run_all(programs, Limits(cpu_s=1))
    assert [r.verdict for r in results] == ["passed"] * 3 + ["failed"] + ["passed"] * 4 + ["timeout"]
    assert results[-1].cpu_s >= 0.9


@pytest.mark.parametrize(
    ("text", "code", "verdict"), [("x = 1", 0, "passed"), ("1/0", 1, "failed"), ("import os; os._exit(0)", 1, "failed")]
)
def test_the_command_prints_one_line_of_json(tmp_path, text, code, verdict):
    (tmp_path / "p.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "evaluators.sandbox", str(tmp_path / "p.py")], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == code
    told = json.loads(ended.stdout)
    assert list(told) == ["verdict", "reason", "confined_by", "suspicious"]
    assert told["verdict"] == verdict
    missing = [sys.executable, "-m", "evaluators.sandbox", "missing.py"]
    assert subprocess.run(missing, cwd=ROOT, capture_output=True).returncode == 2


def test_means_of_forgery_are_marked_and_plain_programs_are_not():
    assert means("class A:\n    def __eq__(self, o): return True") == ["__eq__"]
    assert means("getattr(__import__('sys'), '_getframe')") == ["_getframe"]
    assert means("def f(x):\n    return sorted(x)[-1]") == []
    assert means("def f(:") == []


def answer(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """What the filter answers to a call: a small interpreter of classic BPF."""
    audit = seccomp.ARCHITECTURES[machine][0]
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack("<HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    place = accumulator = 0
    while True:
        what, yes, no, constant = code[place]
        if what == seccomp.RETURN:
            return constant
        if what == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif what == seccomp.AND:
            accumulator &= constant
        else:
            holds = {
                seccomp.EQUAL: accumulator == constant,
                seccomp.AT_LEAST: accumulator >= constant,
                seccomp.ANY_BIT: bool(accumulator & constant),
            }[what]
            place += yes if holds else no
        place += 1


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_answers_as_the_table_says(machine):
    column, program = seccomp.ARCHITECTURES[machine][1], seccomp.build(machine, 77)
    assert len(program) // 8 < 4096

    def ask(name, *arguments):
        return answer(program, machine, (calls.DENIED | calls.ASKED)[name][column], *arguments)

    known = [name for name, numbers in calls.DENIED.items() if numbers[column] is not None]
    assert len(known) > 80
    assert {ask(name) for name in known} == {seccomp.DENY}
    assert (ask("clone", 0x11), ask("clone", 0x10F00)) == (seccomp.DENY, seccomp.ALLOW)
    assert (ask("tgkill", 77), ask("tgkill", 78)) == (seccomp.ALLOW, seccomp.DENY)
    assert (ask("prctl", 15), ask("prctl", 1)) == (seccomp.ALLOW, seccomp.DENY)
    assert (ask("prlimit64", 0), ask("prlimit64", 77), ask("prlimit64", 1)) == (seccomp.ALLOW, seccomp.ALLOW, seccomp.DENY)
    assert (ask("fcntl", 3, 8), ask("fcntl", 3, 15), ask("fcntl", 3, 10), ask("fcntl", 3, 1)) == (
        *[seccomp.DENY] * 3,
        seccomp.ALLOW,
    )
    assert (ask("ioctl", 0, 0x5412), ask("ioctl", 0, 0x5401)) == (seccomp.DENY, seccomp.ALLOW)
    assert ask("clone3") == seccomp.MISSING
    assert (ask("openat", 0, 0, os.O_TRUNC), ask("openat", 0, 0, os.O_TRUNC | os.O_WRONLY)) == (seccomp.DENY, seccomp.ALLOW)
    assert ask("openat", 0, 0, 0) == seccomp.ALLOW
    assert answer(program, machine, calls.NEWER) == seccomp.MISSING
    write = {"x86_64": 1, "aarch64": 64}[machine]
    assert answer(program, machine, write) == seccomp.ALLOW


def test_calls_of_another_table_kill():
    program = seccomp.build("x86_64", 1)
    assert answer(program, "aarch64", 1) == seccomp.KILL
    assert answer(program, "x86_64", 0x40000000 | 1) == seccomp.KILL


def test_an_architecture_without_a_table_is_refused():
    with pytest.raises(KeyError):
        seccomp.build("riscv64", 1)
