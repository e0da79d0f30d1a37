"""The errors of the export half.

    ExportError
    ├── CheckpointError          the checkpoint cannot be used
    │   ├── CheckpointNotFound   no checkpoint at that path or hub id
    │   ├── UnsupportedModel     another architecture, or a configuration that has no exact export
    │   └── TaskMismatch         the checkpoint's head is not the task's
    ├── EngineBuildError         a TensorRT engine cannot be built from the bundle here
    ├── GraphError               the exported graph is not what was asked for
    ├── HubError                 the Hugging Face hub cannot be reached or refuses
    ├── OutputError              the bundle cannot be written
    ├── ReportError              what a report is made of or with cannot be used
    └── ParityFailed             the exported model does not give PyTorch's results

Every message names what was wrong, the value seen, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CheckpointNotFound",
    "EngineBuildError",
    "ExportError",
    "GraphError",
    "HubError",
    "OutputError",
    "ParityFailed",
    "ReportError",
    "TaskMismatch",
    "UnsupportedModel",
]


class ExportError(Exception):
    """Root of everything that `longserve.export` raises on purpose."""

    exit_code = 1


class CheckpointError(ExportError):
    """The checkpoint cannot be used."""


class CheckpointNotFound(CheckpointError):
    """There is no checkpoint at that path or hub id, or it cannot be read."""


class UnsupportedModel(CheckpointError):
    """Another architecture, or a configuration that has no exact export."""


class TaskMismatch(CheckpointError):
    """The checkpoint's head is not the task's."""


class EngineBuildError(ExportError):
    """A TensorRT engine cannot be built from the bundle, with these settings, on this machine."""


class GraphError(ExportError):
    """The exported graph is not what was asked for."""


class HubError(ExportError):
    """The Hugging Face hub cannot be reached, or refuses."""


class OutputError(ExportError):
    """The bundle cannot be written."""


class ReportError(ExportError):
    """What a report is made of, or what it is made with, cannot be used."""


class ParityFailed(ExportError):
    """The exported model does not give PyTorch's results; no bundle was written."""
