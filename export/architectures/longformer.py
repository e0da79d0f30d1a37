"""Longformer: local attention in windows, and global attention from and to chosen tokens."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from longserve.serving.runtime.manifest import GlobalAttention, Layout, Manifest, Task

from ..errors import UnsupportedModel
from ..model import PackedModel, PaddedModel, choose_block_size, longest_sequence
from ..parity_cases import default_lengths
from .architecture import Architecture, AttentionShape

__all__ = ["Longformer"]

_HEADS = {
    Task.TEXT_CLASSIFICATION: "LongformerForSequenceClassification",
    Task.QUESTION_ANSWERING: "LongformerForQuestionAnswering",
}
_CONVENTIONS = {
    Task.TEXT_CLASSIFICATION: GlobalAttention.FIRST_TOKEN,
    Task.QUESTION_ANSWERING: GlobalAttention.QUESTION,
}


class Longformer(Architecture):
    """See `longserve.export.model` and `longserve.export.attention`."""

    name = "longformer"
    model_types = ("longformer",)
    takes_global_attention = True
    has_fused_attention = True
    question_separators = (2,)

    def head_class(self, model_type: str, task: Task) -> str:
        return _HEADS[task]

    def check(self, config: PretrainedConfig, source: str, task: Task) -> None:
        window = config.attention_window
        windows = window if isinstance(window, (list, tuple)) else [window] * config.num_hidden_layers
        if len(windows) != config.num_hidden_layers or not all(map(_is_window, windows)):
            raise UnsupportedModel(
                f"{source} has attention_window {window} for {config.num_hidden_layers} layers; it must be "
                "one positive even number per layer"
            )
        if min(windows) < 4 or any(max(windows) % size for size in windows):
            raise UnsupportedModel(
                f"{source} has the attention windows {windows}; the stock model runs only where each is at "
                f"least 4 and divides the largest, {max(windows)}, so there is nothing to compare with"
            )

    def attention_shape(self, config: PretrainedConfig, task: Task, block_size: int | None) -> AttentionShape:
        window = tuple(config.attention_window)
        return AttentionShape(
            attention_window=window,
            longest=longest_sequence(config.max_position_embeddings, config.pad_token_id),
            block_size=block_size or choose_block_size(window),
            global_attention=_CONVENTIONS[task],
        )

    def make_module(self, model: PreTrainedModel, manifest: Manifest, layout: Layout) -> nn.Module:
        made = PaddedModel if layout is Layout.PADDED else PackedModel
        capacity = manifest.max_global_tokens if layout is Layout.PADDED else None
        return made(
            model,
            block_size=manifest.block_size,
            max_global_tokens=capacity,
            fused=manifest.fused_attention,
        )

    def parity_lengths(self, manifest: Manifest) -> tuple[int, ...]:
        return default_lengths(manifest.attention_window, manifest.block_size, manifest.max_length)

    def parity_lengths_in_half(self, manifest: Manifest) -> tuple[int, ...]:
        """Up to twice the widest window: longer sequences meet no other arithmetic."""
        window = manifest.attention_window
        return default_lengths(window, manifest.block_size, min(manifest.max_length, 2 * max(window)))


def _is_window(size: object) -> bool:
    return isinstance(size, int) and size > 0 and size % 2 == 0
