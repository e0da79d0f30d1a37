"""What longserve has to know of a model architecture to export, prove and serve it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from longserve.serving.runtime.manifest import GlobalAttention, Layout, Manifest, Task

from ..parity_cases import GlobalPattern

__all__ = ["Architecture", "AttentionShape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What the manifest says of a checkpoint's attention.

    Attributes:
        attention_window: tokens that each layer's local attention spans, both sides together; none where
            every token sees every other.
        longest: longest sequence that the checkpoint takes, in tokens.
        block_size: tokens per block of the exported attention.
        global_attention: the task's convention.
        random_blocks: see `Manifest.random_blocks`.
    """

    attention_window: tuple[int, ...]
    longest: int
    block_size: int
    global_attention: GlobalAttention
    random_blocks: int | None = None


class Architecture(ABC):
    """One model architecture: subclass it, and `register` an instance.

    Attributes:
        name: what the manifest calls it.
        model_types: Hugging Face's `config.model_type` of the configurations that are of it.
        takes_global_attention: whether its graphs have the input `global_attention_mask`.
        has_fused_attention: whether its attention can be written as one operator, see `fused_attention`.
        reads_separators: whether its question-answering head looks for the separator in `input_ids`.
        depends_on_batch: whether the stock model's logits of a row depend on how far it is padded. The padded
            layout must then equal the stock model on the same batch, the packed one on the row alone.
        question_separators: how many separators its tokenizers may write between question and context; the
            first is that of a checkpoint without tokenizer.
        default_context_type: token type of the context where the tokenizer gives no token types: 0, unless
            the stock model makes others up.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    takes_global_attention: ClassVar[bool] = False
    has_fused_attention: ClassVar[bool] = False
    reads_separators: ClassVar[bool] = False
    depends_on_batch: ClassVar[bool] = False
    question_separators: ClassVar[tuple[int, ...]] = (1,)
    default_context_type: ClassVar[int] = 0

    @abstractmethod
    def head_class(self, model_type: str, task: Task) -> str:
        """Name of the stock class that holds the task's head."""

    @abstractmethod
    def check(self, config: PretrainedConfig, source: str, task: Task) -> None:
        """Refuse configurations that have no exact export.

        Args:
            config: the checkpoint's configuration; head, labels and padding token are already checked.
            source: the checkpoint, for messages.
            task: the task of its head.

        Raises:
            UnsupportedModel: the configuration is refused.
        """

    @abstractmethod
    def attention_shape(self, config: PretrainedConfig, task: Task, block_size: int | None) -> AttentionShape:
        """Return what the manifest says of the attention.

        Args:
            config: the checkpoint's configuration.
            task: the task of its head.
            block_size: what the user asked for; None: the default.

        Raises:
            ExportError: that block size cannot be had.
        """

    @abstractmethod
    def make_module(self, model: PreTrainedModel, manifest: Manifest, layout: Layout) -> nn.Module:
        """Return the exportable module of a layout, over the stock model's parameters.

        Its attribute `layout` is the layout; the keywords of its `forward` are the inputs of the graph. Its
        parameters in `core` are stored in the bundle's precision, those in `head` always in float32. For
        `TransformerLayer`s in `core.layers` see `repetition`.
        """

    @abstractmethod
    def parity_lengths(self, manifest: Manifest) -> tuple[int, ...]:
        """Return the sequence lengths to compare, ascending: around every boundary of the attention."""

    def parity_lengths_in_half(self, manifest: Manifest) -> tuple[int, ...]:
        """Return the lengths to compare in half-precision arithmetic, where a CPU is slow."""
        return self.parity_lengths(manifest)

    @property
    def parity_patterns(self) -> tuple[GlobalPattern, ...]:
        """Which tokens are global in the compared cases."""
        return tuple(GlobalPattern) if self.takes_global_attention else (GlobalPattern.NONE,)

    def reset_reference(self, model: PreTrainedModel) -> None:  # noqa: B027
        """Undo what an earlier run left in the stock model; most leave nothing."""

    def run_reference(
        self, model: PreTrainedModel, feeds: Mapping[str, torch.Tensor], outputs: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Run the stock model as if it had run nothing before.

        Args:
            model: the stock model, in evaluation mode.
            feeds: the inputs of the padded layout.
            outputs: names of the wanted outputs.
        """
        self.reset_reference(model)
        with torch.inference_mode():
            result: Any = model(**feeds, return_dict=True)
        return {name: getattr(result, name) for name in outputs}
