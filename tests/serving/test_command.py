"""The `longserve` command: quick to list, clear when something is missing, one line for a failure."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from longserve.serving import ServingError, command
from longserve.serving.runtime.errors import CorruptBundle

LONGSERVE = Path(sys.executable).parent / "longserve"


def longserve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGSERVE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def run_as(error: BaseException) -> int:
    """Run a command that raises."""

    @click.command()
    def failing() -> None:
        raise error

    return command._run([], failing)


def test_help_lists_every_command_quickly() -> None:
    longserve("--help")  # the first run may write bytecode
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        result = longserve("--help")
        durations.append(time.perf_counter() - started)
    assert result.returncode == 0
    for name, subcommand in command.COMMANDS.items():
        assert f"  {name} " in result.stdout and subcommand.summary in result.stdout
    assert min(durations) < 0.3


def test_help_imports_no_commands_module() -> None:
    code = (
        "import sys; from longserve.serving.command import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'rich', 'torch', 'onnxruntime', 'tritonclient', 'longserve.serving.cli'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_version() -> None:
    from importlib.metadata import version

    result = longserve("--version")
    assert (result.returncode, result.stdout) == (0, f"longserve {version('longserve')}\n")


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["serve", "--http-port", "x"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    result = longserve(*arguments)
    assert result.returncode == 2
    assert "Usage: longserve" in result.stderr and not result.stdout


def test_a_failure_on_purpose_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_as(CorruptBundle("the file is damaged; export it again")) == 1
    captured = capsys.readouterr()
    assert captured.err == "longserve: the file is damaged; export it again\n"
    assert not captured.out


def test_the_other_halfs_errors_need_only_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    class ForeignError(Exception):
        exit_code = 3

    assert run_as(ForeignError("no")) == 3
    assert capsys.readouterr().err == "longserve: no\n"


def test_the_root_of_the_serving_errors_has_an_exit_code() -> None:
    assert ServingError.exit_code == 1


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_as(ZeroDivisionError())


def test_an_operating_system_error_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_as(PermissionError(13, "Permission denied", "/var/lib/x")) == 1
    assert capsys.readouterr().err == "longserve: Permission denied: /var/lib/x\n"


def test_an_interrupt_exits_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_as(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_commands_own_exit_status_is_kept() -> None:
    assert run_as(click.exceptions.Exit(7)) == 7


def test_a_reader_that_goes_away_is_met_with_silence() -> None:
    with subprocess.Popen([LONGSERVE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_a_missing_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(module: str) -> Any:
        assert module == "longserve.export.cli"
        raise ModuleNotFoundError("No module named 'torch.onnx'", name="torch.onnx")

    monkeypatch.setattr(command, "import_module", load)
    assert command._run(["export", "--help"]) == 1
    message = capsys.readouterr().err
    assert "'torch'" in message and "longserve[export" in message


def test_a_package_missing_later_names_the_extra_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_as(ModuleNotFoundError("No module named 'tritonclient'", name="tritonclient")) == 1
    assert "'tritonclient'" in capsys.readouterr().err
