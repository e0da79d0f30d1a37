"""From a bundle to a Triton model repository.

Names are resolved on first use: the configuration's messages come with tritonclient, which is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import BuiltModels, build_repository
    from .options import Backend, RepositoryOptions

__all__ = ["Backend", "BuiltModels", "RepositoryOptions", "build_repository"]


def __getattr__(name: str) -> Any:
    if name in ("Backend", "RepositoryOptions"):
        from . import options

        return getattr(options, name)
    if name in ("BuiltModels", "build_repository"):
        from . import builder

        return getattr(builder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
