"""Fixtures that tests share: the real files, a small sweep of the toy world, and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of what is tested
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]
BENCHMARKS = Path(os.environ.get("FULCRUM_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
FULCRUM = [sys.executable, "-m", "sweeps"]

# Learns next to nothing, in seconds: for tests that are about the path and not about what is learned.
SMALL = {
    "name": "small",
    "model": {"path": "toy"},
    "sources": {
        "math": {"path": "toy:math", "format": "messages", "role": "specialist", "limit": 64},
        "code": {"path": "toy:code", "format": "messages", "role": "specialist", "limit": 32},
        "chat": {"path": "toy:chat", "format": "messages", "role": "general", "limit": 64},
    },
    "strategy": "dmt",
    "train": {"epochs": 1, "lr": 2e-3, "batch_size": 16, "max_length": 128, "rows": 16},
    "resources": {"workers": 0},
    "evaluate": {
        "toy_math": {"role": "specialist", "limit": 8, "max_new_tokens": 12},
        "toy_chat": {"role": "general", "limit": 8, "max_new_tokens": 12},
    },
    "search": {"sampler": "grid", "space": {"k": {"type": "grid", "values": [0, "1/4", "1/2"]}}},
}


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    if not BENCHMARKS.is_dir():
        pytest.skip(f"no benchmark files at {BENCHMARKS}; set FULCRUM_BENCHMARKS")
    return BENCHMARKS


@pytest.fixture
def small() -> dict:
    """Values of the small sweep, to be changed at will."""
    import copy

    return copy.deepcopy(SMALL)


def fulcrum(*arguments: str, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run([*FULCRUM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of the small sweep: its folder, and how the command ended."""
    import yaml

    work = tmp_path_factory.mktemp("finished")
    (work / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return work / "runs" / "small", fulcrum("run", "small.yaml", cwd=work)
