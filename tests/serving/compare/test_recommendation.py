"""The rules of the recommendation, each by the case that it is for."""

from __future__ import annotations

from longserve.serving.compare.recommendation import Candidate, Recommendation, recommend
from longserve.serving.compare.uncertainty import Difference


def candidate(
    name: str, quality: float, *, speed: float, memory: int = 100, low: float = 0.0, high: float = 0.0
) -> Candidate:
    """A model; `low` and `high` bound how far it is behind the best, which has neither."""
    behind = None
    if low or high:
        behind = Difference(value=(low + high) / 2, low=low, high=high, p_value=0.5)
    return Candidate(
        name=name, quality=quality, behind=behind, documents_per_second=speed, peak_bytes=memory * 10**6
    )


def advised(*candidates: Candidate, worth: float = 0.01) -> Recommendation:
    return recommend(candidates, metric="macro-F1", documents=200, worth=worth)


def test_a_better_model_is_worth_its_time() -> None:
    advice = advised(candidate("long", 0.98, speed=5), candidate("short", 0.6, speed=50, low=0.3, high=0.45))
    assert advice.model == "long" and advice.firm
    assert "long has the best macro-F1, 98.0 %" in advice.reasons[0]
    assert "short is worse than long: its macro-F1 is 60.0 % against 98.0 %" in advice.reasons[1]
    assert "30.0 to 45.0 points" in advice.reasons[1]


def test_an_equal_model_that_is_faster_is_taken() -> None:
    advice = advised(
        candidate("long", 0.98, speed=5), candidate("short", 0.979, speed=50, low=-0.006, high=0.008)
    )
    assert advice.model == "short" and advice.firm
    assert "10.0 times as many documents a second" in advice.reasons[1]


def test_a_difference_that_is_shown_but_not_worth_it_counts_for_nothing() -> None:
    models = candidate("long", 0.99, speed=5), candidate("short", 0.97, speed=50, low=0.01, high=0.03)
    assert advised(*models).model == "long"
    advice = advised(*models, worth=0.05)
    assert advice.model == "short" and advice.firm


def test_noise_decides_nothing_and_is_named() -> None:
    advice = advised(
        candidate("long", 0.95, speed=5), candidate("short", 0.92, speed=50, low=-0.01, high=0.07)
    )
    assert advice.model == "short" and not advice.firm
    (caution,) = advice.cautions
    assert (
        "200 documents do not exclude that long is better by up to 7.0 points; some 3,200 would tell"
        in caution
    )


def test_memory_that_reads_the_same_is_no_reason() -> None:
    even = candidate("even", 0.95, speed=46, low=-0.005, high=0.005)
    advice = advised(
        candidate("odd", 0.94, speed=50, low=-0.005, high=0.01), candidate("best", 0.96, speed=49), even
    )
    assert not any("memory" in reason for reason in advice.reasons)


def test_of_equally_fast_models_the_smaller_one_is_taken() -> None:
    small = candidate("small", 0.95, speed=46, memory=80, low=-0.005, high=0.005)
    advice = advised(candidate("large", 0.951, speed=50, memory=300), small)
    assert advice.model == "small"
    assert (
        "about as fast (50 documents a second), and needs 300 MB of memory against 80 MB" in advice.reasons[1]
    )


def test_a_worse_model_is_not_taken_for_its_speed_nor_a_slow_one_for_its_size() -> None:
    advice = advised(
        candidate("best", 0.99, speed=10, memory=500),
        candidate("slow", 0.988, speed=2, memory=50, low=-0.002, high=0.006),
        candidate("bad", 0.5, speed=100, memory=50, low=0.4, high=0.58),
    )
    assert advice.model == "best" and advice.firm and len(advice.reasons) == 3


def test_what_windows_cut_apart_is_said_where_enough_documents_show_it() -> None:
    def with_windows(whole: tuple[int, float], split: tuple[int, float]) -> Candidate:
        return Candidate(
            name="short",
            quality=0.7,
            behind=None,
            documents_per_second=5,
            peak_bytes=10**8,
            whole=whole,
            split=split,
        )

    (_, note) = advised(with_windows((80, 0.99), (60, 0.5))).reasons
    assert "99.0 % where one of its windows holds all the evidence (80 documents), and 50.0 %" in note
    for quiet in (((80, 0.99), (5, 0.2)), ((80, 0.9), (60, 0.85)), ((12, 0.75), (12, 0.5))):
        assert len(advised(with_windows(*quiet)).reasons) == 1


def test_a_single_model_is_only_described() -> None:
    advice = advised(candidate("only", 0.8, speed=3))
    assert advice.model == "only" and advice.reasons == ("only is the only model: its macro-F1 is 80.0 %.",)
