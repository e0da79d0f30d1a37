"""Where a checkpoint's files are: in a local directory, or at a commit of a hub repository."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils.hub import cached_file, extract_commit_hash
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from longserve.serving.runtime.manifest import MANIFEST_NAME

from .errors import CheckpointError, CheckpointNotFound

__all__ = ["Place", "UNREADABLE", "find_checkpoint", "first_sentence", "unreadable"]

UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers, safetensors and torch raise on files that are not there or damaged."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint's files are.

    Attributes:
        source: what the user gave, for messages.
        local: the local directory, None for a hub repository.
        commit: of the hub repository, None for a local directory.
    """

    source: str
    local: Path | None
    commit: str | None

    @property
    def path(self) -> str:
        """What transformers' `from_pretrained` takes."""
        return self.source if self.local is None else str(self.local)


def find_checkpoint(
    source: str, revision: str | None = None, *, default_revision: str | None = None
) -> Place:
    """Find a checkpoint's files.

    Args:
        source: a hub id, or a local directory.
        revision: branch, tag or commit of a hub repository.
        default_revision: what `revision` is of a hub repository where none is given.

    Raises:
        CheckpointNotFound: nothing there, or it cannot be reached; a directory has no revisions.
        CheckpointError: there is an adapter.
    """
    local = _local_directory(source)
    if local is None:
        return Place(source, None, _commit(source, revision or default_revision))
    if revision is not None:
        raise CheckpointNotFound(
            f"{source} is a local directory, which has no revision {revision}; leave the revision out, or "
            "give a hub id"
        )
    return Place(source, local, None)


def unreadable(place: Place, error: Exception) -> str:
    """Return the message for a checkpoint whose files cannot be read or had."""
    if place.local is not None and (place.local / MANIFEST_NAME).is_file():
        return (
            f"{place.source} is a longserve bundle, no checkpoint; give the checkpoint that it was exported "
            "from, or another"
        )
    reason = first_sentence(error)
    if place.local is None:
        return (
            f"{place.source} is no local directory and could not be had from the hub: {reason}; "
            "check the name, the connection and the access token, or download it and give its directory"
        )
    return f"the checkpoint {place.source} cannot be read: {reason}; get it again"


def first_sentence(error: Exception) -> str:
    """Return what an error says first; the rest of foreign ones is advice that does not apply here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, LookupError) or not lines:
        return " ".join([type(error).__name__, *lines[:1]])
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said.rstrip(".")


def _commit(source: str, revision: str | None) -> str:
    """Return the commit that the revision of a hub repository is now: all its files must come from one."""
    try:
        config = cached_file(source, "config.json", revision=revision)
    except UNREADABLE as error:
        where = source if revision is None else f"{source} at revision {revision}"
        raise CheckpointNotFound(unreadable(Place(where, None, None), error)) from error
    commit: str | None = extract_commit_hash(config, None)
    if commit is None:
        raise CheckpointNotFound(f"{config} is in no commit of a hub repository; give its directory instead")
    if find_adapter_config_file(source, revision=commit) is not None:
        raise CheckpointError(_adapter(source))
    return commit


def _local_directory(source: str) -> Path | None:
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / ADAPTER_CONFIG_NAME).is_file():
            raise CheckpointError(_adapter(source))
        if not (path / "config.json").is_file():
            raise CheckpointNotFound(
                f"{source} is no checkpoint: it has no config.json; give a directory written by "
                "save_pretrained, or a hub id"
            )
        return path
    if path.exists():
        raise CheckpointNotFound(f"{source} is a file; give the checkpoint's directory, or a hub id")
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or os.sep * 2 in source:
        raise CheckpointNotFound(f"there is no directory {source}; give a checkpoint's, or a hub id")
    return None


def _adapter(source: str) -> str:
    return (
        f"{source} holds an adapter ({ADAPTER_CONFIG_NAME}), which is not exported; load it with PEFT, merge "
        "it into its model (merge_and_unload), and save that with save_pretrained"
    )
