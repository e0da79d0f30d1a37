"""The BERT family: equal to the stock models in both layouts, and read through the same windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import add_outliers, make_bert_checkpoint, make_small
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.export import ExportError, ExportSettings, UnsupportedModel, export_bundle, validate_bundle
from longserve.export.architectures.bert import PackedBert, PaddedBert
from longserve.export.bench.errors import BenchError
from longserve.export.bench.matrix import BenchSettings, EngineKind
from longserve.export.bench.plan import plan_engines
from longserve.export.bench.products import read_shape
from longserve.export.checkpoint import load_checkpoint
from longserve.export.report import gather, render_card, render_page
from longserve.serving import LocalClient
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.manifest import GlobalAttention, Layout, Task
from longserve.serving.runtime.options import QuestionAnsweringOptions
from longserve.serving.runtime.pipeline import QuestionAnsweringPipeline, make_pipeline

ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 130}
MODELS = {
    "bert classifier": ("BertForSequenceClassification", {"num_labels": 5, "num_attention_heads": 8}),
    "bert reader": ("BertForQuestionAnswering", {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "roberta classifier": ("RobertaForSequenceClassification", {**ROBERTA, "num_labels": 1}),
    "roberta reader": ("RobertaForQuestionAnswering", ROBERTA),
    "xlm-roberta reader": ("XLMRobertaForQuestionAnswering", {**ROBERTA, "type_vocab_size": 2}),
}
WORDS = "the quick brown fox jumps over the lazy dog while every invoice of the northern harbour was paid"


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def stock(request: pytest.FixtureRequest) -> Any:
    class_name, config = request.param
    model = make_small(class_name, **config)
    return add_outliers(model) if class_name == "RobertaForQuestionAnswering" else model


def expected(stock: Any, **feeds: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        outputs = stock(**feeds)
    if "logits" in outputs:
        return [outputs.logits]
    return [outputs.start_logits, outputs.end_logits]


def run(module: Any, *feeds: Any, **more: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        outputs = module(*feeds, **more)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    scale = max(1.0, float(wanted.abs().max()))
    assert float((found - wanted).abs().max()) <= 1e-5 * scale


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=5),
    block_size=st.sampled_from([1, 16, 64]),
    seed=st.integers(0, 1000),
)
def test_every_document_is_read_as_if_alone(
    stock: Any, lengths: list[int], block_size: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    config = stock.config
    rows = [torch.randint(0, config.vocab_size, (length,), generator=random) for length in lengths]
    types = [torch.randint(0, config.type_vocab_size, (length,), generator=random) for length in lengths]
    two = config.type_vocab_size > 1
    given_types = {"token_type_ids": torch.cat(types)} if two else {}
    ends = torch.tensor(np.cumsum(lengths), dtype=torch.int32)
    found = run(PackedBert(stock, block_size=block_size), torch.cat(rows), ends, **given_types)
    for index, (row, kinds) in enumerate(zip(rows, types, strict=True)):
        alone = expected(stock, input_ids=row[None], **({"token_type_ids": kinds[None]} if two else {}))
        for ours, theirs in zip(found, alone, strict=True):
            own = ours[index] if len(found) == 1 else ours.split(lengths)[index]
            assert_close(own, theirs[0])


def test_any_attention_mask_is_obeyed_in_the_padded_layout(stock: Any) -> None:
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(0, stock.config.vocab_size, (4, 50), generator=random)
    mask = torch.randint(0, 2, (4, 50), generator=random)
    mask[0], mask[1, :30], mask[2, 20:] = 1, 0, 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    if stock.config.type_vocab_size > 1:
        feeds["token_type_ids"] = torch.randint(0, 2, (4, 50), generator=random)
    for ours, theirs in zip(run(PaddedBert(stock), **feeds), expected(stock, **feeds), strict=True):
        seen = mask.bool() if ours.shape == mask.shape else torch.ones(4, dtype=torch.bool)
        assert_close(ours[seen], theirs[seen])


def test_a_bundle_says_that_no_token_is_global(bert_bundle: Path, roberta_bundle: Path) -> None:
    bert, roberta = (Bundle.open(path).manifest for path in (bert_bundle, roberta_bundle))
    assert (bert.architecture, roberta.architecture) == ("bert", "roberta")
    assert (bert.max_length, roberta.max_length) == (128, 512)
    assert (bert.question_separators, bert.context_token_type) == (1, 1)
    assert (roberta.question_separators, roberta.context_token_type) == (2, 0)
    for manifest in (bert, roberta):
        assert manifest.global_attention is GlobalAttention.NONE
        assert manifest.attention_window == ()
        assert manifest.parity is not None and manifest.parity.max_relative <= 1e-5
        for layout in Layout:
            assert "global_attention_mask" not in {t.name for t in manifest.graph(layout).inputs}


@pytest.mark.parametrize("layout", list(Layout))
def test_the_graphs_hold_standard_operators_only(roberta_bundle: Path, layout: Layout) -> None:
    model = onnx.load(Bundle.open(roberta_bundle).model_path(layout), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"NonZero", "If", "Loop", "Scan", "ScatterND"}


def test_a_question_is_framed_as_the_tokenizer_frames_it(bert_bundle: Path, bert_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    bundle = Bundle.open(bert_bundle)
    pipeline = make_pipeline(bundle.manifest, bundle.tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    question, context = "Was the HARBOUR paid?", "Évery  invoice of the Northern harboür wäs paid."
    prepared = pipeline.prepare(question, context, QuestionAnsweringOptions())
    stock = AutoTokenizer.from_pretrained(bert_checkpoint)
    theirs = stock(question, context, return_offsets_mapping=True)
    (ours,) = prepared.sequences
    assert ours.input_ids.tolist() == theirs["input_ids"]
    assert ours.token_type_ids is not None and ours.token_type_ids.tolist() == theirs["token_type_ids"]
    assert ours.global_attention_mask is None
    inside = theirs["offset_mapping"][prepared.prefix : -1]
    assert [tuple(pair) for pair in prepared.offsets.tolist()] == inside
    assert prepared.tokens == len(theirs["input_ids"])


def test_a_document_longer_than_the_model_is_read_in_windows(bert_bundle: Path) -> None:
    context = " ".join(f"{'ÉVERY' if n % 7 else 'Northern'} {WORDS}" for n in range(30))
    with LocalClient(str(bert_bundle)) as client:
        answers = client.answer("who was paid", context, top_k=4)
        detail = client.answer_windows("who was paid", context)
        for answer in answers:
            assert answer.windows > 3
            assert answer.answer == context[answer.start : answer.end]
            assert answer.answer and not answer.answer[0].isspace()
    ends = [window.end for window in detail.windows]
    assert detail.windows[0].start == 0 and ends[-1] == len(context)
    starts = [window.start for window in detail.windows[1:]]
    assert all(begin < end for begin, end in zip(starts, ends, strict=False))


def test_predictions_on_texts_are_those_of_pytorch(bert_bundle: Path, bert_checkpoint: Path) -> None:
    texts = [{"question": "what was paid", "context": " ".join([WORDS] * n)} for n in (1, 3, 12)]
    result = validate_bundle(Bundle.open(bert_bundle), str(bert_checkpoint), texts=texts)
    assert result.parity.failures == ()
    assert result.texts is not None and (result.texts.same, result.texts.f1) == (3, 1.0)


def test_an_option_without_effect_is_refused(bert_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="max_global_tokens is 4, but bert has no global tokens"):
        export_bundle(
            str(bert_checkpoint),
            Task.QUESTION_ANSWERING,
            tmp_path / "b",
            settings=ExportSettings(max_global_tokens=4),
        )


def test_a_mask_that_means_nothing_is_refused(bert_bundle: Path) -> None:
    with LocalClient(str(bert_bundle)) as client:
        with pytest.raises(InvalidInput, match=r"\(bert\) has no global attention .*; leave it out"):
            client.logits([2, 5, 3], [1, 0, 0])
        output = client.logits([2, 5, 3], token_type_ids=[0, 0, 0])
        assert output.start_logits is not None and output.start_logits.shape == (3,)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("is_decoder", True, "is a decoder"),
        ("position_embedding_type", "relative_key", "has position_embedding_type relative_key, which"),
    ],
)
def test_configurations_without_an_exact_export_are_refused(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    source = make_bert_checkpoint(tmp_path / "checkpoint", "text-classification")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps({**config, field: value}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=message):
        load_checkpoint(str(source), Task.TEXT_CLASSIFICATION)


def test_the_report_and_the_card_say_what_it_is(bert_bundle: Path) -> None:
    report = gather(bert_bundle)
    page, card = render_page(report), render_card(report)
    assert "<dt>Architecture</dt><dd>bert</dd>" in page
    assert "<dt>Global attention</dt><dd>none to choose</dd>" in page
    assert "Bert for question-answering" in card and "- bert\n" in card
    assert "global attention mask" not in card and "| attention window |" not in card


def test_the_benchmark_lists_no_products_of_an_architecture_that_it_does_not_know(bert_bundle: Path) -> None:
    bundle = Bundle.open(bert_bundle)
    kinds = {spec.kind for spec in plan_engines([bundle], BenchSettings())}
    assert EngineKind.ONNXRUNTIME in kinds and EngineKind.PRODUCTS not in kinds
    with pytest.raises(BenchError, match="is a bert model, whose matrix products are not listed"):
        read_shape(bundle)
