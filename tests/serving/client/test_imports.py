from __future__ import annotations

import subprocess
import sys

import pytest

import longserve.serving


def modules_after(code: str) -> set[str]:
    """Run code in a fresh Python and return the top-level names of all modules it has loaded."""
    script = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_client_loads_neither_models_nor_tokenizers(url: str) -> None:
    loaded = modules_after(
        "from longserve.serving import Client, ServingError\n"
        f"client = Client({url!r})\n"
        "try: client.classify(['a', 'b'], timeout=5)\n"
        "except ServingError: pass\n"
        "client.close()"
    )
    assert "tritonclient" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "onnxruntime", "onnx", "optimum"}


def test_the_local_client_needs_no_tritonclient() -> None:
    loaded = modules_after(
        "from longserve.serving import LocalClient, BundleNotFound\n"
        "try: LocalClient('/nowhere')\n"
        "except BundleNotFound: pass"
    )
    assert not loaded & {"tritonclient", "grpc", "torch", "transformers"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = modules_after("import longserve.serving")
    assert not loaded & {"numpy", "tritonclient", "grpc", "tokenizers", "onnxruntime", "click", "rich"}


def test_the_public_names_are_sorted_and_all_there() -> None:
    names = longserve.serving.__all__
    assert names == sorted(names)
    assert set(names) <= set(dir(longserve.serving))
    for name in names:
        assert getattr(longserve.serving, name).__name__ == name
    with pytest.raises(AttributeError, match="Cleint"):
        _ = longserve.serving.Cleint
