"""A whole run with its storage in a bucket: killed in the middle, continued from another machine's point of view, the same."""

import signal
import uuid

import pyarrow.csv as csv
import pyarrow.fs as pafs
import pytest
import yaml

from conftest import fulcrum
from data.files import Folder
from run_folders import events, finished_stages, start, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def table(folder: Folder) -> dict:
    fs, path = pafs.FileSystem.from_uri(f"{folder}/trials.csv")
    found = csv.read_csv(fs.open_input_stream(path)).to_pydict()
    return {name: values for name, values in found.items() if not name.endswith("_seconds")}


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_in_a_bucket(bucket, tmp_path, small, monkeypatch, killed):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small["storage"] = f"{bucket}/runs"
    small["search"]["space"]["k"]["values"] = [0, "1/2"] if killed else [0]
    small["resources"] = {"workers": 1 if killed else 0}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    folder = Folder(bucket) / "runs" / "small"
    if killed:
        run = start(tmp_path, uuid.uuid4().hex)
        wait_for(lambda: finished_stages(folder), what="the first stage")
        run.send_signal(signal.SIGKILL)
        run.communicate()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [e["parent"] for e in finished_stages(folder)].count(None) == 1
    assert f"report: {folder}/report.html" in ended.stdout
    made = set(folder.names())
    assert made >= {"sweep.yaml", "config.json", "ledger", "study.db", "trials.csv", "trials.parquet", "balance.json"}
    assert made >= {"best.yaml", "report.html", "front.png", "tradeoff.png", "trials"}
    assert "holder.json" not in made
    assert not list((tmp_path).glob("runs*"))
    assert "1 complete" in fulcrum("status", str(folder), cwd=tmp_path).stdout or killed
    assert "0 to train" in fulcrum("plan", f"{folder}/best.yaml", cwd=tmp_path).stdout
    if killed:
        assert fulcrum("run", "c.yaml", f"storage={tmp_path}/undisturbed", cwd=tmp_path).returncode == 0
        assert table(folder) == table(Folder(tmp_path / "undisturbed" / "small"))
    assert [e["event"] for e in events(folder)][-1] == "run_finished"
