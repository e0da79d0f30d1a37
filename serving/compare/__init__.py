"""Comparing models on the user's own labelled documents, and saying which one to take.

    longserve compare documents.jsonl --models longformer=bundles/long bert=bundles/short

Documents (`documents`) are read by every model in turns, each in a process of its own (`runner`,
`model_worker`); what they tell (`readings`) is summed up (`summary`) into a `Comparison` (`results`), with a
recommendation by stated rules (`recommendation`). `table` and `page` show it.
"""

from __future__ import annotations

from .errors import CompareError, DocumentsError, LabelMismatch, ModelsError
from .recommendation import Recommendation
from .results import Comparison, GroupScore, ModelResult
from .runner import CompareSettings, compare

__all__ = [
    "CompareError",
    "CompareSettings",
    "Comparison",
    "DocumentsError",
    "GroupScore",
    "LabelMismatch",
    "ModelResult",
    "ModelsError",
    "Recommendation",
    "compare",
]
