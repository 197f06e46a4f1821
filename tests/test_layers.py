"""Imports run sweeps -> trainers, evaluators -> data, and never back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data": set(),
    "trainers": {"data"},
    "evaluators": {"data"},
    "sweeps": {"data", "trainers", "evaluators"},
}
NOT_BELOW_SWEEPS = {"data": {"ray", "optuna"}, "trainers": {"optuna"}, "evaluators": {"optuna", "ray"}, "sweeps": set()}


def imported(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {n.split(".")[0] for n in names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_lies_below_them(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = imported(path) & MAY_IMPORT.keys()
        assert ours <= MAY_IMPORT[package] | {package}, path
        assert not imported(path) & NOT_BELOW_SWEEPS[package], path


def test_only_the_launch_of_a_stage_knows_ray_train():
    knowing = {path.name for path in (ROOT / "trainers").rglob("*.py") if "ray" in imported(path)}
    assert knowing == {"launch.py", "worker_group.py"}
