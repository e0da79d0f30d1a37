from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longserve.export.bundle_writer import check_target, staged_directory
from longserve.export.errors import OutputError
from longserve.serving.directories import put_in_place
from longserve.serving.runtime.bundle import Bundle


def _write(target: Path, *, overwrite: bool = False, name: str = "new") -> None:
    with staged_directory(target, overwrite=overwrite) as stage:
        (stage / name).write_text(name, encoding="utf-8")


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_comes_while_a_bundle_is_written_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target, precious = tmp_path / "bundle", tmp_path / "thesis.txt"
    precious.write_text("precious", encoding="utf-8")
    with (
        pytest.raises(OutputError, match="exists and is no bundle"),
        staged_directory(target, overwrite=False),
    ):
        if kind == "directory":
            target.mkdir()
            shutil.copy(precious, target)
        elif kind == "file":
            shutil.copy(precious, target)
        else:
            target.symlink_to(precious)
    assert (target / "thesis.txt" if kind == "directory" else target).read_text("utf-8") == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "thesis.txt"]


def test_of_two_exports_to_one_new_place_the_second_is_refused(
    classification_bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    refused = pytest.raises(OutputError, match="replace it with --overwrite")
    first, second = (staged_directory(target, overwrite=False) for _ in range(2))
    with refused, first, second as stage:
        shutil.copytree(classification_bundle, stage, dirs_exist_ok=True)
    assert Bundle.open(target).path == target
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_replaced_in_the_moment_of_the_swap_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    monkeypatch.setattr("longserve.export.bundle_writer.check_target", lambda target, *, overwrite: None)
    with (
        pytest.raises(OutputError, match="nothing was left behind"),
        staged_directory(target, overwrite=False),
    ):
        target.mkdir()
        (target / "thesis.txt").write_text("precious", encoding="utf-8")
    assert (target / "thesis.txt").exists()


@pytest.mark.parametrize(
    "manifest", ['{"name": "my web app", "files": []}', "[1]", "{", '{"schema_version": "1.0"}']
)
def test_a_manifest_that_is_not_ours_is_no_bundle(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(OutputError, match="is no bundle"):
        check_target(tmp_path, overwrite=True)


def test_a_bundle_with_files_that_are_not_its_own_is_kept(
    classification_bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(classification_bundle, target)
    for name in ("notes.md", ".git", "z1", "z2"):
        (target / name).mkdir()
    with pytest.raises(OutputError, match=r"holds \.git, notes\.md, z1 and more, which is not of the bundle"):
        _write(target, overwrite=True)
    assert (target / "notes.md").exists()


def test_a_damaged_bundle_can_be_replaced(classification_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(classification_bundle, target)
    (target / "model.onnx").unlink()
    (target / "model.onnx.data").write_bytes(b"short")
    _write(target, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize("output", [".", "../bundle/."])
def test_a_bundle_is_replaced_from_within(
    classification_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(classification_bundle, target)
    monkeypatch.chdir(target)
    _write(Path(output), overwrite=True)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "when", ["before the first", "after the first", "before the second", "after the second"]
)
def test_the_old_directory_outlives_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Ctrl-C can come between any two steps."""
    staged, target = tmp_path / "staged", tmp_path / "target"
    for directory in (staged, target):
        directory.mkdir()
        (directory / directory.name).write_text("", encoding="utf-8")
    rename, which = Path.rename, 0

    def interrupted(self: Path, other: Path) -> Path:
        nonlocal which
        which += 1
        point = {1: "first", 2: "second"}.get(which)
        if when == f"before the {point}":
            raise KeyboardInterrupt
        renamed = rename(self, other)
        if when == f"after the {point}":
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(staged, target)
    expected = "staged" if when == "after the second" else "target"
    assert [path.name for path in target.iterdir()] == [expected]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_export_left_is_deleted_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from longserve.export.bundle_writer import staged_directory\n"
        "with staged_directory(pathlib.Path(sys.argv[1]), overwrite=False) as stage:\n"
        "    (stage / 'weights').write_bytes(bytes(100)); print(stage, flush=True); time.sleep(60)"
    )
    target = tmp_path / "the [new] bundle"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        stage = Path(other.stdout.readline().strip())
        try:
            with pytest.raises(ZeroDivisionError), staged_directory(target, overwrite=False):
                assert (stage / "weights").exists()
                raise ZeroDivisionError
            assert (stage / "weights").exists()
        finally:
            other.send_signal(signal.SIGKILL)
    assert (stage / "weights").exists()
    _write(target)
    assert list(tmp_path.iterdir()) == [target]
