"""The model of `longserve doctor`: it returns what it gets.

Triton's python backend runs it; nothing imports it.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Returns its input, read into a numpy array and written from one."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with its own tensor."""
        arrays = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("OUTPUT", array)]) for array in arrays
        ]
