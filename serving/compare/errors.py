"""The errors of comparing models.

ServingError
└── CompareError              models cannot be compared on these documents
    ├── DocumentsError        the file, or a row of it, cannot be used; the message names file and line
    ├── LabelMismatch         the documents have a label that a model does not know
    └── ModelsError           the models do not go together: names, tasks
"""

from __future__ import annotations

from ..runtime.errors import ServingError

__all__ = ["CompareError", "DocumentsError", "LabelMismatch", "ModelsError"]


class CompareError(ServingError):
    """Models cannot be compared on these documents."""


class DocumentsError(CompareError):
    """The file of documents, or a row of it, cannot be used."""


class LabelMismatch(CompareError):
    """The documents have a label that a model does not know."""


class ModelsError(CompareError):
    """The models do not go together."""
