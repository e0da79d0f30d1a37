"""`benchmarks/server_throughput.py` against a real Triton, and the padded baseline's own parts."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import load_generator
import numpy as np
import pytest
import server_throughput
from hypothesis import given
from hypothesis import strategies as st
from load_generator import Answered, Load, PerfAnalyzerLoad, TritonClientLoad, find_generator
from server_throughput import Configuration, build_encoder, build_text_model

from longserve.serving import runtime
from longserve.serving.repository.config import parse_config
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.server import Ports, TritonServer


@pytest.fixture(scope="module")
def padded_encoder() -> Iterator[ModuleType]:
    """The padded baseline, beside an encoder that has the functions it replaces."""
    encoder = SimpleNamespace(
        TritonPythonModel=object, _graph_files=None, open_packed_engine=None, encode=None, plan_runs=None
    )
    # A package object of its own: importing a submodule sets it as an attribute of its package.
    package = ModuleType("longserve_runtime")
    package.__path__ = list(runtime.__path__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "packed_encoder", encoder)
        patch.setitem(sys.modules, "longserve_runtime", package)
        yield importlib.import_module("padded_encoder")
        for name in [
            name for name in sys.modules if name.startswith(("longserve_runtime.", "padded_encoder"))
        ]:
            del sys.modules[name]


class TestPaddedBaseline:
    @given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=30), bound=st.integers(500, 3000))
    def test_batches_are_whole_in_order_and_within_the_bound(
        self, padded_encoder: ModuleType, lengths: list[int], bound: int
    ) -> None:
        runs = padded_encoder.plan_padded_runs(lengths, bound)
        assert [index for run in runs for index in run] == list(range(len(lengths)))
        for run, following in zip(runs, [*runs[1:], None], strict=True):
            assert max(lengths[i] for i in run) * len(run) <= bound
            if following is not None:  # one more would not have fitted
                longer = [*run, following[0]]
                assert max(lengths[i] for i in longer) * len(longer) > bound

    def test_an_encoder_of_another_form_is_refused_instead_of_measured(
        self, padded_encoder: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "packed_encoder", SimpleNamespace(TritonPythonModel=object))
        monkeypatch.delitem(sys.modules, "padded_encoder")
        with pytest.raises(AttributeError, match="_graph_files"):
            importlib.import_module("padded_encoder")

    def test_it_gives_the_served_encoders_logits(self, classification_bundle: Path, tmp_path: Path) -> None:
        from tritonclient import grpc

        bundle = Bundle.open(classification_bundle, verify=False)
        planned = [
            Configuration(mode=mode, instances=1, threads=1, queue_delay=0.05)
            for mode in ("packed", "padded")
        ]
        chosen = argparse.Namespace(engine="onnxruntime", inference_precision="fp32", max_batch_size=8)
        for configuration in planned:
            build_encoder(bundle, configuration, tmp_path, chosen)
        assert not list(tmp_path.glob("padded*/1/model.packed.onnx"))
        with TritonServer(tmp_path, ports=Ports(http=0, grpc=0, metrics=0), grace=2.0) as server:
            url = server.urls.grpc.removeprefix("grpc://")
            load = Load(url=url, model="", lengths=(300, 20, 77), vocab_size=300, concurrency=3)
            logits = [answers_together(grpc, load, configuration.model) for configuration in planned]
            sizes = server_throughput.batch_sizes(url, planned)
        assert np.allclose(*logits, atol=1e-4)
        assert min(sizes.values()) > 1.0


def answers_together(grpc: Any, load: Load, model: str) -> np.ndarray[Any, Any]:
    """Send all requests of a load at once and return their logits."""
    requests = []
    for arrays in load.inputs():
        tensors = [grpc.InferInput(name, [1, array.size], "INT64") for name, array in arrays.items()]
        for tensor, array in zip(tensors, arrays.values(), strict=True):
            tensor.set_data_from_numpy(array[None])
        requests.append(tensors)
    with grpc.InferenceServerClient(load.url) as client, ThreadPoolExecutor(len(requests)) as pool:
        results = list(pool.map(lambda tensors: client.infer(model, tensors), requests))
    return np.concatenate([result.as_numpy("logits") for result in results])


def test_modes_are_measured_side_by_side(
    classification_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "throughput.json"
    options = ["--bundle", str(classification_bundle), "--requests", "30", "--concurrency", "6"]
    options += ["--rounds", "2", "--text-lengths", "200", "--text-rounds", "3", "--generator", "tritonclient"]
    monkeypatch.setattr(sys, "argv", ["server_throughput.py", *options, "--json", str(target)])
    server_throughput.main()
    report = json.loads(target.read_text(encoding="utf-8"))
    rows = {row["mode"]: row for row in report["configurations"]}
    assert set(rows) == {"packed", "padded", "unbatched"}
    for row in rows.values():
        assert row["requests_per_second"]["samples"] == 2 and row["requests_per_second"]["median"] > 1
        assert 0 < row["latency_seconds"]["median"] <= row["latency_p99_seconds"]
        assert row["times_padded"]["median"] > 0
    assert rows["unbatched"]["requests_per_execution"] == 1.0 < rows["packed"]["requests_per_execution"]
    assert rows["padded"]["times_padded"]["median"] == 1.0
    models = [entry["model"] for entry in report["memory"]]
    assert models.count(None) == 1 and {row["model"] for row in rows.values()} <= set(models)
    assert all(entry["peak_bytes"] >= entry["private_bytes"] > 1e6 for entry in report["memory"])
    (text,) = report["texts"]
    assert text["length"] == 200 and text["ratio_of_medians"] > 0
    assert report["load_generator"] == {"name": "tritonclient", "reason": "chosen"}
    printed = capsys.readouterr().out
    assert "30 requests of mixed lengths, 6 at a time" in printed and "times in process" in printed


def test_texts_are_measured_on_the_engine_that_was_chosen(
    classification_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(classification_bundle, verify=False)
    chosen = argparse.Namespace(engine="openvino", inference_precision="bf16", max_batch_size=8)
    configuration = Configuration(mode="packed", instances=1, threads=1, queue_delay=0.05)
    build_encoder(bundle, configuration, tmp_path, chosen)
    build_text_model(bundle, tmp_path, chosen)
    for model in (configuration.model, "texts_encoder"):
        path = tmp_path / model / "config.pbtxt"
        parameters = parse_config(path.read_text(encoding="utf-8"), str(path)).parameters
        assert parameters["engine"].string_value == "openvino"
        assert parameters["inference_precision"].string_value == "bf16"


def test_instances_and_threads() -> None:
    chosen = argparse.Namespace(modes="packed", instances="1x2,2x1", queue_delays="0,0.005")
    planned = server_throughput.configurations(chosen)
    assert [configuration.model for configuration in planned] == [
        "packed-1x2-0ms_encoder",
        "packed-1x2-5ms_encoder",
        "packed-2x1-0ms_encoder",
        "packed-2x1-5ms_encoder",
    ]
    with pytest.raises(ValueError, match="no mode ragged; give some of packed, padded, unbatched"):
        server_throughput.configurations(argparse.Namespace(**{**vars(chosen), "modes": "packed,ragged"}))


class TestLoad:
    def test_the_same_load_has_the_same_requests(self) -> None:
        load = Load(url="", model="", lengths=(5, 9), vocab_size=50, concurrency=1)
        first, second = list(load.inputs()), list(load.inputs())
        assert [arrays["input_ids"].size for arrays in first] == [5, 9]
        for one, other in zip(first, second, strict=True):
            assert np.array_equal(one["input_ids"], other["input_ids"])
            assert one["global_attention_mask"].tolist() == [1] + [0] * (one["input_ids"].size - 1)
            assert one["input_ids"].min() >= 5 and one["input_ids"].max() < 50

    def test_times_are_of_the_whole_run_and_of_each_request(self) -> None:
        answered = Answered(sent=(1.0, 1.5), answered=(4.0, 2.0))
        assert answered.duration == 3.0 and answered.latencies == [3.0, 0.5]

    def test_tritonclient_stands_in_where_perf_analyzer_does_not_run(self, tmp_path: Path) -> None:
        broken = program(tmp_path, "echo no libb64 >&2; exit 127")
        generator, reason = find_generator("auto", str(broken))
        assert isinstance(generator, TritonClientLoad) and "no libb64" in reason
        with pytest.raises(OSError, match="no libb64"):
            find_generator("perf_analyzer", str(broken))

    def test_without_perf_analyzer_the_reason_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load_generator.shutil, "which", lambda name: None)
        generator, reason = find_generator("auto", None)
        assert isinstance(generator, TritonClientLoad) and "no perf_analyzer on PATH" in reason

    def test_what_perf_analyzer_exports_is_read(self, tmp_path: Path) -> None:
        exported = {
            "experiments": [
                {
                    "requests": [
                        {"timestamp": 1_000_000_000, "response_timestamps": [3_000_000_000]},
                        {"timestamp": 1_500_000_000, "response_timestamps": [2_000_000_000]},
                    ]
                }
            ]
        }
        (tmp_path / "exported.json").write_text(json.dumps(exported), encoding="ascii")
        # the last option is the file to export to
        found = program(
            tmp_path,
            f'[ "$1" = --version ] && echo "Perf Analyzer Version 9 (commit x)" && exit\n'
            f'for last; do :; done; cp {tmp_path}/exported.json "$last"',
        )
        generator = PerfAnalyzerLoad(found)
        assert generator.name == "Perf Analyzer Version 9"
        load = Load(url="localhost:1", model="m", lengths=(5, 9), vocab_size=50, concurrency=2)
        assert generator.run(load) == Answered(sent=(1.0, 1.5), answered=(3.0, 2.0))
        three = Load(url="localhost:1", model="m", lengths=(5, 9, 7), vocab_size=50, concurrency=2)
        with pytest.raises(OSError, match="2 answers to 3 requests"):
            generator.run(three)


def program(directory: Path, script: str) -> Path:
    """Write a shell script that stands for perf_analyzer."""
    path = directory / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)
    return path
