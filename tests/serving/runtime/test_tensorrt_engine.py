"""TensorRT's engine without a GPU: what it refuses before anything runs, and how it runs what it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import GPU, FakeCuda, FakeTensorRt, make_record

from longserve.serving.runtime.cuda_device import CudaDevice, find_gpu
from longserve.serving.runtime.engine import EngineName, EngineSettings, open_engine
from longserve.serving.runtime.engine_settings import Arrays, InferencePrecision
from longserve.serving.runtime.errors import EngineError, IncompatibleEngine, OutsideProfile
from longserve.serving.runtime.gpu_settings import GpuSettings
from longserve.serving.runtime.manifest import FileRecord, Layout, TensorSpec
from longserve.serving.runtime.tensorrt_engine import TensorRtEngine, import_tensorrt
from longserve.serving.runtime.tensorrt_record import RECORD_NAME, EngineRecord, Gpu, TensorRtLibrary

SETTINGS = EngineSettings(engine=EngineName.TENSORRT)


def write(directory: Path, **fields: Any) -> EngineRecord:
    (directory / "model.plan").write_bytes(b"plan")
    plan = FileRecord(name="model.plan", sha256=hashlib.sha256(b"plan").hexdigest(), size=4)
    record = make_record(plan=plan, **fields)
    (directory / RECORD_NAME).write_text(record.to_json(), encoding="utf-8")
    return record


def opened(directory: Path, library: FakeTensorRt, cuda: FakeCuda | None = None) -> TensorRtEngine:
    device = CudaDevice(bindings=cuda or FakeCuda())
    return TensorRtEngine(directory, SETTINGS, library=library, device=device)


def feeds(tokens: int, ends: tuple[int, ...] = (), marked: int = 1) -> dict[str, Any]:
    mask = np.zeros(tokens, dtype=np.int64)
    mask[:marked] = 1
    return {
        "input_ids": np.arange(tokens, dtype=np.int64),
        "global_attention_mask": mask,
        "sequence_ends": np.array(ends or (tokens,), dtype=np.int32),
    }


class TestRunning:
    def test_a_run_gives_what_the_plan_computes(self, tmp_path: Path) -> None:
        write(tmp_path)
        library, cuda = FakeTensorRt(), FakeCuda()
        engine = opened(tmp_path, library, cuda)
        assert engine.runs_on == "tensorrt_rtx 1.7.1.116 NVIDIA Test 1"
        for tokens in (3, 64, 200, 5):
            outputs = engine.run(feeds(tokens))
            np.testing.assert_array_equal(outputs["start_logits"], np.arange(tokens, dtype=np.float32))
            np.testing.assert_array_equal(outputs["end_logits"], -np.arange(tokens, dtype=np.float32))
        assert [call for call in library.calls if call.startswith("profile")] == [
            "profile 1",
            "profile 2",
            "profile 0",
        ]
        allocated = [call for call in cuda.calls if call.startswith("malloc")]
        assert len(allocated) == 1 + 3 * 4, "buffers grow and are used again"
        engine.close()
        assert cuda.held == {}

    def test_what_comes_back_is_the_callers(self, tmp_path: Path) -> None:
        write(tmp_path)
        engine = opened(tmp_path, FakeTensorRt())
        first = engine.run(feeds(4))["start_logits"]
        engine.run({**feeds(4), "input_ids": np.full(4, 9)})
        np.testing.assert_array_equal(first, [0, 1, 2, 3])

    def test_a_failed_run_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path)
        with pytest.raises(EngineError, match="failed; see its log"):
            opened(tmp_path, FakeTensorRt(runs=False)).run(feeds(4))

    def test_another_shape_than_the_graphs_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path)
        library = FakeTensorRt()
        library.output_shape = (5,)
        with pytest.raises(EngineError, match=r"start_logits of shape \[5\] where \[4\]"):
            opened(tmp_path, library).run(feeds(4))

    def test_too_little_memory_is_an_error_that_says_for_what(self, tmp_path: Path) -> None:
        write(tmp_path)
        with pytest.raises(EngineError, match="allocate 512 bytes for input_ids: cudaErrorMemoryAllocation"):
            opened(tmp_path, FakeTensorRt(), FakeCuda(memory=256)).run(feeds(64))

    def test_what_rtx_compiles_is_kept_for_the_next_process(self, tmp_path: Path) -> None:
        write(tmp_path)
        settings = dataclasses.replace(SETTINGS, gpu=GpuSettings(cache=str(tmp_path / "cache")))
        for expected in (None, b"compiled"):
            library = FakeTensorRt()
            device = CudaDevice(bindings=FakeCuda())
            engine = TensorRtEngine(tmp_path, settings, library=library, device=device)
            assert library.calls == ["context with a runtime cache"]
            assert library.cached == expected
            engine.close()

    def test_a_cache_that_cannot_be_written_is_an_error_and_the_gpu_is_free(self, tmp_path: Path) -> None:
        write(tmp_path)
        (tmp_path / "cache").write_text("a file, and no directory", encoding="utf-8")
        settings = dataclasses.replace(SETTINGS, gpu=GpuSettings(cache=str(tmp_path / "cache")))
        cuda = FakeCuda()
        device = CudaDevice(bindings=cuda)
        engine = TensorRtEngine(tmp_path, settings, library=FakeTensorRt(), device=device)
        engine.run(feeds(4))
        with pytest.raises(EngineError, match="cache cannot be written"):
            engine.close()
        assert cuda.held == {}


class TestRefusals:
    """All of these before anything runs."""

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (feeds(257), "batch 1 and tokens 257, which no profile"),
            (feeds(60, (10, 20, 30, 40, 60)), "batch 5 and tokens 60, which no profile"),
            (feeds(40, marked=17), "17 global tokens, the engine was built for at most 16"),
        ],
    )
    def test_a_run_that_the_engine_was_not_built_for(
        self, tmp_path: Path, given: Arrays, reason: str
    ) -> None:
        write(tmp_path)
        library = FakeTensorRt()
        with pytest.raises(OutsideProfile, match=reason):
            opened(tmp_path, library).run(given)
        assert "run" not in library.calls

    def test_the_capacity_of_a_padded_engine_is_a_rows(self) -> None:
        names = ("input_ids", "attention_mask", "global_attention_mask")
        inputs = tuple(TensorSpec(name=name, dtype="int64", axes=("batch", "sequence")) for name in names)
        record = make_record(layout=Layout.PADDED, inputs=inputs, global_capacity=2)
        mask = np.zeros((3, 9), dtype=np.int64)
        mask[:, :2] = 1
        ones = np.ones_like(mask)
        given = {"input_ids": ones, "attention_mask": ones, "global_attention_mask": mask}
        assert record.check_run(given) == 1
        mask[2, 5] = 1
        with pytest.raises(OutsideProfile, match="a row has 3 global tokens"):
            record.check_run(given)
        assert dataclasses.replace(record, global_capacity=None).check_run(given) == 1

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (
                {"input_ids": np.zeros(4, dtype=np.int32)},
                "input_ids is int32 of shape .4.; give int64 .tokens",
            ),
            ({"input_ids": np.zeros((1, 4), dtype=np.int64)}, r"of shape \[1, 4\]; give int64"),
            ({"input_ids": np.zeros(5, dtype=np.int64)}, "tokens is 5 in another input"),
            ({"attention_mask": np.zeros(4)}, "the inputs given are attention_mask, "),
        ],
    )
    def test_tensors_that_are_not_the_graphs(self, change: dict[str, Any], reason: str) -> None:
        with pytest.raises(EngineError, match=reason):
            make_record().check_run({**feeds(4), **change})

    @pytest.mark.parametrize(
        ("here", "reason"),
        [
            (
                (TensorRtLibrary.TENSORRT_RTX, "1.8.0", GPU),
                "built by tensorrt_rtx 1.7.1.116, here is .* 1.8.0",
            ),
            ((TensorRtLibrary.TENSORRT, "1.7.1.116", GPU), "here is tensorrt 1.7.1.116"),
            (
                (TensorRtLibrary.TENSORRT_RTX, "1.7.1.116", Gpu(name="Old", compute_capability="7.0")),
                "built for compute capability 8.9, 9.0, here is Old",
            ),
        ],
    )
    def test_another_version_or_gpu(self, here: Any, reason: str) -> None:
        record = make_record()
        record.check_here(TensorRtLibrary.TENSORRT_RTX, "1.7.1.116", GPU)
        with pytest.raises(IncompatibleEngine, match=reason):
            record.check_here(*here)

    def test_an_engine_of_tensorrt_runs_on_its_own_gpu_only(self) -> None:
        record = make_record(library=TensorRtLibrary.TENSORRT, targets=(), gpu=GPU)
        record.check_here(TensorRtLibrary.TENSORRT, record.version, GPU)
        other = Gpu(name="NVIDIA Test 2", compute_capability="9.0")
        with pytest.raises(IncompatibleEngine, match=r"built on NVIDIA Test 1 .*, here is NVIDIA Test 2"):
            record.check_here(TensorRtLibrary.TENSORRT, record.version, other)

    def test_loading_checks_the_version_of_the_module(self, tmp_path: Path) -> None:
        write(tmp_path, version="1.6.0")
        with pytest.raises(IncompatibleEngine, match=r"built by tensorrt_rtx 1\.6\.0"):
            opened(tmp_path, FakeTensorRt())

    def test_another_bundle(self) -> None:
        make_record().check_bundle("b" * 64)
        with pytest.raises(IncompatibleEngine, match="built from the bundle bbbbbbbbbbbb…, this one is c"):
            make_record().check_bundle("c" * 64)

    def test_a_plan_that_the_library_refuses(self, tmp_path: Path) -> None:
        write(tmp_path)
        with pytest.raises(IncompatibleEngine, match=r"cannot load .*model.plan on NVIDIA Test 1"):
            opened(tmp_path, FakeTensorRt(loads=False))

    def test_a_plan_with_other_tensors(self, tmp_path: Path) -> None:
        write(tmp_path)
        library = FakeTensorRt()
        library.tensors.remove("end_logits")
        with pytest.raises(IncompatibleEngine, match="its record names end_logits"):
            opened(tmp_path, library)


class TestRecord:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        record = write(tmp_path)
        assert EngineRecord.read(tmp_path) == record
        assert record.check_plan(tmp_path) == tmp_path / "model.plan"

    @pytest.mark.parametrize("damage", [b"else", b"longer plan", None])
    def test_a_damaged_plan_is_refused(self, tmp_path: Path, damage: bytes | None) -> None:
        record = write(tmp_path)
        if damage is None:
            (tmp_path / "model.plan").unlink()
        else:
            (tmp_path / "model.plan").write_bytes(damage)
        with pytest.raises(IncompatibleEngine, match=r"model\.plan"):
            record.check_plan(tmp_path)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"schema_version": "2.0"}, "schema version 2.0"),
            ({"library": "onnx"}, "legal: tensorrt, tensorrt_rtx"),
            ({"profiles": []}, "names no profile"),
            ({"profiles": [{"sequences": {}, "tokens": {}}]}, "no field 'minimum'; build the engine again"),
            ({"plan": {"name": "../x", "sha256": "", "size": 1}}, "a plan outside"),
            ({"global_capacity": "16"}, "global_capacity is '16'"),
        ],
    )
    def test_a_damaged_record_is_refused(self, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
        data = json.loads(write(tmp_path).to_json())
        (tmp_path / RECORD_NAME).write_text(json.dumps({**data, **change}), encoding="utf-8")
        with pytest.raises(IncompatibleEngine, match=reason):
            EngineRecord.read(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", None])
    def test_no_record_is_refused(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / RECORD_NAME).write_text(text, encoding="utf-8")
        with pytest.raises(IncompatibleEngine, match=r"engine\.json"):
            open_engine(tmp_path, SETTINGS)


class TestCuda:
    def test_a_machine_without_a_driver_has_no_gpu(self) -> None:
        assert find_gpu(bindings=FakeCuda(driver=False)) is None
        assert find_gpu(bindings=FakeCuda(devices=0)) is None
        assert find_gpu(bindings=FakeCuda()) == GPU
        with pytest.raises(EngineError, match="no GPU that CUDA can use"):
            CudaDevice(bindings=FakeCuda(driver=False))

    def test_a_number_that_no_gpu_has_is_an_error(self) -> None:
        with pytest.raises(EngineError, match="number 2, but CUDA sees 2; give 0 to 1"):
            CudaDevice(2, bindings=FakeCuda(devices=2))

    def test_the_real_bindings_have_what_is_called(self) -> None:
        runtime = pytest.importorskip("cuda.bindings.runtime", reason="the extra [tensorrt-rtx] is missing")
        for name in vars(FakeCuda):
            if name.startswith("cuda"):
                assert hasattr(runtime, name), name
        assert {"name", "major", "minor"} <= set(dir(runtime.cudaDeviceProp))


def test_a_library_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"longserve\[tensorrt\]"):
        import_tensorrt(TensorRtLibrary.TENSORRT)


def test_settings_that_tensorrt_cannot_follow_are_errors() -> None:
    with pytest.raises(EngineError, match="tensorrt computes in the precision of the graph"):
        EngineSettings(engine=EngineName.TENSORRT, inference_precision=InferencePrecision.BF16)
    with pytest.raises(EngineError, match="leave it out with the engine tensorrt"):
        EngineSettings(engine=EngineName.TENSORRT, provider="CUDAExecutionProvider")
    with pytest.raises(EngineError, match="number -1"):
        GpuSettings(device=-1)
    with pytest.raises(EngineError, match="memory_limit is 0"):
        GpuSettings(memory_limit=0)
