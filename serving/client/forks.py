"""What a client must not take into a child process: a fork copies its connections, threads and locks.

Two processes on one connection read each other's answers; a thread pool has no threads in the child, and a
lock that another thread held stays locked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["renew_after_fork"]

_Owner = TypeVar("_Owner")
_renewals: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def renew_after_fork(owner: _Owner, renew: Callable[[_Owner], None]) -> None:
    """Have `renew(owner)` called in every child process that is forked while the owner lives."""
    _renewals[owner] = renew


def _renew_all() -> None:
    for owner, renew in list(_renewals.items()):
        renew(owner)


if hasattr(os, "register_at_fork"):  # where there is no fork, there is nothing to do
    os.register_at_fork(after_in_child=_renew_all)
