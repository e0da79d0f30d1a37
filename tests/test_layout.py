"""What holds the tree together: packaging, the one direction of imports, public names, entry points."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import click
import pytest

from longserve.serving.command import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
HALVES = ("export", "serving")
INSIDE_TRITON = {"triton_python_backend_utils", "longserve_runtime"}
"""Modules that exist only in a Triton model's process."""
FORBIDDEN_IN_SERVING = {"torch", "transformers", "optimum", "onnx", "onnxscript", "onnx_ir"}
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "stuff"}


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    name = relative(path).removesuffix(".py").removesuffix("/__init__")
    return "longserve." + name.replace("/", ".")


def modules() -> list[str]:
    """All modules of the packages; the templates under `serving/repository/models` are none."""
    return [module_name(path) for path in sources(*HALVES) if (path.parent / "__init__.py").exists()]


def imports(path: Path) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Every import in a file, in functions too: module, level of a relative one, names taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, tuple(alias.name for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__", "find_spec")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            name = str(node.args[0].value)
            yield name.lstrip("."), len(name) - len(name.lstrip(".")), ()


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestPackaging:
    def test_the_packages_are_the_folders_that_hold_init(self) -> None:
        found = sorted(module_name(path) for path in sources(*HALVES) if path.name == "__init__.py")
        assert pyproject()["tool"]["setuptools"]["packages"] == found

    def test_every_file_is_in_the_wheel(self) -> None:
        """setuptools' own answer, without building: modules of the packages and package data."""
        code = """
import json
from setuptools.dist import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files(["pyproject.toml"])
distribution.include_package_data = False  # else version control's idea of the tree is asked
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
files = [module[2] for module in build.find_all_modules()]
files += [f"{source}/{name}" for _, source, _, names in build.data_files for name in names]
print(json.dumps(files))
"""
        packaged = set(json.loads(run_python(code).splitlines()[-1]))
        there = {
            relative(path)
            for half in HALVES
            for path in (ROOT / half).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert packaged == there
        assert {f"{half}/py.typed" for half in HALVES} <= packaged

    def test_longserve_is_a_namespace(self) -> None:
        import longserve

        assert getattr(longserve, "__file__", None) is None
        assert not (ROOT / "__init__.py").exists()

    @pytest.mark.parametrize(
        ("link", "target"),
        [
            ("longserve/export", "export"),
            ("longserve/serving", "serving"),
            ("longserve_runtime", "serving/runtime"),
        ],
    )
    def test_static_tools_find_the_packages(self, link: str, target: str) -> None:
        path = ROOT / ".ci" / "typing" / link
        assert path.is_symlink() and not path.readlink().is_absolute()
        assert path.resolve() == (ROOT / target).resolve()
        assert not (ROOT / ".ci/typing/longserve/__init__.py").exists()

    def test_what_is_imported_is_declared(self) -> None:
        project = pyproject()["project"]
        extras = [name for group in project["optional-dependencies"].values() for name in group]
        declared = {
            re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")
            for requirement in [*project["dependencies"], *extras]
        }
        # tritonclient's extras name these, with the versions that it needs
        declared |= {"grpcio", "gevent", "geventhttpclient"}
        owners = packages_distributions()
        undeclared = {}
        for path in sources(*HALVES):
            for name, level, _ in imports(path):
                top = name.split(".")[0]
                if level or top in {*sys.stdlib_module_names, *INSIDE_TRITON, "longserve"}:
                    continue
                owned = {owner.lower().replace("_", "-") for owner in owners.get(top, [top])}
                if top == "google":
                    owned = {"protobuf"}
                if not owned & declared:
                    undeclared[top] = relative(path)
        assert undeclared == {}

    @pytest.mark.parametrize(
        ("extra", "needed"),
        [("cpu", "tokenizers"), ("gpu", "tokenizers"), ("openvino", "tokenizers"), ("report", "onnx")],
    )
    def test_an_extra_is_enough_to_run_a_bundle_or_write_a_report(self, extra: str, needed: str) -> None:
        brought = pyproject()["project"]["optional-dependencies"][extra]
        assert needed in {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in brought}

    @pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE", "constraints.txt"])
    def test_what_a_user_looks_for_first_is_there(self, name: str) -> None:
        assert (ROOT / name).read_text(encoding="utf-8").strip()

    def test_the_changelog_knows_the_version(self) -> None:
        version = re.escape(pyproject()["project"]["version"])
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        assert re.search(rf"^## \[?{version}\b", text, re.MULTILINE)


class TestImports:
    @pytest.mark.parametrize("path", sources("serving"), ids=relative)
    def test_serving_knows_nothing_of_export(self, path: Path) -> None:
        for name, level, _ in imports(path):
            assert not name.startswith("longserve.export")
            assert level or name.split(".")[0] not in FORBIDDEN_IN_SERVING
            depth = len(path.relative_to(ROOT / "serving").parts)
            assert level <= depth, f"{name} is reached from outside serving"

    def test_all_of_serving_loads_neither_export_nor_torch(self) -> None:
        names = [name for name in modules() if name.startswith("longserve.serving")]
        code = f"""
import importlib, json, sys
missing = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
print(json.dumps([missing, sorted(sys.modules)]))
"""
        missing, loaded = json.loads(run_python(code).splitlines()[-1])
        assert set(missing.values()) <= INSIDE_TRITON
        assert "longserve.serving.runtime.engine" in loaded
        assert not {name.split(".")[0] for name in loaded} & FORBIDDEN_IN_SERVING
        assert not [name for name in loaded if name.startswith("longserve.export")]

    @pytest.mark.parametrize("path", sources("serving/runtime"), ids=relative)
    def test_the_runtime_can_be_copied_beside_a_model(self, path: Path) -> None:
        """It becomes a package of another name, in a process that has no longserve."""
        assert path.parent == ROOT / "serving" / "runtime", "the builder copies one folder"
        allowed = {*sys.stdlib_module_names, "numpy", "tokenizers", "onnxruntime", "openvino", "cuda"}
        for name, level, _ in imports(path):
            assert level == 1 or (level == 0 and name.split(".")[0] in allowed), f"{name} (level {level})"

    @pytest.mark.parametrize("path", sources("export"), ids=relative)
    def test_export_takes_only_public_names_of_serving(self, path: Path) -> None:
        for name, _, names in imports(path):
            if name.startswith("longserve.serving"):
                public = importlib.import_module(name).__all__
                assert set(names) <= set(public), name

    @pytest.mark.parametrize("path", sources(*HALVES), ids=relative)
    def test_siblings_are_imported_relatively(self, path: Path) -> None:
        own = f"longserve.{path.relative_to(ROOT).parts[0]}"
        assert not [name for name, level, _ in imports(path) if not level and name.startswith(own)]


class TestNames:
    @pytest.mark.parametrize("name", modules())
    def test_public_names_are_sorted_and_there(self, name: str) -> None:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name in INSIDE_TRITON:
                pytest.skip(f"{error.name} exists only inside Triton")
            raise
        names = getattr(module, "__all__", [])
        assert list(names) == sorted(set(names))
        for public in names:
            assert hasattr(module, public), public
            assert not public.startswith("_")

    @pytest.mark.parametrize("path", sources(*HALVES), ids=relative)
    def test_modules_are_named_by_what_they_do(self, path: Path) -> None:
        assert not {*path.with_suffix("").parts} & VAGUE

    @pytest.mark.parametrize("path", sources(*HALVES), ids=relative)
    def test_modules_are_short_and_say_what_they_are(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400
        assert ast.get_docstring(ast.parse(text))


class TestCommand:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_loads(self, name: str) -> None:
        module, _, attribute = COMMANDS[name].target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert command.help
        extras = pyproject()["project"]["optional-dependencies"]
        assert set(COMMANDS[name].extra.split(",")) <= set(extras)

    def test_help_names_every_command_and_loads_none(self) -> None:
        code = """
import sys
from longserve.serving.command import cli
cli(["--help"], standalone_mode=False)
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""
        text, _, loaded = run_python(code).partition("LOADED ")
        listed = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
        assert listed == list(COMMANDS)
        assert not set(loaded.split()) & {
            "torch",
            "transformers",
            "numpy",
            "rich",
            "tritonclient",
            "onnxruntime",
        }
