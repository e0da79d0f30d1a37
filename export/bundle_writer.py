"""Writing a bundle: all of it, or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from longserve.serving.runtime.bundle import file_sha256
from longserve.serving.runtime.manifest import MANIFEST_NAME, FileRecord, Manifest

from .errors import OutputError

__all__ = ["check_target", "file_records", "staged_directory", "write_manifest"]


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a directory beside `target` that becomes `target` when the block ends without an error.

    After an error, Ctrl-C included, nothing is left of it and `target` is as it was.

    Args:
        target: the final directory.
        overwrite: replace an existing bundle there. Anything else that exists is never replaced.

    Raises:
        OutputError: `target` exists, or its parent cannot be written to.
    """
    check_target(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write into {target.parent}: {error.strerror or error}; choose another output"
        ) from error
    try:
        yield stage
        stage.chmod(0o755)
        _replace(stage, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a bundle may be written to `target`.

    Raises:
        OutputError: it exists, and is no bundle or `overwrite` is False.
    """
    if not (target.exists() or target.is_symlink()):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise OutputError(f"{target} exists and is no bundle; choose another output or remove it")
    if not overwrite:
        raise OutputError(f"{target} exists; replace it with --overwrite, or choose another output")


def file_records(directory: Path) -> tuple[FileRecord, ...]:
    """Return name, hash and size of every file in a directory but the manifest, sorted by name."""
    return tuple(
        FileRecord(name=path.name, sha256=file_sha256(path), size=path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST_NAME
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, last of all files, and flush the directory to disk."""
    path = directory / MANIFEST_NAME
    path.write_text(manifest.to_json(), encoding="utf-8")
    for written in directory.iterdir():
        with written.open("rb") as stream:
            os.fsync(stream.fileno())


def _replace(stage: Path, target: Path) -> None:
    if not target.exists():
        stage.rename(target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
    target.rename(retired / target.name)
    try:
        stage.rename(target)
    except OSError:
        (retired / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)
