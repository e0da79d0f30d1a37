"""Bulk scoring: a file of documents → a file of results, resumable, in order, each row once.

    longserve batch documents.parquet results.parquet --bundle bundles/topics

A run is cut into chunks of rows (`plan`). Each chunk is read (`sources`), scored (`scorers`) and written as a
part of its own, whole or not at all (`parts`); at the end the parts are put together in order. A run that was
stopped goes on after the parts that are there. `BundleScorer` is the function of one batch, for engines that
distribute batches themselves.
"""

from __future__ import annotations

from .plan import BatchPlan, Chunk
from .runner import BatchSummary, run_batch, run_distributed
from .scorers import BundleScorer, ServerScorer
from .settings import BatchSettings

__all__ = [
    "BatchPlan",
    "BatchSettings",
    "BatchSummary",
    "BundleScorer",
    "Chunk",
    "ServerScorer",
    "run_batch",
    "run_distributed",
]
