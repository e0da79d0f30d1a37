"""CUDA's and cuDNN's shared libraries where they are Python packages."""

from __future__ import annotations

import contextlib
import io
from typing import Any

__all__ = ["load_cuda_libraries"]


def load_cuda_libraries(module: Any) -> str:
    """Load the libraries of ONNX Runtime's CUDA provider from NVIDIA's packages, if those are installed.

    `pip install 'onnxruntime-gpu[cuda,cudnn]'` puts them beside onnxruntime, where the system's loader does
    not look. Where they are not there, the system's own are loaded; where a process has loaded them already,
    nothing changes.

    Args:
        module: `onnxruntime`.

    Returns:
        What ONNX Runtime said of libraries that it could not load; empty if there was nothing to say.
    """
    preload = getattr(module, "preload_dlls", None)  # onnxruntime 1.21 and later
    if preload is None:
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints, and a command's output is for other things
        preload(directory="")
    return " ".join(said.getvalue().split())
