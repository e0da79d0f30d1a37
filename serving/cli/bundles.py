"""`longserve inspect`: what a bundle is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from ..runtime.bundle import Bundle
from ..runtime.manifest import GraphSpec, Manifest, TensorSpec

__all__ = ["inspect_command"]

_SHOWN_LABELS = 20


@click.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest and the fingerprint as JSON.")
@click.option("--no-verify", is_flag=True, help="Do not read every file to check its hash.")
def inspect_command(bundle: Path, as_json: bool, no_verify: bool) -> None:
    """Show what BUNDLE holds. Every file is checked against its recorded hash first."""
    opened = Bundle.open(bundle, verify=not no_verify)
    if as_json:
        manifest = json.loads(opened.manifest.to_json())
        click.echo(json.dumps({"fingerprint": opened.fingerprint, "manifest": manifest}))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(str(bundle)), title_justify="left", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(opened):
        table.add_row(name, escape(value))
    Console().print(table)


def _rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    yield "task", manifest.task.value
    yield "model", manifest.model_id + (f" @ {manifest.revision}" if manifest.revision else "")
    yield "precision", manifest.precision.value
    yield "parity", _parity(manifest)
    yield "max length", f"{manifest.max_length} tokens"
    yield "architecture", manifest.architecture
    yield "attention window", _windows(manifest.attention_window)
    yield "global attention", _global_attention(manifest)
    if manifest.labels:
        more = len(manifest.labels) - _SHOWN_LABELS
        yield "labels", ", ".join(manifest.labels[:_SHOWN_LABELS]) + (f" and {more} more" if more > 0 else "")
    yield "vocabulary", f"{manifest.vocab_size} ids, {manifest.type_vocab_size} token types"
    yield "tokenizer", "tokenizer.json" if manifest.has_tokenizer else "none: takes token ids only"
    for graph in manifest.graphs:
        yield f"{graph.layout.value} graph", _graph(graph)
    if manifest.fused_attention:
        yield "local attention", "one operator"
    yield "opset", str(manifest.opset)
    for record in manifest.files:
        yield "file", f"{record.name}  {_size(record.size)}  sha256 {record.sha256[:12]}…"
    yield "written by", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))
    yield "fingerprint", bundle.fingerprint


def _parity(manifest: Manifest) -> str:
    parity = manifest.parity
    if parity is None:
        return "NOT VALIDATED: nobody has compared this bundle with PyTorch"
    return (
        f"{parity.max_relative:.1e} of the largest logit at most (allowed {parity.tolerance:g}), "
        f"{parity.cases} cases on {parity.provider}, worst: {parity.worst_case}"
    )


def _windows(windows: tuple[int, ...]) -> str:
    if not windows:
        return "none: every token sees every other"
    layers = f"{len(windows)} layers"
    return (
        f"{windows[0]} in {layers}"
        if len(set(windows)) == 1
        else f"{', '.join(map(str, windows))} ({layers})"
    )


def _global_attention(manifest: Manifest) -> str:
    if not manifest.takes_global_attention:
        return "none to choose"
    capacity = manifest.max_global_tokens
    bound = "any number of tokens" if capacity is None else f"at most {capacity} tokens per sequence"
    return f"{manifest.global_attention.value}; the graph takes {bound}"


def _graph(graph: GraphSpec) -> str:
    return f"{graph.file}: {_tensors(graph.inputs)} → {_tensors(graph.outputs)}"


def _tensors(tensors: Iterable[TensorSpec]) -> str:
    return ", ".join(
        f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.axes))}]" for tensor in tensors
    )


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
