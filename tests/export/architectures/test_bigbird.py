"""BigBird: equal to the stock model on both sides of its switch from full to sparse attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_small
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.export import ExportError, ExportSettings, UnsupportedModel, export_bundle
from longserve.export.architectures import architecture_of
from longserve.export.architectures.bigbird import PackedBigBird, PaddedBigBird
from longserve.export.checkpoint import load_checkpoint
from longserve.export.description import GRAPH_FILES
from longserve.export.parity import check_parity
from longserve.serving import LocalClient
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import GlobalAttention, Layout, Task
from longserve.serving.runtime.options import QuestionAnsweringOptions
from longserve.serving.runtime.pipeline import QuestionAnsweringPipeline, make_pipeline

SEPARATOR = 66
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier, three random blocks": ("BigBirdForSequenceClassification", {"num_random_blocks": 3}),
    "classifier, no biases, one token type": (
        "BigBirdForSequenceClassification",
        {"num_random_blocks": 1, "use_bias": False, "hidden_act": "relu", "type_vocab_size": 1},
    ),
    "reader, two random blocks": ("BigBirdForQuestionAnswering", {"num_random_blocks": 2}),
    "reader, rescaled embeddings": (
        "BigBirdForQuestionAnswering",
        {"num_random_blocks": 1, "rescale_embeddings": True, "use_bias": False},
    ),
}
LENGTHS = st.lists(
    st.one_of(st.integers(1, 64), st.sampled_from([27, 28, 29, 36, 37, 44, 45, 48, 64])),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def stock(request: pytest.FixtureRequest) -> Any:
    class_name, config = request.param
    fixed = {"block_size": 4, "max_position_embeddings": 64, "sep_token_id": SEPARATOR}
    return make_small(class_name, vocab_size=100, **{**fixed, **config})


def names_of(stock: Any) -> tuple[str, ...]:
    return ("logits",) if hasattr(stock, "classifier") else ("start_logits", "end_logits")


def drawn(stock: Any, lengths: list[int], seed: int) -> list[dict[str, torch.Tensor]]:
    """Rows of random ids, most of them with a separator."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for index, length in enumerate(lengths):
        ids = torch.randint(1, SEPARATOR, (length,), generator=random)
        if index % 4 != 3:
            ids[(3 * index + seed) % length :: 9] = SEPARATOR
        row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if stock.config.type_vocab_size > 1:
            row["token_type_ids"] = torch.randint(0, 2, (length,), generator=random)
        rows.append(row)
    return rows


def padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)
        for name in rows[0]
    }


