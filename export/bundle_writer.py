"""Writing a bundle: all of it, or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from longserve.serving.directories import put_in_place
from longserve.serving.runtime.bundle import file_sha256
from longserve.serving.runtime.manifest import MANIFEST_NAME, FileRecord, Manifest

from .errors import OutputError

__all__ = ["check_target", "file_records", "staged_directory", "write_manifest"]


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a directory beside `target` that becomes `target` when the block ends without an error.

    After an error, Ctrl-C included, nothing is left of it and `target` is as it was. What a killed process
    left there of the same target is deleted.

    Args:
        target: the final directory.
        overwrite: replace an existing bundle there. Anything else that exists is never replaced.

    Raises:
        OutputError: `target` exists, or comes to while the block runs, or its parent cannot be written to.
    """
    check_target(target, overwrite=overwrite)
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(target)
        stage = Path(tempfile.mkdtemp(prefix=_stage_prefix(target), dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write into {target.parent}: {error.strerror or error}; choose another output"
        ) from error
    lock = _lock(stage)
    try:
        yield stage
        stage.chmod(0o755)
        check_target(target, overwrite=overwrite)  # it may have come while the block ran
        if overwrite:
            put_in_place(stage, target)
        else:
            stage.rename(target)  # which fails if there is a file, or a directory that holds something
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a bundle may be written to `target`.

    Raises:
        OutputError: it exists, and is no bundle, or holds what is none of the bundle's, or `overwrite` is
            False.
    """
    if not os.path.lexists(target):
        return
    files = _bundle_files(target)
    if files is None:
        raise OutputError(f"{target} exists and is no bundle; choose another output or remove it")
    if not overwrite:
        raise OutputError(f"{target} exists; replace it with --overwrite, or choose another output")
    others = sorted({path.name for path in target.iterdir()} - files)
    if others:
        some = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        raise OutputError(
            f"{target} holds {some}, which is not of the bundle and which --overwrite would delete; "
            "move it away, or choose another output"
        )


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


def _bundle_files(directory: Path) -> set[str] | None:
    """Names of the files of a directory's bundle, be they there or not; None if it is no bundle."""
    try:
        manifest = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
        if "schema_version" not in manifest:
            return None
        return {MANIFEST_NAME, *(record["name"] for record in manifest["files"])}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _stage_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _delete_abandoned(target: Path) -> None:
    """Delete the stages of a target whose process has ended: those that nobody has locked."""
    for stage in target.parent.glob(glob.escape(_stage_prefix(target)) + "*"):
        lock = _lock(stage)
        if lock is not None:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)


def _lock(directory: Path) -> int | None:
    """Lock a directory until its descriptor, which is returned, is closed; None if that cannot be had."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
