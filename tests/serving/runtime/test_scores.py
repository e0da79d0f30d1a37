from __future__ import annotations

import numpy as np
import pytest

from longserve.serving.runtime.manifest import ProblemType
from longserve.serving.runtime.scores import apply_function, combine_windows, default_function


@pytest.mark.parametrize(
    ("problem_type", "labels", "function"),
    [
        (ProblemType.SINGLE_LABEL, 3, "softmax"),
        (ProblemType.SINGLE_LABEL, 1, "sigmoid"),
        (ProblemType.MULTI_LABEL, 3, "sigmoid"),
        (ProblemType.REGRESSION, 1, "none"),
        (ProblemType.REGRESSION, 3, "none"),
        (None, 2, "softmax"),
    ],
)
def test_default_function_is_that_of_the_hugging_face_pipeline(
    problem_type: ProblemType | None, labels: int, function: str
) -> None:
    assert default_function(problem_type, labels) == function


def test_functions() -> None:
    logits = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    assert apply_function(logits, "sigmoid") == pytest.approx([0.119202922, 0.5, 0.952574127])
    assert apply_function(logits, "softmax") == pytest.approx([0.006377460, 0.047123417, 0.946499123])
    assert apply_function(logits, "none") == pytest.approx([-2, 0, 3])


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_extreme_logits_stay_finite(function: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        scores = apply_function(np.array([-3e38, 0.0, 3e38]), function)
    assert np.isfinite(scores).all()
    assert scores[2] == 1.0


def test_mean_of_windows_is_of_probabilities() -> None:
    logits = [[0.0, 10.0], [3.0, 0.0]]
    scores = combine_windows(logits, "softmax", "mean")
    assert scores == pytest.approx(
        (apply_function(logits[0], "softmax") + apply_function(logits[1], "softmax")) / 2
    )
    assert scores.sum() == pytest.approx(1)


def test_max_of_windows_is_scaled_to_one_only_for_softmax() -> None:
    logits = [[0.0, 10.0], [3.0, 0.0]]
    softmax = combine_windows(logits, "softmax", "max")
    assert softmax.sum() == pytest.approx(1)
    assert softmax[0] == pytest.approx(0.952574 / (0.952574 + 0.9999546), rel=1e-5)
    assert combine_windows(logits, "sigmoid", "max") == pytest.approx(apply_function([3.0, 10.0], "sigmoid"))
    assert combine_windows(logits, "none", "max") == pytest.approx([3, 10])
