"""Putting a new directory in the place of an old one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["put_in_place"]


def put_in_place(staged: Path, target: Path, *, room: Path | None = None) -> None:
    """Rename `staged` to `target` and delete what was there, which comes back if anything ends that before.

    A process that is killed in between leaves the old directory in `room`, as `.NAME.replaced-…`.

    Args:
        staged: the new directory, on the same file system.
        target: an existing directory, or a path where there is nothing.
        room: where the old directory waits meanwhile; by default beside `target`.

    Raises:
        OSError: a rename failed.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=room or target.parent))
    old = aside / target.name
    try:
        if os.path.lexists(target):
            target.rename(old)
        staged.rename(target)
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
