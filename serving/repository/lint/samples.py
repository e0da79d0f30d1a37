"""Warm-up: a model must have run before it counts as ready, and a bad sample ends Triton 2.51 (SIGSEGV)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...runtime.errors import InvalidInput
from ...runtime.manifest import Manifest
from ...runtime.packing import EncoderSequence, check_sequence
from .findings import Finding
from .models import Model, Surroundings, error, warning

__all__ = ["check_warmup"]

_FIX = "build the model again with `longserve repo`, which writes samples with legal ids and masks"
_ELEMENT = np.dtype("<i8")


def check_warmup(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Encoders need valid samples; text models must have none."""
    if model.is_text_model:
        if model.config.model_warmup:
            yield error(
                "bad-warmup",
                model.config_file,
                "a text model has model_warmup, but Triton refuses its calls to the encoder until every "
                "model is loaded, and a sample that fails crashes Triton",
                "remove model_warmup; `longserve ready` asks the model once it is loaded",
            )
        return
    if not model.config.model_warmup:
        yield warning(
            "no-warmup",
            model.config_file,
            "there is no model_warmup: the first callers wait for what the engine does at its first run",
            _FIX,
        )
    for sample in model.config.model_warmup:
        reason = _fault(model, sample)
        if reason is not None:
            yield error(
                "bad-warmup",
                model.config_file,
                f"the warm-up sample {sample.name!r} {reason}; a sample that fails crashes Triton",
                _FIX,
            )


def _fault(model: Model, sample: Any) -> str | None:
    """Why Triton or the model would refuse a sample; None if they would not."""
    most = model.config.max_batch_size
    if most > 0 and not 1 <= sample.batch_size <= most:
        return f"has batch_size {sample.batch_size}, but legal are 1 to {most}"
    required = {tensor.name for tensor in model.config.input if not tensor.optional}
    known = {tensor.name for tensor in model.config.input}
    given = set(sample.inputs)
    if not required <= given <= known:
        return (
            f"gives {', '.join(sorted(given)) or 'nothing'}, but the model takes {', '.join(sorted(known))}"
        )
    arrays = {}
    for name, entry in sample.inputs.items():
        source = entry.WhichOneof("input_data_type")
        if source != "input_data_file":
            return f"makes up {name} ({source}) instead of reading legal values from a file"
        path = model.path / "warmup" / entry.input_data_file
        if not path.is_file():
            return f"reads {name} from warmup/{entry.input_data_file}, which is not there"
        count = int(np.prod(list(entry.dims)))
        size = path.stat().st_size
        if size != count * _ELEMENT.itemsize:
            return (
                f"reads {name} from warmup/{entry.input_data_file} of {size} bytes, but its dims ask for "
                f"{count * _ELEMENT.itemsize}"
            )
        arrays[name] = np.fromfile(path, dtype=_ELEMENT).astype(np.int64)
    return None if model.manifest is None else _refusal(arrays, model.manifest)


def _refusal(arrays: dict[str, Any], manifest: Manifest) -> str | None:
    try:
        check_sequence(EncoderSequence(**arrays), manifest)
    except InvalidInput as refused:
        return f"would be refused: {refused}"
    return None
