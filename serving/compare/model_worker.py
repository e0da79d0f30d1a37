"""One model in a process of its own: `python -m longserve.serving.compare.model_worker FD SPEC`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..measurement.memory import read_memory
from ..measurement.worker import answer_requests

if TYPE_CHECKING:
    from ..client.local import LocalClient

__all__ = ["ModelCommands", "main"]


class ModelCommands:
    """A loaded model, and what it can be told to do."""

    def __init__(self, client: LocalClient, *, impossible: bool) -> None:
        """Take the model.

        Args:
            client: the loaded bundle.
            impossible: let "no answer" compete with answers.
        """
        self._client = client
        self._impossible = impossible

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message says and return the reply."""
        commands: dict[str, Callable[..., dict[str, Any]]] = {"read": self.read, "group": self.group}
        return commands[message["do"]](**message["with"])

    def read(self, text: str, question: str | None) -> dict[str, Any]:
        """Read one document: the prediction, and how it was read."""
        began = time.perf_counter()
        if question is None:
            labelled = self._client.classify_windows(text)
            seconds = time.perf_counter() - began
            places = [(window.start, window.end) for window in labelled.windows]
            found = {"predicted": labelled.combined.label, "tokens": labelled.combined.tokens}
        else:
            answered = self._client.answer_windows(question, text, handle_impossible_answer=self._impossible)
            seconds = time.perf_counter() - began
            places = [(window.start, window.end) for window in answered.windows]
            best = answered.combined[0]
            found = {"predicted": best.answer, "tokens": best.tokens}
        return {**found, "windows": places, "seconds": seconds, "peak": read_memory().peak}

    def group(self, texts: Sequence[str], questions: Sequence[str] | None) -> dict[str, Any]:
        """Read several documents together: the time that took."""
        began = time.perf_counter()
        if questions is None:
            self._client.classify(list(texts))
        else:
            self._client.answer(list(questions), list(texts), handle_impossible_answer=self._impossible)
        return {"seconds": time.perf_counter() - began, "peak": read_memory().peak}


def main(arguments: list[str]) -> None:
    """Open the model, then answer until the other end closes."""

    def start() -> tuple[Mapping[str, Any], Callable[[dict[str, Any]], Mapping[str, Any]]]:
        from ..client.local import LocalClient
        from ..runtime.engine_settings import EngineName, EngineSettings

        spec = json.loads(arguments[1])
        began = time.perf_counter()
        settings = EngineSettings(engine=EngineName(spec["engine"]), threads=spec["threads"])
        client = LocalClient(spec["bundle"], engine=settings)
        ready = {
            "runs_on": client.runs_on,
            "load_seconds": time.perf_counter() - began,
            "memory": asdict(read_memory()),
        }
        return ready, ModelCommands(client, impossible=spec["impossible"]).answer

    answer_requests(int(arguments[0]), start)


if __name__ == "__main__":
    main(sys.argv[1:])
