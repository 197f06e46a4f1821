"""What can be wrong with a search space and with the points that a search starts from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sweeps import scales, space, starts
from sweeps.checks import recipe
from sweeps.checks.inputs import used_sources
from sweeps.checks.problem import Problem, Values, entries, stages_of
from sweeps.config import Parameter, SearchConfig, SweepConfig
from sweeps.dotted import mapping_at, with_value
from trainers.config import LoraConfig
from trainers.keys import NOT_MATHS

SEARCHABLE = (
    "k (with strategy dmt), train.<field>, sources.<name>.fraction or weight, data.total, strategy, model.path, model.dtype, "
    "stages.<number>.mixture.<source>, stages.<number>.train.<field>"
)


def find(values: Values) -> list[Problem]:
    """All problems of the search."""
    parameters = _parameters(values)
    found = [*_space(values, parameters), *_weights(values, parameters), *_conditions(parameters)]
    return [*found, *_columns(parameters), *_start(values), *_anchors(values, parameters)]


def _parameters(values: Values) -> dict[str, Any]:
    """The parameters that can be read; what is wrong with the others is reported with their fields."""
    parameters = {}
    for key, raw in mapping_at(values, "search", "space").items():
        try:
            parameters[str(key)] = TypeAdapter(Parameter).validate_python(raw)
        except ValidationError:
            continue
    return parameters


def _space(values: Values, parameters: Mapping[str, Any]) -> Iterator[Problem]:
    sampler = mapping_at(values, "search").get("sampler", "tpe")
    for key, parameter in parameters.items():
        field, paths = f"search.space.{key}", scales.columns(key, parameter)
        unknown = [path for path in paths if not _searchable(values, path, parameter.type)]
        for path in unknown:
            remedy = f"does not change what a trial learns; search one of: {SEARCHABLE}"
            yield Problem(field, "" if path == key else path, remedy)
        if unknown:
            continue
        if (sampler == "grid") != (parameter.type == "grid") and parameter.type != "choice":
            yield Problem(f"{field}.type", parameter.type, "sampler grid needs type grid or choice, and type grid sampler grid")
        if hasattr(parameter, "low") and parameter.low >= parameter.high:
            yield Problem(f"{field}.low", parameter.low, f"must be below high = {parameter.high}")
        for path in paths:
            yield from _bounds(values, field, path, _examples(parameter))


def _searchable(values: Values, path: str, kind: str) -> bool:
    """Whether a path names something that ends in other stages. What it may be set to is another question."""
    match path.split("."):
        case ["k"]:
            return "strategy" in mapping_at(values, "search", "space") or values.get("strategy", "dmt") == "dmt"
        case ["train", "max_length"]:  # sources are tokenised for each length beforehand
            return kind in ("grid", "choice")
        case ["train", "lora", field]:
            return field in LoraConfig.model_fields
        case ["train", field, *_]:
            return field not in NOT_MATHS
        case ["sources", name, "fraction" | "weight"]:
            return name in mapping_at(values, "sources")
        case ["stages", number, "mixture", name]:
            return _is_stage(values, number) and name in mapping_at(values, "sources")
        case ["stages", number, "train", field, *_]:
            return _is_stage(values, number) and field not in NOT_MATHS | {"max_length"}
        case ["model", "path"]:  # sources are tokenised for each model beforehand
            return kind in ("grid", "choice")
        case ["strategy"] | ["model", "dtype"] | ["data", "total"]:
            return True
    return False


def _is_stage(values: Values, number: str) -> bool:
    return number.isdigit() and int(number) < len(stages_of(values))


def _examples(parameter: Any) -> list[Any]:
    """Values that stand for all of a parameter: every one of a list; the ends, a fraction between them and the zero."""
    if hasattr(parameter, "values"):
        return list(parameter.values)
    if parameter.type == "simplex":
        return [0.0, 1.0, 1 / len(parameter.over)]
    between = [] if parameter.type == "int" else [parameter.low + (parameter.high - parameter.low) / 3]
    return [parameter.low, parameter.high, *between, *([0.0] if getattr(parameter, "include_zero", False) else [])]


def _bounds(values: Values, field: str, path: str, examples: Sequence[Any]) -> Iterator[Problem]:
    """Values that the field of a parameter does not take."""
    for value in examples:
        changed = with_value(values, path, value)
        try:
            SweepConfig.model_validate(changed)
        except ValidationError as error:
            for entry in error.errors():
                if ".".join(map(str, entry["loc"])).startswith(path):
                    yield Problem(field, value, entry["msg"])
        for problem in (*recipe.strategy(changed), *recipe.stages(changed)):
            if problem.field.startswith(path) or path == "strategy":
                yield Problem(field, value, f"{problem.field}: {problem.remedy}")


def _weights(values: Values, parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """The weights of all sources sum to one, so they are searched together or not at all."""
    searched = [
        key for key, parameter in parameters.items() if any(_is_weight(path) for path in scales.columns(key, parameter))
    ]
    remedy = "weights sum to one: search those of all sources as the `over` of one simplex, and nothing else in it"
    for key in searched:
        over = scales.columns(key, parameters[key])
        sources = {path.split(".")[1] for path in over if _is_weight(path)}
        if len(searched) > 1 or len(sources) < len(over) or sources != used_sources(values):
            yield Problem(f"search.space.{key}", list(over), remedy)


def _is_weight(path: str) -> bool:
    return path.startswith("sources.") and path.endswith(".weight")


def _conditions(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    for key, parameter in parameters.items():
        for name, allowed in parameter.when.items():
            field = f"search.space.{key}.when.{name}"
            if name not in parameters:
                yield Problem(field, list(allowed), f"is not searched; name one of {sorted(parameters)}")
            elif (wrong := [v for v in allowed if not scales.fits(parameters[name], [v])]) or parameters[
                name
            ].type == "simplex":
                yield Problem(field, wrong, f"give values that search.space.{name} can take")
    if all(set(parameter.when) <= set(parameters) for parameter in parameters.values()):
        try:
            space.ordered(parameters)
        except ValueError as error:
            yield Problem("search.space", "", str(error))


def _columns(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """Paths that two parameters set, or one twice."""
    paths = [path for key, parameter in parameters.items() for path in scales.columns(key, parameter)]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Problem(f"search.space.{path}", "", "is set by more than one parameter; leave one of them out")


def _start(values: Values) -> Iterator[Problem]:
    try:
        search = SearchConfig.model_validate(mapping_at(values, "search"))
        if search.start and search.sampler == "grid":
            yield Problem("search.start", list(search.start), "a grid tries all of its points; leave it out")
        starts.points(search)
    except ValidationError:
        return  # reported with its field
    except ValueError as error:
        yield Problem("search.start", "", str(error))


ANCHORED = {"general": {"general"}, "specialist": {"specialist"}, "k0": {"general", "specialist"}}
"""The roles that an anchor is trained on."""


def _anchors(values: Values, parameters: Mapping[str, Any]) -> Iterator[Problem]:
    roles = {str(source.get("role")) for source in entries(values, "sources").values()}
    anchors = mapping_at(values, "search").get("anchors")
    weighted = any(_is_weight(path) for key, parameter in parameters.items() for path in scales.columns(key, parameter))
    for anchor in anchors if isinstance(anchors, list | tuple) else ():
        if weighted and anchor != "base":
            yield Problem("search.anchors", anchor, "has no weights: they are searched, and an anchor takes no searched value")
        missing = ANCHORED.get(anchor, set()) - roles if isinstance(anchor, str) else ()
        if missing:
            yield Problem("search.anchors", anchor, f"needs a source with role {' and one with role '.join(sorted(missing))}")
