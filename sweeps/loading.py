"""From a file and overrides to a configuration, or to all its errors at once."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from data.files import Folder
from evaluators.config import names_file
from sweeps.checks import every
from sweeps.checks.problem import Problem, is_file
from sweeps.config import SweepConfig
from sweeps.dotted import with_value

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError, AttributeError)
"""What PyYAML raises for text that is no YAML, or no value of the type that a tag or a form promises."""


TAGS = {"grid", "choice", "uniform", "loguniform", "int", "simplex", "knee", "floor", "weights"}
TAGS |= {"transformers", "continuous", "vllm", "openai", "offline", "asked"}
"""Names that pydantic adds to an error's path for the variant of a union."""


Checked = TypeVar("Checked", bound=BaseModel)
Check = Callable[[Mapping[str, Any]], Iterable[Problem]]


class ConfigError(Exception):
    """Everything that is wrong with a configuration: a field, its value and a remedy per line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        super().__init__(f"{count} in the configuration; nothing was started\n{lines}")
        self.problems = tuple(problems)


def load(where: str, overrides: Sequence[str] = (), inputs: bool = True) -> SweepConfig:
    """The configuration at a path, or the shipped one of that name, with `key=value` overrides."""
    return parse(given(where, overrides), inputs)


def given(where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a configuration with overrides, not checked yet."""
    values = read(where)
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise ConfigError([Problem(override, "", "write overrides as key=value, for example train.lr=1e-5")])
        values = with_value(values, key, _scalar(text))
    return values


def parse(values: Mapping[str, Any], inputs: bool = True) -> SweepConfig:
    """A checked configuration; `inputs`: its files must be there. Raises ConfigError with every error that can be found."""
    return parse_as(SweepConfig, partial(every.find, files=inputs), values)


def parse_as(kind: type[Checked], check: Check, values: Mapping[str, Any]) -> Checked:
    """A configuration of some kind, with the checks beyond its types."""
    try:
        expanded = _expand(values)
    except RecursionError as error:
        raise ConfigError([Problem("CONFIG", "", "a YAML alias holds itself; write it out")]) from error
    problems: list[Problem] = []
    try:
        config = kind.model_validate(expanded)
    except ValidationError as error:
        problems = [_problem(entry) for entry in error.errors()]
    wrong = {problem.field for problem in problems}
    problems += [problem for problem in check(expanded) if problem.field not in wrong]
    if problems:
        raise ConfigError(problems)
    return config


def with_params(config: SweepConfig, params: Mapping[str, Any]) -> SweepConfig:
    """The configuration of one trial: the values of its parameters at their dotted paths."""
    values = config.model_dump()
    for key, value in params.items():
        values = with_value(values, key, value)
    return SweepConfig.model_validate(values)


def read(where: str) -> dict[str, Any]:
    """The mapping in a YAML file, or in the shipped configuration of that name."""
    path = Path(where)
    if not is_file(where) and where in shipped():
        path = Path(str(shipped()[where]))
    try:
        text = _in_a_bucket(where) if "://" in where else path.read_bytes() if is_file(str(path)) else None
        values = yaml.load((text or b"").decode(), _Loader)
    except UNREADABLE as error:
        raise ConfigError([Problem("CONFIG", where, f"not readable as YAML: {error}")]) from error
    if text is None:
        names = ", ".join(sorted(shipped()))
        raise ConfigError([Problem("CONFIG", where, f"no such file; give a path or one of: {names}")])
    if not isinstance(values, dict):
        raise ConfigError([Problem("CONFIG", where, "must hold a mapping of fields, name among them")])
    return values


def _in_a_bucket(where: str) -> bytes | None:
    folder, _, name = where.rpartition("/")
    return Folder(folder).read(name)


def shipped() -> dict[str, Any]:
    """The configurations that come with fulcrum, by name."""
    return {Path(f.name).stem: f for f in files("sweeps").joinpath("configs").iterdir() if f.name.endswith(".yaml")}


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-5 is a number (YAML 1.1 wants 2.0e-5) and a key that stands twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _scalar(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except UNREADABLE:
        return text


def _expand(values: Any, key: str = "") -> Any:
    """`${NAME}` and `${NAME:-default}` in the paths of a configuration; nowhere else, so that no secret gets in."""
    if isinstance(values, Mapping):
        return {name: _expand(value, str(name)) for name, value in values.items()}
    if isinstance(values, str) and names_file(key):
        return VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[2] or found[0], values)
    return values


def _problem(entry: Any) -> Problem:
    where = [str(part) for part in entry["loc"] if part not in TAGS]
    field = ".".join(where)
    known = _fields(where[:-1])
    if entry["type"] == "extra_forbidden":
        near = get_close_matches(where[-1], known, n=1)
        return Problem(field, entry["input"], f"no such field; {f'write {near[0]}' if near else 'remove it'}")
    value = "(not shown)" if field.endswith("key_env") else entry["input"]  # somebody may have written the key itself
    about = known.get(where[-1], "") if where else ""
    if entry["type"] == "missing":
        return Problem(field, "missing", f"add it: {about}" if about else "add it")
    return Problem(field, value, f"{entry['msg']}. {about}".strip())


def _fields(where: Iterable[str]) -> dict[str, str]:
    """Names and descriptions of the fields of the model at a path, {} where the path leads to no model."""
    model: Any = SweepConfig
    for name in where:
        field = model.model_fields.get(name) if _is_model(model) else None
        kinds = [field.annotation] if field else [model]
        found = [kind for outer in kinds for kind in _inside(outer) if _is_model(kind)]
        model = found[0] if found else None
    return {name: f.description or "" for name, f in model.model_fields.items()} if _is_model(model) else {}


def _inside(kind: Any) -> list[Any]:
    return [kind, *(inner for argument in get_args(kind) for inner in _inside(argument))]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
