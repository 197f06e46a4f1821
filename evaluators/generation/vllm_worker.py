"""The other end of `vllm.py`, run by an interpreter that has vllm and nothing of ours.

Reads lines of JSON from stdin and answers each with one line: {"start": arguments of vllm.LLM}, {"adapter": folder or null},
{"requests": [...]}. An answer with "error" is the last one. vLLM writes its own talk to stdout, so answers go to a copy of it.
"""

import json
import os
import sys
from typing import Any

CANARIES = ("The capital of France is", "2 + 2 =", "def add(a, b):", "Tell me a story.")


class Worker:
    """One model and the adapter that is on."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._adapter: Any = None
        self._count = 0

    def answer(self, line: dict[str, Any]) -> dict[str, Any]:
        if "start" in line:
            return self._start(line["start"])
        if "adapter" in line:
            return self._put(line["adapter"])
        return {"answers": self._complete(line["requests"])}

    def _start(self, arguments: dict[str, Any]) -> dict[str, Any]:
        import vllm  # type: ignore[import-not-found,unused-ignore]

        # "vllm" ignores the sampling defaults that a model's generation_config.json brings.
        self._llm = vllm.LLM(**{"generation_config": "vllm"} | arguments)
        return {"version": str(vllm.__version__)}

    def _put(self, folder: str | None) -> dict[str, Any]:
        """Put an adapter on, and see that it changes something; ids are counted and never used again."""
        self._adapter = None
        if folder is not None:
            from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]

            before = self._first()
            self._count += 1
            self._adapter = LoRARequest(f"adapter-{self._count}", self._count, folder)
            if self._first() == before and not _all_zero(folder):
                raise RuntimeError(f"{folder}: the adapter changes nothing, though its weights are not zero")
        return {}

    def _first(self) -> list[Any]:
        """The likeliest first tokens after each of the fixed prompts, with their log-probabilities."""
        from vllm import SamplingParams

        outputs = self._llm.generate(
            list(CANARIES),
            SamplingParams(temperature=0.0, max_tokens=1, logprobs=5),
            use_tqdm=False,
            lora_request=self._adapter,
        )
        return [{token: found.logprob for token, found in output.outputs[0].logprobs[0].items()} for output in outputs]

    def _complete(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[Any] = [None] * len(requests)
        for raw in (True, False):
            chosen = [i for i, request in enumerate(requests) if (request["prompt"] is not None) == raw]
            for i, output in zip(chosen, self._ask([requests[i] for i in chosen], raw), strict=True):
                said = output.outputs[0]
                answers[i] = {"text": said.text, "tokens": len(said.token_ids), "finish": said.finish_reason}
        return answers

    def _ask(self, requests: list[dict[str, Any]], raw: bool) -> list[Any]:
        from vllm import SamplingParams

        if not requests:
            return []
        how = [SamplingParams(**request["how"]) for request in requests]
        ask = self._llm.generate if raw else self._llm.chat
        asked = [request["prompt" if raw else "messages"] for request in requests]
        return list(ask(asked, how, use_tqdm=False, lora_request=self._adapter))


def _all_zero(folder: str) -> bool:
    from safetensors import safe_open

    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as file:
        second = [name for name in file.keys() if ".lora_B." in name]  # noqa: SIM118
        return 2 * len(second) == len(file.keys()) and not any(file.get_tensor(name).any() for name in second)


def main() -> None:
    """Answer lines until stdin ends."""
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))  # or `import vllm` would find our own file of that name
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        told.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
