"""From a judge's configuration to a judge, and to the name under which its ratings are kept apart from another's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.fingerprint import digest, folder_digest
from evaluators.config import MtBenchConfig
from evaluators.judge import ratings
from evaluators.judge.client import Endpoint
from evaluators.judge.config import JudgeConfig
from evaluators.judge.local import LocalJudge
from evaluators.judge.reply import Judge


def opened(config: JudgeConfig) -> Callable[[], Judge]:
    """Makes the judge of a configuration."""
    return partial(LocalJudge, config, model(config)) if config.path else partial(Endpoint, config)


def model(config: JudgeConfig) -> str:
    """What is asked: an endpoint's model, or a local folder with the hash of what it holds."""
    if config.path:
        return f"{Path(config.path).name}@{folder_digest(Path(config.path))[:8]}"
    return f"{config.model} at {config.base_url}"


def judgment(name: str, config: JudgeConfig, messages: object, replicate: int) -> str:
    """The key of a judgment: everything that may change what the judge says, or how that is read."""
    return digest([name, config.temperature, config.max_tokens, _reading(config), messages, replicate])


def named(config: MtBenchConfig, wording: str) -> str:
    """A judge with its prompts, references and rules, in a line. Ratings under two different lines are never compared."""
    judge = config.judge
    if not isinstance(judge, JudgeConfig):
        return judge
    files = [folder_digest(Path(path)) for path in (config.references, config.corrected_references) if path]
    told = [f"{model(judge)}, {wording}, references {digest(files)[:8] if files else 'none'}", _reading(judge)]
    told += [f"at most {judge.max_tokens} tokens"]
    told += [f"temperature {judge.temperature:g}"] if judge.temperature else []
    told += [f"median of {judge.replicates}"] if judge.replicates > 1 else []
    return ", ".join(told)


def _reading(config: JudgeConfig) -> str:
    return "FastChat's rules" if config.fastchat_compat else f"rules {ratings.VERSION}"
