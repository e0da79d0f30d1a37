"""Opening a bundle: what was written is there, whole and unchanged, or the file at fault is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longserve.serving.runtime.bundle import Bundle, file_sha256
from longserve.serving.runtime.errors import BundleNotFound, CorruptBundle, IncompatibleBundle
from longserve.serving.runtime.manifest import FileRecord, GraphSpec, Layout, Manifest

CONTENT = {
    "model.onnx": b"padded graph",
    "model.packed.onnx": b"packed graph",
    "model.onnx.data": b"\0weights" * 1000,
    "tokenizer.json": b"{}",
    "config.json": b"{}\n",
}
MakeBundle = Callable[..., Path]


def record(name: str, content: bytes) -> FileRecord:
    return FileRecord(name=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


@pytest.fixture
def make_bundle(make_manifest: Callable[..., Manifest], tmp_path: Path) -> MakeBundle:
    """Write a bundle whose files are short stand-ins, with fields of its manifest replaced."""

    def make(**fields: Any) -> Path:
        directory = tmp_path / "bundle"
        directory.mkdir()
        for name, content in CONTENT.items():
            (directory / name).write_bytes(content)
        manifest = make_manifest(
            graphs=tuple(
                GraphSpec(file=file, layout=layout, inputs=(), outputs=())
                for layout, file in ((Layout.PADDED, "model.onnx"), (Layout.PACKED, "model.packed.onnx"))
            ),
            files=tuple(record(name, content) for name, content in CONTENT.items()),
        )
        (directory / "manifest.json").write_text(replace(manifest, **fields).to_json(), encoding="utf-8")
        return directory

    return make


@pytest.mark.parametrize("kind", [str, Path])
def test_a_whole_bundle_opens(make_bundle: MakeBundle, kind: Callable[[Path], str | Path]) -> None:
    path = make_bundle()
    bundle = Bundle.open(kind(path))
    assert bundle.path == path
    assert bundle.manifest.model_id == "test"
    assert bundle.model_path(Layout.PADDED).read_bytes() == CONTENT["model.onnx"]
    assert bundle.model_path(Layout.PACKED).read_bytes() == CONTENT["model.packed.onnx"]
    assert bundle.tokenizer_path.read_bytes() == CONTENT["tokenizer.json"]


def test_further_files_do_no_harm(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    (path / "README.md").write_text("mine")
    assert Bundle.open(path).path == path


def test_the_fingerprint_is_the_manifests_hash(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    manifest = path / "manifest.json"
    assert Bundle.open(path).fingerprint == hashlib.sha256(manifest.read_bytes()).hexdigest()
    before = Bundle.open(path).fingerprint
    manifest.write_text(manifest.read_text().replace('"model_id": "test"', '"model_id": "other"'))
    assert Bundle.open(path).fingerprint != before


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_hashes_of_any_size(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()


@pytest.mark.parametrize("missing", [True, False])
def test_a_directory_that_is_no_bundle(tmp_path: Path, missing: bool) -> None:
    path = tmp_path / "absent" if missing else tmp_path
    with pytest.raises(
        BundleNotFound, match=rf"^{path} is no bundle: it has no manifest\.json; write one with"
    ):
        Bundle.open(path)


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    with pytest.raises(BundleNotFound, match="is no bundle"):
        Bundle.open(path)


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleNotFound, match=rf"{tmp_path / 'manifest.json'} cannot be read: Is a directory"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_named(make_bundle: MakeBundle, name: str, verify: bool) -> None:
    path = make_bundle()
    (path / name).unlink()
    with pytest.raises(BundleNotFound, match=f"{path} lacks the file {name} .*; copy the bundle whole"):
        Bundle.open(path, verify=verify)


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "change", [lambda content: content[:-1], lambda content: content + b"\n", lambda _: b""]
)
def test_a_file_of_another_size_is_named(
    make_bundle: MakeBundle, name: str, verify: bool, change: Callable[[bytes], bytes]
) -> None:
    path = make_bundle()
    changed = change(CONTENT[name])
    (path / name).write_bytes(changed)
    cause = f"{path / name} has {len(changed)} bytes, its manifest says {len(CONTENT[name])}; "
    with pytest.raises(CorruptBundle, match=cause):
        Bundle.open(path, verify=verify)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_changed_byte_is_found(make_bundle: MakeBundle, name: str) -> None:
    path = make_bundle()
    content = bytearray(CONTENT[name])
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    found, said = (hashlib.sha256(c).hexdigest()[:12] for c in (content, CONTENT[name]))
    with pytest.raises(
        CorruptBundle, match=f"{path / name} has SHA-256 {found}…, its manifest says {said}…; "
    ):
        Bundle.open(path)
    assert Bundle.open(path, verify=False).path == path, "verify=False promises to read no file"


def test_a_part_of_a_bundle_is_checked_alone(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    (path / "model.onnx").unlink()
    (path / "model.onnx.data").write_bytes(b"changed")
    assert Bundle.open(path, only={"tokenizer.json", "model.packed.onnx"}).path == path
    assert Bundle.open(path, only=()).path == path
    with pytest.raises(CorruptBundle, match=r"model\.onnx\.data"):
        Bundle.open(path, only={"model.onnx.data"})


def test_a_part_that_the_manifest_does_not_know_is_not_passed_over(make_bundle: MakeBundle) -> None:
    with pytest.raises(CorruptBundle, match=r"records no file tokeniser\.json"):
        Bundle.open(make_bundle(), only={"tokeniser.json"})


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "sub/model.onnx",
        "./model.onnx",
        "model.onnx/",
        "..",
        ".",
        "",
        "a\0b",
        "\ud800",
        "manifest.json",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("field", ["files", "graphs"])
def test_names_outside_the_bundle_are_refused(make_bundle: MakeBundle, name: str, field: str) -> None:
    path = make_bundle()
    for place in (path.parent / "secret", path / "sub" / "model.onnx"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(CONTENT["model.onnx"])
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if field == "files":
        manifest["files"][0]["name"] = name
    else:
        manifest["graphs"][0]["file"] = name
    (path / "manifest.json").write_text(json.dumps(manifest))
    cause = "outside the bundle" if field == "files" else "records no file"
    with pytest.raises(CorruptBundle, match=cause):
        Bundle.open(path)


def test_a_name_too_long_for_a_file_system(make_bundle: MakeBundle) -> None:
    name = "a" * 5000
    path = make_bundle(files=(*(record(*item) for item in CONTENT.items()), record(name, b"")))
    with pytest.raises(BundleNotFound, match="cannot be read: File name too long"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["model.onnx", "model.packed.onnx", "tokenizer.json"])
def test_a_file_that_is_used_must_be_recorded(make_bundle: MakeBundle, name: str) -> None:
    """Otherwise nobody would have checked what is run."""
    files = tuple(record(*item) for item in CONTENT.items() if item[0] != name)
    with pytest.raises(CorruptBundle, match=f"records no file {name}"):
        Bundle.open(make_bundle(files=files))


def test_a_directory_in_a_files_place(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    (path / "config.json").unlink()
    (path / "config.json").mkdir()
    with pytest.raises(BundleNotFound, match=r"lacks the file config\.json"):
        Bundle.open(path)


def test_links_are_followed(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Model stores often hold links to content that is stored by its hash."""
    path = make_bundle()
    (path / "model.onnx.data").rename(tmp_path / "blob")
    (path / "model.onnx.data").symlink_to(tmp_path / "blob")
    assert Bundle.open(path).path == path
    (tmp_path / "blob").unlink()
    with pytest.raises(BundleNotFound, match=r"lacks the file model\.onnx\.data"):
        Bundle.open(path)


def test_without_a_tokenizer_only_ids_are_taken(make_bundle: MakeBundle) -> None:
    files = tuple(record(*item) for item in CONTENT.items() if item[0] != "tokenizer.json")
    path = make_bundle(files=files, has_tokenizer=False)
    (path / "tokenizer.json").unlink()
    bundle = Bundle.open(path)
    with pytest.raises(
        BundleNotFound, match=rf"{path} has no tokenizer\.json .* can only take token ids; export"
    ):
        _ = bundle.tokenizer_path


@pytest.mark.parametrize(
    ("content", "kind", "cause"),
    [
        (b"", CorruptBundle, "is not JSON"),
        (b"\xff\xfe{\0}\0", CorruptBundle, "is not UTF-8"),
        (b"{}", CorruptBundle, "has no schema_version"),
        (b'{"schema_version": "2.0"}', IncompatibleBundle, r"has schema version 2\.0"),
    ],
)
def test_a_damaged_manifest_is_named(
    make_bundle: MakeBundle, content: bytes, kind: type[Exception], cause: str
) -> None:
    path = make_bundle()
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(kind, match=f"^{path / 'manifest.json'} {cause}"):
        Bundle.open(path)
