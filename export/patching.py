"""Replacing a function of a library for as long as it takes, in one thread."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

__all__ = ["patched_here"]

_patching = threading.RLock()


@contextlib.contextmanager
def patched_here(
    owner: Any, name: str, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replace `owner.name` by what `replacement` makes of it.

    It is as ever in other threads; one that patches anything too waits.

    Args:
        owner: a module or class.
        name: of one of its functions or methods.
        replacement: takes the function as it was and returns the one to be called instead.
    """
    thread = threading.get_ident()
    with _patching:
        usual: Callable[..., Any] = getattr(owner, name)
        here = replacement(usual)

        def call(*arguments: Any, **options: Any) -> Any:
            return (here if threading.get_ident() == thread else usual)(*arguments, **options)

        bound = isinstance(inspect.getattr_static(owner, name), classmethod | staticmethod)
        with patch.object(owner, name, staticmethod(call) if bound else call):
            yield
