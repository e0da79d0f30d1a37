"""Building a repository: complete, self-contained, replaced as a whole, never half."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longserve.serving import Bundle, BundleNotFound, CorruptBundle, RepositoryError
from longserve.serving.repository import Backend, RepositoryOptions, build_repository
from longserve.serving.repository import builder as building
from longserve.serving.runtime.engine_settings import EngineName
from longserve.serving.runtime.manifest import Precision

from .conftest import FILES

MakeBundle = Callable[..., Path]
RUNTIME = Path(building.runtime.__file__).parent


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_python_encoder_holds_what_it_runs(make_bundle: MakeBundle, tmp_path: Path) -> None:
    built = build_repository(make_bundle(), "name", tmp_path / "repository")
    files = contents(built.encoder)
    runtime = {f"1/longserve_runtime/{module.name}" for module in RUNTIME.glob("*.py")}
    warmup = {
        f"warmup/{size}.{tensor}"
        for size in ("short", "long")
        for tensor in ("input_ids", "global_attention_mask")
    }
    assert set(files) == {
        "config.pbtxt",
        "1/model.py",
        "1/manifest.json",
        "1/model.packed.onnx",
        "1/model.onnx.data",
        *runtime,
        *warmup,
    }
    assert files["1/model.packed.onnx"] == FILES["model.packed.onnx"]
    assert files["1/model.onnx.data"] == FILES["model.onnx.data"]


def test_the_onnxruntime_encoder_holds_no_code(make_bundle: MakeBundle, tmp_path: Path) -> None:
    options = RepositoryOptions(backend=Backend.ONNXRUNTIME)
    built = build_repository(make_bundle(), "name", tmp_path / "repository", options)
    assert {name for name in contents(built.encoder) if not name.startswith("warmup/")} == {
        "config.pbtxt",
        "1/manifest.json",
        "1/model.packed.onnx",
        "1/model.onnx.data",
    }


def test_the_text_model_holds_no_weights(make_bundle: MakeBundle, tmp_path: Path) -> None:
    built = build_repository(make_bundle(), "name", tmp_path / "repository")
    assert built.text is not None
    runtime = {f"1/longserve_runtime/{module.name}" for module in RUNTIME.glob("*.py")}
    assert set(contents(built.text)) == {
        "config.pbtxt",
        "1/model.py",
        "1/manifest.json",
        "1/tokenizer.json",
        *runtime,
    }


def test_a_bundle_without_tokenizer_gets_the_encoder_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    built = build_repository(make_bundle(has_tokenizer=False), "name", tmp_path / "repository")
    assert built.text is None
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["name_encoder"]


def test_the_copied_runtime_imports_nothing_of_longserve(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """As in a container that has numpy, tokenizers and onnxruntime, but not longserve."""
    built = build_repository(make_bundle(), "name", tmp_path / "repository")
    modules = [path.stem for path in RUNTIME.glob("*.py") if path.stem != "__init__"]
    code = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'longserve': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for module in {modules!r}: importlib.import_module('longserve_runtime.' + module)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=built.encoder / "1", check=True)


def test_models_are_replaced_as_a_whole(make_bundle: MakeBundle, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    built = build_repository(make_bundle("first"), "name", repository)
    (built.encoder / "1" / "left-over").write_text("from before")
    expected = contents(repository)
    del expected["name_encoder/1/left-over"]
    build_repository(make_bundle("second"), "name", repository)
    assert contents(repository) == expected


def test_other_models_are_left_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    build_repository(make_bundle("first"), "one", repository)
    (repository / "foreign" / "1").mkdir(parents=True)
    (repository / "foreign" / "config.pbtxt").write_text('name: "foreign"')
    before = contents(repository)
    build_repository(make_bundle("second"), "two", repository)
    after = contents(repository)
    assert {name: after[name] for name in before} == before
    assert {path.name for path in repository.iterdir()} == {
        "one",
        "one_encoder",
        "two",
        "two_encoder",
        "foreign",
    }


@pytest.mark.parametrize("config", ['name: "name"', "nonsense {", None])
def test_a_model_that_is_not_longserves_is_not_replaced(
    make_bundle: MakeBundle, tmp_path: Path, config: str | None
) -> None:
    foreign = tmp_path / "repository" / "name_encoder"
    foreign.mkdir(parents=True)
    (foreign / "weights").write_text("precious")
    if config is not None:
        (foreign / "config.pbtxt").write_text(config)
    before = contents(tmp_path / "repository")
    with pytest.raises(RepositoryError, match="name_encoder"):
        build_repository(make_bundle(), "name", tmp_path / "repository")
    assert contents(tmp_path / "repository") == before


@pytest.mark.parametrize("failing", ["_write_text_model", "put_in_place"])
def test_a_failure_leaves_the_old_models(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    repository = tmp_path / "repository"
    build_repository(make_bundle("first"), "name", repository)
    before = contents(repository)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(building, failing, no_space)
    with pytest.raises(RepositoryError, match=r"somewhere: No space left on device"):
        build_repository(make_bundle("second", max_length=512), "name", repository)
    assert contents(repository) == before
    assert {path.name for path in repository.iterdir()} == {"name", "name_encoder"}


def test_files_are_copies_of_the_bundles(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """No hard links: onnx refuses external data with two names, and the bundle may change later."""
    bundle = make_bundle()
    data = build_repository(bundle, "copied", tmp_path / "repository").encoder / "1" / "model.onnx.data"
    assert data.read_bytes() == FILES["model.onnx.data"]
    assert data.stat().st_nlink == (bundle / "model.onnx.data").stat().st_nlink == 1


def test_the_encoder_can_check_its_part_of_the_bundle(make_bundle: MakeBundle, tmp_path: Path) -> None:
    built = build_repository(make_bundle(), "name", tmp_path / "repository")
    version = built.encoder / "1"
    files = set(building.encoder_files(Bundle.open(version, only=()).manifest))
    Bundle.open(version, only=files)
    data = version / "model.onnx.data"
    data.unlink()
    with pytest.raises(BundleNotFound, match=r"model\.onnx\.data"):
        Bundle.open(version, only=files)
    data.write_bytes(b"weightz")
    with pytest.raises(CorruptBundle, match=r"model\.onnx\.data"):
        Bundle.open(version, only=files)


def test_a_damaged_bundle_is_not_built(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    (bundle / "model.onnx.data").write_bytes(b"weightz")
    with pytest.raises(CorruptBundle):
        build_repository(bundle, "name", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b", "ünicode"])
def test_names_that_cannot_be_a_directory_are_refused(
    make_bundle: MakeBundle, tmp_path: Path, name: str
) -> None:
    with pytest.raises(RepositoryError, match="model name"):
        build_repository(make_bundle(), name, tmp_path / "repository")


def test_the_output_may_not_be_a_file(make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="file"):
        build_repository(make_bundle(), "name", tmp_path / "file")


@pytest.mark.parametrize("inside", ["", "deep/inside"])
def test_the_output_may_not_be_in_a_bundle(make_bundle: MakeBundle, tmp_path: Path, inside: str) -> None:
    bundle = make_bundle()
    before = contents(bundle)
    with pytest.raises(RepositoryError, match=r"is in the bundle .*; choose another directory"):
        build_repository(bundle, "name", bundle / inside)
    assert contents(bundle) == before


def test_a_portable_repository_does_not_depend_on_the_bundles_place_or_figures(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    options = RepositoryOptions(portable=True)
    written = []
    for name, tools in (("first", {"torch": "1"}), ("second", {"torch": "2"})):
        build_repository(make_bundle(name, tools=tools), "name", tmp_path / f"{name}-repository", options)
        written.append(contents(tmp_path / f"{name}-repository"))
    first, second = written
    same = {name for name in first if name.endswith(("config.pbtxt", "model.py"))}
    assert len(same) == 4
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_a_precision_that_the_engine_has_no_kernels_for_is_refused(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(precision=Precision.BF16)
    with pytest.raises(RepositoryError, match=r"in bf16, for which onnxruntime has no kernels.*openvino"):
        build_repository(bundle, "name", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
    options = RepositoryOptions(engine=EngineName.OPENVINO)
    assert build_repository(bundle, "name", tmp_path / "repository", options).encoder.is_dir()
