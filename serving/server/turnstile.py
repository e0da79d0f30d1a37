"""How many requests to a text model are let through to Triton at a time: as many as the model holds.

One more would be refused by the model itself, but on the way there and back it costs Triton and the model's
process twice what the gateway needs to refuse it, which a busy machine cannot spare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..runtime.admission import QUEUE_FULL
from ..runtime.request_record import Outcome, RequestRecord
from ..runtime.turned_away import TurnedAwayCount
from .model_configs import model_configs

__all__ = ["Holding", "ModelFull", "Turnstile", "read_holdings"]

_HELD_BY_ONE = "max_queue_size"


class ModelFull(Exception):
    """A model holds as many requests as it may."""

    def __init__(self) -> None:
        super().__init__(QUEUE_FULL)


@dataclass(frozen=True, slots=True)
class Holding:
    """What a text model holds.

    Attributes:
        requests: most requests at a time, all its processes together.
        version: the one that is served, or the latest of them.
    """

    requests: int
    version: str


def read_holdings(repository: Path) -> dict[str, Holding]:
    """Find out from the configurations how much each text model holds.

    Where a model has several versions that is an upper bound, and the model itself refuses the rest. One
    whose processes are not counted in its configuration is left out.
    """
    found = {}
    for name, config in model_configs(repository):
        given = config.parameters[_HELD_BY_ONE].string_value if _HELD_BY_ONE in config.parameters else ""
        versions = sorted(int(e.name) for e in (repository / name).iterdir() if e.name.isdecimal())
        groups = list(config.instance_group)
        processes = sum(group.count for group in groups) * len(versions)
        if given.isdecimal() and processes and all(group.kind == group.KIND_CPU for group in groups):
            found[name] = Holding(int(given) * processes, str(versions[-1]))
    return found


class Turnstile:
    """Counts the requests that are at each text model. For the one thread that passes requests on."""

    def __init__(
        self,
        holdings: Mapping[str, Holding] | None = None,
        directory: Path | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Let everything through but what a model has no room for.

        Args:
            holdings: what the text models hold; other models are not counted.
            directory: is made, and has the files in which those turned away are counted (`TURNED_AWAY`); None
                counts nobody.
            log: takes the record of each request that was turned away.
        """
        self._holdings = dict(holdings or {})
        self._log = log
        self._inside: Counter[str] = Counter()
        self._counts: dict[str, TurnedAwayCount] = {}
        if directory is not None:
            directory.mkdir()
            self._counts = {name: TurnedAwayCount(directory / name) for name in self._holdings}

    def enter(self, model: str, request_id: str) -> None:
        """Let a request through; `leave` must follow.

        Raises:
            ModelFull: there is no room for it.
        """
        holding = self._holdings.get(model)
        if holding is None:
            return
        if self._inside[model] >= holding.requests:
            self._turn_away(model, holding.version, request_id)
            raise ModelFull
        self._inside[model] += 1

    def leave(self, model: str) -> None:
        """A request that was let through has ended."""
        if model in self._holdings:
            self._inside[model] -= 1

    def close(self) -> None:
        """Let go of the files; nobody is counted any more."""
        for count in self._counts.values():
            count.close()
        self._counts = {}

    def _turn_away(self, model: str, version: str, request_id: str) -> None:
        if model in self._counts:
            self._counts[model].add()
        if self._log is not None:
            record = RequestRecord(request_id)
            record.end(Outcome.OVERLOADED)
            record.stop()
            self._log(record.to_json(model, version))
