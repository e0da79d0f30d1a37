"""The Dockerfile against what it copies, installs and starts."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from pathlib import Path

import pytest
from manifests import DOCKERFILE, ROOT, instructions, parse_ready, parse_serve

from longserve.serving.server import Ports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL"}
KNOWN |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}


INSTRUCTIONS = instructions()


def test_only_instructions_that_docker_has() -> None:
    assert set(INSTRUCTIONS) <= KNOWN
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(INSTRUCTIONS[name][-1]), list), "exec form, or signals do not arrive"


def test_the_image_is_nvidias_and_fixed() -> None:
    image = INSTRUCTIONS["ARG"][0].partition("=")[2]
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image)
    assert INSTRUCTIONS["FROM"][-1] == "${TRITON}"


def copied() -> list[str]:
    return [source for copy in INSTRUCTIONS["COPY"] if "--from" not in copy for source in copy.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    ignored = False
    for rule in rules:
        if fnmatch.fnmatch(source, rule.removeprefix("!")):
            ignored = not rule.startswith("!")
    assert not ignored


def test_the_wheel_can_be_built_from_what_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    needed |= set(project["tool"]["setuptools"]["package-dir"].values())
    wheel = INSTRUCTIONS["COPY"][:3]
    assert needed <= {source for copy in wheel for source in copy.split()[:-1]}


def test_it_installs_what_the_models_need_and_no_second_triton() -> None:
    (install,) = [run for run in INSTRUCTIONS["RUN"] if " install " in run]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (chosen,) = re.findall(r"longserve-\*\.whl\)\[([a-z,]+)\]", install)
    extras = project["optional-dependencies"]
    assert set(chosen.split(",")) <= set(extras)
    wanted = {re.split(r"[^a-z-]", r)[0] for extra in chosen.split(",") for r in extras[extra]}
    named = install.partition(']"')[2].partition("&&")[0]
    wanted |= set(re.findall(r"[a-z-]+", named)) | {"numpy", "click", "rich"}
    served = {re.split(r"[^a-z-]", r)[0] for r in extras["serve"]}
    assert served - {"nvidia-pytriton"} <= wanted, "what `longserve serve` needs"
    assert "nvidia-pytriton" not in wanted and "pytriton" not in install
    assert '"numpy<2"' in install and "--constraint" in install


def test_it_runs_as_nobody_special_and_listens_where_it_says() -> None:
    assert INSTRUCTIONS["USER"] == ["1000:1000"]
    command = [*json.loads(INSTRUCTIONS["ENTRYPOINT"][-1]), *json.loads(INSTRUCTIONS["CMD"][-1])]
    assert command[:2] == ["longserve", "serve"]
    serve = parse_serve(command[2:])
    assert serve["repository"] == Path("/models") and serve["host"] == "0.0.0.0" and serve["public"]
    ports = [int(port) for port in INSTRUCTIONS["EXPOSE"][0].split()]
    assert ports == [port for _, port in Ports().items()]
    assert json.loads(INSTRUCTIONS["VOLUME"][0]) == ["/models"]
    (check,) = INSTRUCTIONS["HEALTHCHECK"]
    assert parse_ready(json.loads(check.partition("CMD ")[2]))["allow_busy"]
    assert INSTRUCTIONS["STOPSIGNAL"] == ["SIGTERM"]
