"""Bundles of the real configurations with random weights, made once for the benchmarks.

A cached bundle's name holds a hash of the exporter's sources, so that a change of the export makes new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from export_real_sizes import write_checkpoint

DEFAULT_CACHE = Path("bundles", "real-sizes")
_DEMO = Path(__file__).parents[1] / "examples" / "checkpoints" / "longformer-tiny-classification"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_COMMAND = [sys.executable, "-c", "from longserve.serving.command import main; main()"]


class NotMade(SystemExit):
    """Why a checkpoint or a bundle could not be made; ends a script that does not catch it."""


def cached_checkpoint(cache: Path, size: str, task: str, seconds: float | None = None) -> Path:
    """Return a checkpoint of the `longformer-SIZE-4096` configuration, with the demo's tokenizer.

    Raises:
        NotMade: it could not be written, or not within so many seconds.
    """
    target = cache / f"longformer-{size}-4096-{task}"
    if not (target / "config.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        stage = target.with_name(f"{target.name}.part")
        shutil.rmtree(stage, ignore_errors=True)
        # in a process of its own: the model would stay in this one's memory
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=(size, task, stage)
        )
        writer.start()
        writer.join(seconds)
        if writer.exitcode is None:
            writer.kill()
            writer.join()
            raise NotMade(f"writing {target} took more than its {seconds:.3g} seconds")
        if writer.exitcode != 0:
            raise NotMade(f"writing {target} failed with status {writer.exitcode}")
        for name in _TOKENIZER:
            shutil.copyfile(_DEMO / name, stage / name)
        stage.rename(target)
    return target


def cached_bundle(
    cache: Path,
    size: str,
    task: str,
    precision: str,
    block_size: int | None = None,
    *,
    fused_attention: bool = False,
    seconds: float | None = None,
) -> Path:
    """Return the bundle of that checkpoint and precision, exported without validation.

    The precision may name a quantization after a hyphen: `int8-weights`.

    Raises:
        NotMade: it could not be exported, or not within so many seconds; its checkpoint could not be made.
    """
    form = ("" if block_size is None else f"-b{block_size}") + ("-fused" if fused_attention else "")
    target = cache / f"longformer-{size}-4096-{task}-{precision}{form}-{exporter_hash()}"
    if not (target / "manifest.json").is_file():
        checkpoint = cached_checkpoint(cache, size, task, seconds)
        kind, _, quantization = precision.partition("-")
        options = ["--task", task, "--precision", kind, "--no-validate", "-o", str(target)]
        if quantization:
            options += ["--quantization", quantization]
        if block_size is not None:
            options += ["--block-size", str(block_size)]
        if fused_attention:
            options.append("--fused-attention")
        print(f"exporting {target}", file=sys.stderr)
        try:
            _run([*_COMMAND, "export", str(checkpoint), *options], f"exporting {target}", seconds)
        finally:
            for left in cache.glob(f".{target.name}.partial-*"):  # of an export that was killed
                shutil.rmtree(left, ignore_errors=True)
    return target


def _run(command: list[str], doing: str, seconds: float | None) -> None:
    in_order = {**os.environ, "PYTHONUNBUFFERED": "1"}  # so that the reason is what it says last
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            status = subprocess.run(
                command, check=False, stdout=said, stderr=said, timeout=seconds, env=in_order
            ).returncode
        except subprocess.TimeoutExpired:  # which has killed it
            raise NotMade(f"{doing} took more than its {seconds:.3g} seconds") from None
        finally:
            said.seek(0)
            text = said.read()
            sys.stderr.write(text)
    if status != 0:
        last = (text.strip().splitlines() or ["it said nothing"])[-1]
        raise NotMade(f"{doing} failed with status {status}: {last}")


def exporter_hash() -> str:
    """Return a hash of what decides about a bundle's content: the exporter's modules and their tools."""
    import longserve.export

    digest = hashlib.sha256()
    for path in sorted(Path(longserve.export.__path__[0]).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # one of the last two is there
            digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()[:10]
