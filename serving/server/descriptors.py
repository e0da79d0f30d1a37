"""How many files and connections a server may have open at a time (RLIMIT_NOFILE)."""

from __future__ import annotations

import resource

__all__ = ["connections_allowed", "raise_limit"]

_ENOUGH = 65536
"""Programs that close every descriptor one by one should not have a billion of them to close."""
_PARTS = 4


def raise_limit() -> None:
    """Raise the limit of this process, and of those that it starts, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_allowed() -> int:
    """Most connections of a port: a fourth of the limit.

    Two ports, and one to Triton for each request over HTTP, leave a fourth for all else.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (_ENOUGH if soft == resource.RLIM_INFINITY else soft) // _PARTS
