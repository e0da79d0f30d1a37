"""Choosing an engine by measurement: what may be chosen, what is refused and why, and a real one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_support import require_bf16, require_openvino

from longserve.serving import Bundle, EngineError, EngineName, EngineSettings, InferencePrecision, Precision
from longserve.serving.repository import engine_choice
from longserve.serving.repository.engine_choice import candidates, choose_engine, measured_lengths

ORT, OPENVINO = EngineName.ONNXRUNTIME, EngineName.OPENVINO
FP32, BF16 = InferencePrecision.FP32, InferencePrecision.BF16


@pytest.mark.parametrize(
    ("engine", "precision", "expected"),
    [
        (None, FP32, {"onnxruntime fp32": True, "openvino fp32": True}),
        (None, BF16, {"onnxruntime fp32": False, "openvino bf16": True}),
        (None, None, {"onnxruntime fp32": True, "openvino fp32": True, "openvino bf16": True}),
        (OPENVINO, None, {"onnxruntime fp32": False, "openvino fp32": True, "openvino bf16": True}),
        (ORT, None, {"onnxruntime fp32": True}),
    ],
)
def test_bf16_is_measured_only_where_it_is_allowed(
    engine: EngineName | None, precision: InferencePrecision | None, expected: dict[str, bool]
) -> None:
    assert {item.name: item.allowed for item in candidates(engine, precision)} == expected


def test_an_arithmetic_that_the_engine_does_not_do_is_refused() -> None:
    with pytest.raises(EngineError, match="onnxruntime computes in the precision of the graph"):
        candidates(ORT, BF16)


@pytest.mark.parametrize(("longest", "lengths"), [(4096, (128, 512, 2048)), (600, (128, 512)), (64, (64,))])
def test_lengths_fit_the_model(longest: int, lengths: tuple[int, ...]) -> None:
    assert measured_lengths(longest) == lengths


class Fake:
    """An engine of a known speed, whose logits are off by a known amount."""

    def __init__(self, seconds: float, off: float = 0.0) -> None:
        self.seconds, self.off = seconds, off
        self.runs_on = "fake"

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"logits": np.array([[1.0, 2.0, 4.0 + self.off]], np.float32)}


@pytest.fixture
def choose(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Choose among fakes by name; an exception stands for an engine that cannot be opened."""

    def run(engines: Mapping[str, Any], *, manifest: Mapping[str, Any] | None = None, **asked: Any) -> Any:
        opened = []

        def open_fake(_: Bundle, settings: EngineSettings) -> Any:
            precision = settings.inference_precision or FP32
            opened.append(settings.threads)
            found = engines[f"{settings.engine.value} {precision.value}"]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(engine_choice, "open_packed_engine", open_fake)
        monkeypatch.setattr(engine_choice, "_MAX_ROUNDS", 3)
        name = f"bundle{len(list(tmp_path.iterdir()))}"
        bundle = Bundle.open(make_bundle(name, max_length=64, **(manifest or {})))
        choice = choose_engine(bundle, threads=5, **asked)
        assert set(opened) == {5}
        return choice

    return run


def test_the_fastest_wins_and_its_figures_are_kept(choose: Callable[..., Any]) -> None:
    choice = choose({"onnxruntime fp32": Fake(0.02), "openvino fp32": Fake(0.005)})
    assert choice.chosen.name == "openvino fp32"
    assert 2 < choice.chosen.speedup < 5
    record = json.loads(choice.to_json())
    assert record["speedup"] == {"onnxruntime fp32": 1.0, "openvino fp32": round(choice.chosen.speedup, 3)}
    assert record["milliseconds"]["onnxruntime fp32"][0] >= 20
    assert (record["lengths"], record["threads"], record["refused"]) == ([64], 5, {})


def test_what_is_hardly_faster_does_not_replace_the_default(choose: Callable[..., Any]) -> None:
    choice = choose({"onnxruntime fp32": Fake(0.0500), "openvino fp32": Fake(0.0495)})
    assert choice.chosen.name == "onnxruntime fp32"


@pytest.mark.parametrize("off", [1e-3, math.nan, math.inf])
def test_other_logits_are_refused_however_fast(choose: Callable[..., Any], off: float) -> None:
    choice = choose({"onnxruntime fp32": Fake(0.02), "openvino fp32": Fake(0.001, off)})
    assert choice.chosen.name == "onnxruntime fp32"
    assert "differ from those of onnxruntime fp32" in choice.measured[1].refused
    assert list(json.loads(choice.to_json())["refused"]) == ["openvino fp32"]


def test_rounding_is_allowed_to_differ_more(choose: Callable[..., Any]) -> None:
    engines = {"onnxruntime fp32": Fake(0.02), "openvino fp32": Fake(0.01), "openvino bf16": Fake(0.001, 0.2)}
    assert choose(engines, inference_precision=None).chosen.name == "openvino bf16"


def test_an_int8_bundle_is_allowed_to_differ_more(choose: Callable[..., Any]) -> None:
    engines = {"onnxruntime fp32": Fake(0.02), "openvino fp32": Fake(0.001, 0.2)}
    choice = choose(engines, manifest={"precision": Precision.INT8})
    assert choice.chosen.name == "openvino fp32"


def test_an_engine_that_cannot_be_opened_is_not_chosen(choose: Callable[..., Any]) -> None:
    choice = choose({"onnxruntime fp32": Fake(0.001), "openvino fp32": EngineError("not installed")})
    assert choice.chosen.name == "onnxruntime fp32"
    assert choice.measured[1].refused == "not installed"
    choice = choose({"onnxruntime fp32": EngineError("not installed"), "openvino fp32": Fake(0.001)})
    assert choice.chosen.name == "openvino fp32" and choice.measured[0].name == "openvino fp32"


def test_an_engine_that_fails_is_not_chosen(choose: Callable[..., Any]) -> None:
    class Failing(Fake):
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            raise EngineError("no kernel")

    choice = choose({"onnxruntime fp32": Fake(0.001), "openvino fp32": Failing(0)})
    assert choice.chosen.name == "onnxruntime fp32"
    assert choice.measured[1].refused == "no kernel"


def test_the_reference_is_not_chosen_where_it_is_not_allowed(choose: Callable[..., Any]) -> None:
    engines = {"onnxruntime fp32": Fake(0.001), "openvino bf16": Fake(0.01)}
    choice = choose(engines, inference_precision=BF16)
    assert choice.chosen.name == "openvino bf16"
    assert choice.chosen.speedup < 0.5


def test_where_nothing_is_left_every_reason_is_named(choose: Callable[..., Any]) -> None:
    engines = {"onnxruntime fp32": Fake(0), "openvino bf16": EngineError("no bf16 here")}
    with pytest.raises(EngineError, match=r"as asked: onnxruntime fp32: not allowed; openvino bf16: no bf16"):
        choose(engines, inference_precision=BF16)


def test_a_real_bundle_is_measured(qa_bundle: Path) -> None:
    require_openvino()
    require_bf16()
    told: list[str] = []
    choice = choose_engine(Bundle.open(qa_bundle), inference_precision=None, threads=2, report=told.append)
    assert choice.lengths == (128, 512)
    assert [item.name for item in choice.measured] == ["onnxruntime fp32", "openvino fp32", "openvino bf16"]
    assert all(len(item.seconds) == 2 and not item.refused for item in choice.measured)
    reference, same, rounded = (item.difference for item in choice.measured)
    assert reference == 0 < same < 1e-5 < rounded < 0.1
    assert told == [
        *(f"loading {item.name}" for item in choice.measured),
        *(f"measuring {n} tokens" for n in (128, 512)),
    ]
