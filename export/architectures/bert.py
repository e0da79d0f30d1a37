"""The BERT family: full attention over at most 512 tokens.

BERT (and what has its `model_type`, such as MiniLM), RoBERTa and XLM-RoBERTa. In the padded layout attention
is computed in rows, in the packed one in blocks of each document (see `longserve.export.document_blocks`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from longserve.serving.runtime.manifest import GlobalAttention, Layout, Manifest, Task

from ..document_blocks import Documents, cut_documents, documents_of, see_own_document
from ..errors import UnsupportedModel
from ..full_attention import FirstTokenAttention, FullAttention
from ..layers import Linear, TransformerLayer, mask_value
from .architecture import Architecture, AttentionShape

__all__ = ["Bert", "PackedBert", "PaddedBert", "Roberta"]

_BLOCK_SIZE = 64
"""Between 32, the fastest for short documents, and 128, for full windows (docs/performance.md). Each block of
keys is copied for every block of queries that sees it, so that small blocks take more memory, too."""
_LENGTHS = (1, 2, 3, 37, 63, 64, 65, 101, 127, 128, 129, 256, 257, 383, 384, 385)


class Bert(Architecture):
    """BERT: positions from 0, one separator between question and context."""

    name = "bert"
    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    question_separators = (1, 2)

    def head_class(self, model_type: str, task: Task) -> str:
        prefix = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[model_type]
        classifies = task is Task.TEXT_CLASSIFICATION
        return f"{prefix}For{'SequenceClassification' if classifies else 'QuestionAnswering'}"

    def check(self, config: PretrainedConfig, source: str, task: Task) -> None:
        if config.is_decoder:
            raise UnsupportedModel(
                f"{source} is a decoder (is_decoder is true), whose tokens see only those before them; "
                "longserve exports encoders"
            )
        positions = getattr(config, "position_embedding_type", None) or "absolute"
        if positions != "absolute":
            raise UnsupportedModel(
                f"{source} has position_embedding_type {positions}, which transformers 5 no longer "
                "computes: it would read the checkpoint without its positions, so there is nothing to "
                "compare with"
            )

    def attention_shape(self, config: PretrainedConfig, task: Task, block_size: int | None) -> AttentionShape:
        return AttentionShape(
            attention_window=(),
            longest=self.longest(config),
            block_size=block_size or _BLOCK_SIZE,
            global_attention=GlobalAttention.NONE,
        )

    def longest(self, config: PretrainedConfig) -> int:
        """Longest sequence that the position embeddings allow."""
        return int(config.max_position_embeddings)

    def make_module(self, model: PreTrainedModel, manifest: Manifest, layout: Layout) -> nn.Module:
        if layout is Layout.PADDED:
            return PaddedBert(model)
        return PackedBert(model, block_size=manifest.block_size)

    def parity_lengths(self, manifest: Manifest) -> tuple[int, ...]:
        block, longest = manifest.block_size, manifest.max_length
        wanted = {*_LENGTHS, block - 1, block, block + 1, 2 * block, 2 * block + 1, longest - 1, longest}
        return tuple(sorted(length for length in wanted if 1 <= length <= longest))


class Roberta(Bert):
    """RoBERTa: positions from the padding's id + 1 on, two separators between question and context."""

    name = "roberta"
    model_types = ("roberta", "xlm-roberta")
    question_separators = (2, 1)

    def longest(self, config: PretrainedConfig) -> int:
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1


class _Layer(TransformerLayer):
    attention: FullAttention

    def __init__(self, stock: Any) -> None:
        super().__init__(stock, FullAttention(stock.attention.self))


class _LastLayer(TransformerLayer):
    """A classifier's last layer: only the first token of each document feeds the head."""

    attention: FirstTokenAttention

    def __init__(self, stock: Any) -> None:
        super().__init__(stock, FirstTokenAttention(stock.attention.self))


