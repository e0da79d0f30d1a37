"""Which model to take, and why: rules on figures alone.

1. A model is out if it is shown to be worse than the best one: the 95 % interval of the difference excludes
   zero, and the difference is more than what the user holds for worth a slower model (`worth`).
2. Of the others the one that does most documents a second is taken; among those within a tenth of that, the
   one that needs least memory; if that is equal too, the one with the better metric.
3. It is a firm recommendation if the documents are enough for it: the taken model is the best one, or the
   interval says that it is at most `worth` worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .uncertainty import Difference

__all__ = ["Candidate", "Recommendation", "recommend"]

_AS_FAST = 0.9
_FEW_IN_GROUP = 10
_NOTICED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the rules look at.

    Attributes:
        name: the model.
        quality: its metric, 0 to 1.
        behind: by how much that is below the best model's; None for the best one.
        documents_per_second: how many it does.
        peak_bytes: what its process needs.
        whole, split: documents whose evidence one of its windows holds whole, or none does, and how right the
            model is on each of the two sorts.
    """

    name: str
    quality: float
    behind: Difference | None
    documents_per_second: float
    peak_bytes: int
    whole: tuple[int, float] = (0, 0.0)
    split: tuple[int, float] = (0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Which model to take.

    Attributes:
        model: its name.
        firm: whether the documents are enough to say so.
        reasons: why it, and why not each of the others; whole sentences.
        cautions: what the documents do not show.
    """

    model: str
    firm: bool
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]


def recommend(
    candidates: Sequence[Candidate], *, metric: str, documents: int, worth: float = 0.01
) -> Recommendation:
    """Choose a model.

    Args:
        candidates: the models; one at least, exactly one of them with no `behind`.
        metric: what `quality` is called.
        documents: how many the figures rest on.
        worth: a difference of the metric that is not worth a slower model.
    """
    best = next(candidate for candidate in candidates if candidate.behind is None)
    fit = [candidate for candidate in candidates if not _is_shown_worse(candidate, worth)]
    taken = _cheapest(fit)
    reasons = [_why(taken, best, metric, worth, len(candidates))]
    reasons += [_why_not(other, taken, best, metric, worth) for other in candidates if other is not taken]
    reasons += [note for candidate in candidates if (note := _evidence_note(candidate))]
    cautions = _cautions(taken, best, documents, worth)
    return Recommendation(
        model=taken.name, firm=not cautions, reasons=tuple(reasons), cautions=tuple(cautions)
    )


def _is_shown_worse(candidate: Candidate, worth: float) -> bool:
    behind = candidate.behind
    return behind is not None and behind.low > 0 and behind.value > worth


def _cheapest(fit: Sequence[Candidate]) -> Candidate:
    fastest = max(candidate.documents_per_second for candidate in fit)
    near = [candidate for candidate in fit if candidate.documents_per_second >= _AS_FAST * fastest]
    return min(near, key=lambda candidate: (candidate.peak_bytes, -candidate.quality))


def _why(taken: Candidate, best: Candidate, metric: str, worth: float, models: int) -> str:
    if models == 1:
        return f"{taken.name} is the only model: its {metric} is {_percent(taken.quality)}."
    rate = f"{_rate(taken.documents_per_second)} documents a second"
    if taken is best:
        return f"{taken.name} has the best {metric}, {_percent(taken.quality)}, at {rate}."
    assert taken.behind is not None
    return (
        f"{taken.name} does {rate} and is not shown to be worse than {best.name}, the best, by more than "
        f"{_points(worth)}: its {metric} is {_percent(taken.quality)} against {_percent(best.quality)}, "
        f"{_interval(taken.behind)}."
    )


def _why_not(other: Candidate, taken: Candidate, best: Candidate, metric: str, worth: float) -> str:
    if _is_shown_worse(other, worth):
        assert other.behind is not None
        return (
            f"{other.name} is worse than {best.name}: its {metric} is {_percent(other.quality)} against "
            f"{_percent(best.quality)}, {_interval(other.behind)}."
        )
    ratio = taken.documents_per_second / other.documents_per_second
    if ratio > 1 / _AS_FAST:
        return (
            f"{other.name} is no better as far as these documents show ({metric} {_percent(other.quality)}), "
            f"and {taken.name} does {ratio:.1f} times as many documents a second."
        )
    needed, less = (f"{candidate.peak_bytes / 1e6:.0f} MB" for candidate in (other, taken))
    memory = "" if needed == less else f", and needs {needed} of memory against {less}"
    return (
        f"{other.name} is no better as far as these documents show ({metric} {_percent(other.quality)}), "
        f"about as fast ({_rate(other.documents_per_second)} documents a second){memory}."
    )


def _evidence_note(candidate: Candidate) -> str | None:
    """Say where windows cost a model its answers, if there are enough documents of both sorts to see it."""
    (whole, when_whole), (split, when_split) = candidate.whole, candidate.split
    if min(whole, split) < _FEW_IN_GROUP:
        return None
    error = math.sqrt(when_whole * (1 - when_whole) / whole + when_split * (1 - when_split) / split)
    if when_whole - when_split < max(_NOTICED, 2 * error):
        return None
    return (
        f"{candidate.name} scores {_percent(when_whole)} where one of its windows holds all the evidence "
        f"({whole} documents), and {_percent(when_split)} where none does ({split})."
    )


def _cautions(taken: Candidate, best: Candidate, documents: int, worth: float) -> list[str]:
    if taken.behind is None or taken.behind.high <= worth:
        return []
    half = (taken.behind.high - taken.behind.low) / 2
    wanted = math.ceil(documents * (half / max(worth, 1e-3)) ** 2 / 100) * 100
    more = f"; some {wanted:,} would tell" if documents < wanted <= 100_000 else ""
    return [
        f"{documents} documents do not exclude that {best.name} is better by up to "
        f"{_points(taken.behind.high)}{more}."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _interval(difference: Difference) -> str:
    return f"a difference of {100 * difference.low:.1f} to {100 * difference.high:.1f} points (95 %)"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
