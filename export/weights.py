"""One data file for the weights of all graphs of a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from .errors import OutputError

__all__ = ["DATA_NAME", "save_models"]

DATA_NAME = "model.onnx.data"
"""Name of the data file. Every graph records it, so it must not be renamed."""

_ALIGNMENT = 4096
"""Tensors start on page boundaries, so that engines can map them."""
_INLINE_BYTES = 1024
"""Smaller tensors stay inside the ONNX file, where shape inference needs them."""


def save_models(models: Mapping[str, ir.Model], directory: Path) -> None:
    """Write ONNX files that share one data file: equal tensors are stored once.

    Args:
        models: file name to model. The models are left as they were given.
        directory: where the files go.

    Raises:
        OutputError: the disk is full or not writable.
    """
    places: dict[tuple[str, tuple[int, ...], bytes], tuple[int, int]] = {}
    originals: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        with (directory / DATA_NAME).open("wb") as stream:
            for model in models.values():
                for value in model.graph.initializers.values():
                    tensor = value.const_value
                    if tensor is None or tensor.nbytes < _INLINE_BYTES:
                        continue
                    data = tensor.tobytes()
                    shape = tuple(tensor.numpy().shape)
                    key = (str(tensor.dtype), shape, hashlib.sha256(data).digest())
                    if key not in places:
                        stream.write(bytes(-stream.tell() % _ALIGNMENT))
                        places[key] = (stream.tell(), len(data))
                        stream.write(data)
                    offset, length = places[key]
                    originals.append((value, tensor))
                    value.const_value = ir.ExternalTensor(
                        DATA_NAME,
                        offset,
                        length,
                        tensor.dtype,
                        shape=ir.Shape(shape),
                        name=str(value.name),
                        base_dir=directory,
                    )
        for name, model in models.items():
            ir.save(model, directory / name)
    except OSError as error:
        raise OutputError(f"cannot write to {directory}: {error.strerror or error}") from error
    finally:
        for value, tensor in originals:
            value.const_value = tensor
