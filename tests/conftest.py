"""Fixtures that tests share: the real files, a small sweep of the toy world, and the command line."""

import logging
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


@pytest.fixture(scope="module")
def ray():
    """Ray, started for the tests of one module as a run starts it."""
    import ray

    from sweeps import cluster
    from sweeps.loading import parse

    before = dict(os.environ)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as the clusters of the fault tests: a process keeps the first mode it sees
    with cluster.joined(parse(SMALL), None):
        yield ray
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_"))]:
        os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback that the environment of this process, and of those it starts, leads to."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    set_here = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in set_here}
    os.environ.update(set_here)
    yield server
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def bucket(s3) -> str:
    """The URI of an empty bucket of the test's own."""
    import uuid

    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=name)
    return f"s3://{name}"


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
