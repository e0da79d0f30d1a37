"""Clients: `Client` asks a Triton server, `LocalClient` runs a bundle in this process.

`Client` needs tritonclient and numpy; `LocalClient` needs tokenizers and onnxruntime. Each is imported when
it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client
    from .local import LocalClient

__all__ = ["Client", "LocalClient"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from .client import Client

        return Client
    if name == "LocalClient":
        from .local import LocalClient

        return LocalClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