def reference(stock: Any, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return list(architecture_of("big_bird").run_reference(stock, feeds, names_of(stock)).values())


def run(module: Any, **feeds: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        outputs = module(**feeds)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Positions that the model takes out of the competition are the same; the others are close."""
    assert found.shape == wanted.shape
    masked = wanted < -1e5
    assert torch.equal(masked, found < -1e5)
    found, wanted = found[~masked], wanted[~masked]
    if wanted.numel():
        assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_every_document_is_read_as_if_alone_in_the_packed_layout(
    stock: Any, lengths: list[int], seed: int
) -> None:
    rows = drawn(stock, lengths, seed)
    feeds = {name: torch.cat([row[name] for row in rows]) for name in rows[0] if name != "attention_mask"}
    ends = torch.tensor(np.cumsum(lengths), dtype=torch.int32)
    found = run(PackedBigBird(stock), sequence_ends=ends, **feeds)
    for index, row in enumerate(rows):
        alone = reference(stock, {name: value[None] for name, value in row.items()})
        for ours, theirs in zip(found, alone, strict=True):
            assert_close(ours[index] if len(found) == 1 else ours.split(lengths)[index], theirs[0])


@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_a_batch_is_read_as_the_stock_model_reads_it_in_the_padded_layout(
    stock: Any, lengths: list[int], seed: int
) -> None:
    feeds = padded(drawn(stock, lengths, seed))
    for ours, theirs in zip(run(PaddedBigBird(stock), **feeds), reference(stock, feeds), strict=True):
        if len(names_of(stock)) == 1:
            assert_close(ours, theirs)
            continue
        for row, length in enumerate(lengths):
            assert_close(ours[row, :length], theirs[row, :length])


@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_padding_may_stand_anywhere_in_the_padded_layout(stock: Any, lengths: list[int], seed: int) -> None:
    """Before a row's first token, too, which is the one that a classifier reads."""
    feeds = padded(drawn(stock, lengths, seed))
    mask = torch.rand(feeds["input_ids"].shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    mask[:, -1] = True  # of a row that is padding alone nothing is promised
    mask[::2, 0] = False
    mask[:, 0] |= mask.shape[1] == 1
    feeds["attention_mask"] = mask.to(torch.int64)
    for ours, theirs in zip(run(PaddedBigBird(stock), **feeds), reference(stock, feeds), strict=True):
        classifies = len(names_of(stock)) == 1
        assert_close(ours if classifies else ours[mask], theirs if classifies else theirs[mask])


def test_padding_changes_what_the_stock_model_gives_but_not_the_packed_layout(stock: Any) -> None:
    """The reason for two contracts: the last block of a batch is that of its longest row."""
    short, long = drawn(stock, [50, 64], 1)
    alone = reference(stock, {name: value[None] for name, value in short.items()})[0][0]
    beside = reference(stock, padded([short, long]))[0][0][: alone.shape[0]]
    assert float((alone - beside).abs().max()) > 1e-3


def test_a_short_input_leaves_nothing_in_the_reference(stock: Any) -> None:
    short, long = (padded([row]) for row in drawn(stock, [10, 64], 2))
    before = reference(stock, long)
    reference(stock, short)
    assert stock.bert.attention_type == "original_full"
    for one, other in zip(before, reference(stock, long), strict=True):
        assert torch.equal(one, other)


def test_the_exported_graphs_are_right_around_every_edge(
    bigbird_checkpoint: Path, bigbird_bundle: Path
) -> None:
    manifest = Bundle.open(bigbird_bundle).manifest
    assert manifest.architecture == "bigbird" and manifest.global_attention is GlobalAttention.NONE
    assert (manifest.attention_window, manifest.block_size, manifest.random_blocks) == ((24, 24), 8, 1)
    assert (manifest.max_length, manifest.question_separators, manifest.context_token_type) == (128, 1, 1)
    checkpoint = load_checkpoint(str(bigbird_checkpoint), Task.QUESTION_ANSWERING)
    engines = {layout: OnnxRuntimeEngine(bigbird_bundle / file) for layout, file in GRAPH_FILES.items()}
    report = check_parity(
        checkpoint.model, engines, manifest, lengths=(1, 8, 9, 55, 56, 57, 64, 65, 121, 128)
    )
    assert report.failures == () and report.worst.max_relative <= 1e-5
    assert max(result.scale for result in report.results) < 100  # without the question's masked logits
    for layout in Layout:
        graph = onnx.load(bigbird_bundle / GRAPH_FILES[layout], load_external_data=False).graph
        assert not {node.op_type for node in graph.node} & {"NonZero", "If", "Loop", "Scan", "ScatterND"}


@pytest.mark.parametrize("penalty", [0.0, 1e6])
def test_a_question_that_is_masked_otherwise_is_a_failure(
    bigbird_checkpoint: Path, bigbird_bundle: Path, penalty: float
) -> None:
    """Its logits are left out of a case's scale, which must not hide that other positions are masked."""

    class Shifted(OnnxRuntimeEngine):
        def run(self, feeds: Any) -> Any:
            outputs = dict(super().run(feeds))
            end = np.array(outputs["end_logits"], dtype=np.float32)
            end[..., 1] = end[..., 1] % 10 - penalty
            return {**outputs, "end_logits": end}

    checkpoint = load_checkpoint(str(bigbird_checkpoint), Task.QUESTION_ANSWERING)
    engines = {Layout.PADDED: Shifted(bigbird_bundle / GRAPH_FILES[Layout.PADDED])}
    manifest = Bundle.open(bigbird_bundle).manifest
    report = check_parity(checkpoint.model, engines, manifest, lengths=(2, 30))
    # two tokens have no separator, thirty have the question up to it masked
    assert {one.case.split("[")[0] for one in report.failures} >= ({"30"} if penalty == 0 else {"2"})


def test_the_default_lengths_lie_around_the_switch(bigbird_bundle: Path) -> None:
    manifest = Bundle.open(bigbird_bundle).manifest
    lengths = architecture_of("big_bird").parity_lengths(manifest)
    assert {1, 7, 8, 9, 55, 56, 57, 63, 64, 65, 127, 128} <= set(lengths)
    assert max(architecture_of("big_bird").parity_lengths_in_half(manifest)) < 128


def test_a_question_is_framed_and_typed_as_the_stock_model_does_it(
    bigbird_bundle: Path, bigbird_checkpoint: Path
) -> None:
    """BigBird's tokenizer gives no token types; its question-answering model makes them up."""
    from transformers import AutoTokenizer

    bundle = Bundle.open(bigbird_bundle)
    pipeline = make_pipeline(bundle.manifest, bundle.tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    question, context = "what was paid", "every  invoice of the northern harbour"
    prepared = pipeline.prepare(question, context, QuestionAnsweringOptions())
    (ours,) = prepared.sequences
    theirs = AutoTokenizer.from_pretrained(bigbird_checkpoint)(question, context)
    assert ours.input_ids.tolist() == theirs["input_ids"] and "token_type_ids" not in theirs
    model = load_checkpoint(str(bigbird_checkpoint), Task.QUESTION_ANSWERING).model
    with torch.inference_mode():
        alone = model(input_ids=torch.from_numpy(ours.input_ids)[None])
    with LocalClient(str(bigbird_bundle)) as client:
        output = client.logits(ours.input_ids, token_type_ids=ours.token_type_ids)
    assert output.end_logits is not None
    assert_close(torch.from_numpy(output.end_logits), alone.end_logits[0])


def test_answers_come_from_the_context(bigbird_bundle: Path) -> None:
    context = "The Winter came before every LANTERN was counted. " * 15
    with LocalClient(str(bigbird_bundle)) as client:
        for answer in client.answer("the fox jumps over the lantern", context, top_k=3):
            assert answer.answer == context[answer.start : answer.end] != ""
            assert answer.windows > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_type": "original_full"}, "attention_type original_full; longserve exports block_sparse"),
        ({"is_decoder": True}, "is a decoder"),
        ({"num_random_blocks": 0}, "num_random_blocks 0; the stock model runs with at least 1"),
        ({"type_vocab_size": 1}, "and 1 token types; the stock model finds the question by the separator"),
    ],
)
def test_configurations_without_an_exact_export_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {"block_size": 4, "sep_token_id": 3, **change}
    make_small("BigBirdForQuestionAnswering", **config).save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(UnsupportedModel, match=message):
        load_checkpoint(str(tmp_path / "checkpoint"), Task.QUESTION_ANSWERING)


def test_another_separator_than_the_tokenizers_is_refused(bert_checkpoint: Path, tmp_path: Path) -> None:
    make_small("BigBirdForQuestionAnswering", sep_token_id=4).save_pretrained(tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert_checkpoint / name).read_bytes())
    with pytest.raises(UnsupportedModel, match="separates with 3, but its model looks for 4"):
        load_checkpoint(str(tmp_path), Task.QUESTION_ANSWERING)


def test_another_block_size_is_refused(bigbird_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="block_size is 16, but this checkpoint was trained with 8"):
        export_bundle(
            str(bigbird_checkpoint),
            Task.QUESTION_ANSWERING,
            tmp_path / "b",
            settings=ExportSettings(block_size=16),
        )


@pytest.mark.parametrize(
    ("positions", "longest"), [(30, 30), (45, 45), (56, 56), (60, 56), (63, 56), (64, 64)]
)
def test_the_longest_sequence_is_one_that_the_stock_model_runs(positions: int, longest: int) -> None:
    """Beyond the switch (56 here) its inputs are padded to whole blocks, which must have positions."""
    stock = make_small(
        "BigBirdForSequenceClassification",
        block_size=8,
        num_random_blocks=1,
        max_position_embeddings=positions,
    )
    shape = architecture_of("big_bird").attention_shape(stock.config, Task.TEXT_CLASSIFICATION, None)
    assert shape.longest == longest
    ids = torch.ones(1, longest, dtype=torch.int64)
    reference(stock, {"input_ids": ids, "attention_mask": ids})
    if longest < positions:
        with pytest.raises((RuntimeError, IndexError)):
            reference(stock, {"input_ids": torch.ones(1, longest + 1, dtype=torch.int64)})
