"""What a client must not take into a child process: a fork copies its connections, threads and locks.

Two processes on one connection read each other's answers; a thread pool has no threads in the child, and a
lock that another thread held stays locked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakMethod

__all__ = ["renew_after_fork"]

_renewals: set[WeakMethod[Callable[[], None]]] = set()


def renew_after_fork(renew: Callable[[], None]) -> None:
    """Have a method called in every child process as soon as it is forked, as long as its object lives."""
    _renewals.add(WeakMethod(renew, _renewals.discard))


def _renew_all() -> None:
    for reference in list(_renewals):
        renew = reference()
        if renew is not None:
            renew()


if hasattr(os, "register_at_fork"):  # where there is no fork, there is nothing to do
    os.register_at_fork(after_in_child=_renew_all)