class _Core(nn.Module):
    """Embeddings and layers."""

    word_embeddings: nn.Embedding
    position_embeddings: nn.Embedding
    token_type_embeddings: nn.Embedding
    embedding_norm: nn.LayerNorm

    def __init__(self, stock: Any, classifies: bool) -> None:
        super().__init__()
        embeddings = stock.embeddings
        # RoBERTa's embeddings know their padding's id; BERT's count positions from 0, padding or not
        padding = getattr(embeddings, "padding_idx", None)
        self.pad_token_id = None if padding is None else int(padding)
        self.word_embeddings = embeddings.word_embeddings
        self.position_embeddings = embeddings.position_embeddings
        self.token_type_embeddings = embeddings.token_type_embeddings
        self.embedding_norm = embeddings.LayerNorm
        layers = list(stock.encoder.layer)
        whole = layers[:-1] if classifies else layers
        self.layers = nn.ModuleList(_Layer(layer) for layer in whole)
        self.last = _LastLayer(layers[-1]) if classifies else None

    def embed(self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Sum and normalise the embeddings, of any shape. *Shape:* `[…]` to `[…, d]`."""
        hidden = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        if token_type_ids is None:
            hidden = hidden + self.token_type_embeddings.weight[0]
        else:
            hidden = hidden + self.token_type_embeddings(token_type_ids)
        normalised: Tensor = self.embedding_norm(hidden)
        return normalised

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_norm.weight.dtype


class _Head(nn.Module):
    """A classifier: a dense layer with tanh (BERT's pooler), and the projection to the labels."""

    def __init__(self, dense: nn.Linear, projection: nn.Linear) -> None:
        super().__init__()
        self.dense = Linear(dense)
        self.projection = Linear(projection)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.projection(torch.tanh(self.dense(hidden.float())))
        return logits


class _Model(nn.Module):
    layout: Layout

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.classifies = hasattr(stock, "classifier")
        base = stock.base_model
        self.core = _Core(base, self.classifies)
        if not self.classifies:
            self.head: nn.Module = Linear(stock.qa_outputs)
        elif isinstance(stock.classifier, nn.Linear):
            self.head = _Head(base.pooler.dense, stock.classifier)
        else:
            self.head = _Head(stock.classifier.dense, stock.classifier.out_proj)
        self.eval()


class PaddedBert(_Model):
    """The `padded` layout: the interchange contract of the bundle."""

    layout = Layout.PADDED

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model. All inputs int64 `[batch, sequence]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[batch, sequence]`.
        """
        core = self.core
        batch, length = input_ids.shape
        hidden = core.embed(input_ids, self._positions(input_ids), token_type_ids).flatten(0, 1)
        bias = torch.where(attention_mask > 0, 0.0, mask_value(core.dtype)).to(core.dtype)
        for layer in core.layers:
            assert isinstance(layer, _Layer)
            hidden = layer.finish(layer.attention.in_rows(hidden, bias), hidden)
        if core.last is not None:
            first = torch.arange(batch, device=hidden.device) * length
            attended = core.last.attention.in_rows(hidden, first, bias)
            logits: Tensor = self.head(core.last.finish(attended, torch.index_select(hidden, 0, first)))
            return logits
        spans = self.head(hidden.float()).reshape(batch, length, 2)
        return spans[..., 0], spans[..., 1]

    def _positions(self, ids: Tensor) -> Tensor:
        padding = self.core.pad_token_id
        if padding is None:
            return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        written = (ids != padding).to(torch.int64)
        return torch.cumsum(written, dim=1) * written + padding


class PackedBert(_Model):
    """The `packed` layout: sequences of mixed length end to end, for serving without padding."""

    layout = Layout.PACKED

    def __init__(self, stock: Any, *, block_size: int) -> None:
        """Take over a stock model; `block_size` is the number of tokens per block of attention."""
        super().__init__(stock)
        self.block_size = block_size

    def forward(
        self, input_ids: Tensor, sequence_ends: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: int64 `[tokens]`.
            sequence_ends: accumulated lengths, int32 `[batch]`; the last one is the number of tokens.
            token_type_ids: int64 `[tokens]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[tokens]`.
        """
        core = self.core
        documents = documents_of(sequence_ends, input_ids.shape[0])
        blocks = cut_documents(documents, self.block_size)
        keys = see_own_document(blocks, core.dtype)
        hidden = core.embed(input_ids, self._positions(input_ids, documents), token_type_ids)
        for layer in core.layers:
            assert isinstance(layer, _Layer)
            hidden = layer.finish(layer.attention.in_blocks(hidden, blocks, keys), hidden)
        if core.last is not None:
            first = documents.starts
            attended = core.last.attention.in_blocks(hidden, first, blocks)
            logits: Tensor = self.head(core.last.finish(attended, torch.index_select(hidden, 0, first)))
            return logits
        spans = self.head(hidden.float())
        return spans[:, 0], spans[:, 1]

    def _positions(self, ids: Tensor, documents: Documents) -> Tensor:
        padding = self.core.pad_token_id
        if padding is None:
            return documents.position
        written = (ids != padding).to(torch.int64)
        total = torch.cumsum(written, dim=0)
        before = torch.index_select(total - written, 0, documents.starts)
        return (total - torch.index_select(before, 0, documents.number)) * written + padding
