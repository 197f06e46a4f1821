"""vLLM in a process and an environment of its own, which this one talks to in lines of JSON.

Greedy answers of vLLM depend on the batch unless VLLM_BATCH_INVARIANT=1 is in the environment. A new full model starts the
process anew; adapters of one base follow each other in the same process. Nothing here was run with vLLM itself: the tests
put a module with its interface in its place.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.checkpoints import Checkpoint
from data.mixture import generator
from evaluators.benchmark import Completion, EvaluationFailed
from evaluators.generation.config import VllmConfig
from evaluators.generation.interface import Request

WORKER = Path(__file__).with_name("vllm_worker.py")
NOT_ITS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables that would show our packages to the other environment."""


class Vllm:
    """Holds the process; it is started when the first checkpoint is opened."""

    def __init__(self, config: VllmConfig, trust_remote_code: bool = False) -> None:
        if not os.access(config.python, os.X_OK):
            raise EvaluationFailed(
                f"evaluate.engine.python = {config.python!r}: no such interpreter; make an environment with "
                "`python -m venv DIR && DIR/bin/pip install vllm` and name DIR/bin/python"
            )
        self._config = config
        self._trust = trust_remote_code
        self._process: subprocess.Popen[str] | None = None
        self._opened: Checkpoint | None = None
        self._version = ""

    def open(self, checkpoint: Checkpoint) -> None:
        if self._opened == checkpoint:
            return
        if self._process is None or self._opened is None or self._opened.model != checkpoint.model:
            self._start(checkpoint)
        self._opened = checkpoint
        self._say({"adapter": checkpoint.adapter})

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        answers = self._say({"requests": [_plain(request) for request in requests]})["answers"]
        return [Completion(a["text"], a["tokens"], "length" if a["finish"] == "length" else "stop") for a in answers]

    def close(self) -> None:
        self._opened = None
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def about(self) -> dict[str, Any]:
        return {"engine": "vllm", "vllm": self._version}

    def _start(self, checkpoint: Checkpoint) -> None:
        self.close()
        self._process = subprocess.Popen(
            [self._config.python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in NOT_ITS},
        )
        adapters = {"enable_lora": True, "max_lora_rank": self._config.max_lora_rank} if checkpoint.adapter else {}
        how = {"model": checkpoint.model, "tokenizer": checkpoint.folder, "trust_remote_code": self._trust}
        self._version = self._say({"start": how | adapters | self._config.options})["version"]

    def _say(self, line: dict[str, Any]) -> dict[str, Any]:
        """Send a line and read the answer to it. A process that fails or dies is not used again."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        told: dict[str, Any] = json.loads(answer) if answer else {"error": f"the process ended with {process.wait()}"}
        if "error" in told:
            self.close()
            raise EvaluationFailed(f"evaluate.engine.python = {self._config.python!r}: {told['error']}")
        return told


def _plain(request: Request) -> dict[str, Any]:
    """A request as the worker takes it: what vLLM's own parameters are called, and nothing of ours."""
    sampling = request.sampling
    how: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.temperature else 1.0,
        "max_tokens": request.max_new_tokens,
        "stop": list(request.stops),
    }
    if sampling.temperature:
        how["seed"] = int(generator("draw", sampling.seed, request.id).integers(2**31))
    return {"prompt": request.text if request.raw else None, "messages": list(request.messages), "how": how}
