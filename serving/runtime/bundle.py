"""Opening a bundle: a directory whose files are what its manifest says they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .errors import BundleNotFound, CorruptBundle
from .manifest import MANIFEST_NAME, Layout, Manifest

__all__ = ["Bundle", "file_sha256", "is_bundle"]

_CHUNK = 1 << 20
_TOKENIZER_NAME = "tokenizer.json"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_bundle(path: Path) -> bool:
    """Whether a directory has a bundle's manifest, be the rest as it may."""
    try:
        fields = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and "schema_version" in fields


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose files were checked against its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, only: Collection[str] | None = None) -> Bundle:
        """Open the bundle at `path`.

        Args:
            path: the bundle's directory.
            verify: check the hash of every file; False checks only that they exist with their sizes
                (a copy that has just been verified need not be read again).
            only: check these files alone; a Triton model holds a part of a bundle. None: every file.

        Raises:
            BundleNotFound: no directory, no manifest, or a file of the bundle is missing or not readable.
            IncompatibleBundle: written for another major schema version.
            CorruptBundle: a file's size or hash differs, or the manifest is damaged or records no hash of a
                file that is used.
        """
        root = Path(path)
        source = root / MANIFEST_NAME
        try:
            text = source.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BundleNotFound(
                f"{root} is no bundle: it has no {MANIFEST_NAME}; write one with `longserve export`"
            ) from None
        except UnicodeDecodeError as error:
            raise CorruptBundle(f"{source} is not UTF-8 ({error}); export the bundle again") from error
        except OSError as error:
            raise _unreadable(source, error) from error
        manifest = Manifest.from_json(text, source=str(source))
        _check_names(source, manifest, only or ())
        for record in manifest.files:
            if only is not None and record.name not in only:
                continue
            try:
                _check_file(root, record.name, record.size, record.sha256 if verify else None)
            except OSError as error:
                raise _unreadable(root / record.name, error) from error
        return cls(root, manifest)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds the hash of every other file: the bundle's identity."""
        return file_sha256(self.path / MANIFEST_NAME)

    def described(self) -> dict[str, str]:
        """Return what tells this bundle from others, as labels of a metric: the fingerprint's first twelve
        digits (`bundle`), `task`, `precision` and `validated`."""
        return {
            "bundle": self.fingerprint[:12],
            "task": self.manifest.task.value,
            "precision": self.manifest.precision.value,
            "validated": "true" if self.manifest.validated else "false",
        }

    def model_path(self, layout: Layout) -> Path:
        """Return the path of the ONNX file of that layout."""
        return self.path / self.manifest.graph(layout).file

    @property
    def tokenizer_path(self) -> Path:
        """Path of `tokenizer.json`.

        Raises:
            BundleNotFound: the bundle was exported without a tokenizer.
        """
        if not self.manifest.has_tokenizer:
            raise BundleNotFound(
                f"{self.path} has no tokenizer.json (its checkpoint had no tokenizer), so it can only take "
                "token ids; export again from a checkpoint with a tokenizer"
            )
        return self.path / _TOKENIZER_NAME


def _check_names(source: Path, manifest: Manifest, wanted: Collection[str]) -> None:
    """Check that file names stay inside the bundle and that every file that is used has a recorded hash."""
    recorded = {record.name for record in manifest.files}
    for name in recorded:
        if Path(name).name != name or name in ("", "..", MANIFEST_NAME) or not name.isprintable():
            raise CorruptBundle(
                f"{source} names {name!r}, which is no file of its own or outside the bundle; "
                "export the bundle again"
            )
    used = [*(graph.file for graph in manifest.graphs), *wanted]
    if manifest.has_tokenizer:
        used.append(_TOKENIZER_NAME)
    for name in used:
        if name not in recorded:
            raise CorruptBundle(f"{source} records no file {name}, which is used; export the bundle again")


def _unreadable(path: Path, error: OSError) -> BundleNotFound:
    return BundleNotFound(f"{path} cannot be read: {error.strerror or error}; see its permissions")


def _check_file(root: Path, name: str, size: int, sha256: str | None) -> None:
    path = root / name
    if not path.is_file():
        raise BundleNotFound(f"{root} lacks the file {name} that its manifest names; copy the bundle whole")
    actual = path.stat().st_size
    if actual != size:
        raise CorruptBundle(f"{path} has {actual} bytes, its manifest says {size}; copy or export it again")
    if sha256 is not None:
        found = file_sha256(path)
        if found != sha256:
            raise CorruptBundle(
                f"{path} has SHA-256 {found[:12]}…, its manifest says {sha256[:12]}…; copy or export it again"
            )
