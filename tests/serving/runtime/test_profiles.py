"""Which shapes an engine takes: reading, defaults, choosing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longserve.serving.runtime.errors import EngineError, OutsideProfile
from longserve.serving.runtime.manifest import Layout, TensorSpec
from longserve.serving.runtime.profiles import (
    OptimizationProfile,
    SizeRange,
    choose_profile,
    default_profiles,
    parse_profile,
)


class TestParsing:
    def test_ranges_and_single_numbers_are_read(self) -> None:
        profile = parse_profile("batch=1:4:8,tokens=512", Layout.PACKED)
        assert profile.sequences == SizeRange(minimum=1, optimum=4, maximum=8)
        assert profile.tokens == SizeRange(minimum=512, optimum=512, maximum=512)
        assert parse_profile("length=1:2:3,batch=1", Layout.PADDED).tokens.maximum == 3

    @pytest.mark.parametrize("layout", list(Layout))
    def test_what_is_described_is_read_back(self, layout: Layout) -> None:
        for profile in default_profiles(layout, 4096):
            assert parse_profile(profile.described(layout), layout) == profile

    @pytest.mark.parametrize(
        "text",
        [
            *("", "batch=1", "batch=1,length=4", "batch=1,tokens=4,tokens=5", "batch=1:2,tokens=4"),
            *("batch=1,tokens=0:1:2", "batch=1,tokens=3:2:1", "batch=1,tokens=-1", "batch=1,tokens=²"),
        ],
    )
    def test_anything_else_is_an_error_that_shows_it(self, text: str) -> None:
        with pytest.raises(EngineError, match="give"):
            parse_profile(text, Layout.PACKED)


class TestDefaults:
    @pytest.mark.parametrize("layout", list(Layout))
    @given(length=st.integers(1, 5000), sequences=st.integers(1, 9), share=st.floats(0, 1))
    def test_every_length_of_the_model_has_a_profile(
        self, layout: Layout, length: int, sequences: int, share: float
    ) -> None:
        profiles = default_profiles(layout, length, sequences=sequences)
        longest = length if layout is Layout.PADDED else length * sequences
        tokens = max(1, round(share * longest))
        chosen = profiles[choose_profile(profiles, layout, sequences, tokens)]
        assert chosen.tokens.holds(tokens)
        assert all(not one.tokens.holds(tokens) for one in profiles if one is not chosen)
        assert profiles[-1].tokens.maximum == longest


class TestChoosing:
    def test_the_narrowest_profile_that_holds_the_run_wins(self) -> None:
        texts = ("batch=1:1:8,tokens=1:1:64", "batch=1:1:2,tokens=1:1:64", "batch=1:1:1,tokens=1:1:128")
        profiles = [parse_profile(text, Layout.PACKED) for text in texts]
        assert [choose_profile(profiles, Layout.PACKED, *run) for run in ((1, 9), (3, 9), (1, 65))] == [
            1,
            0,
            2,
        ]

    @pytest.mark.parametrize("run", [(9, 9), (1, 129), (2, 65)])
    def test_a_run_outside_all_of_them_is_an_error_that_names_run_and_profiles(
        self, run: tuple[int, int]
    ) -> None:
        texts = ("batch=1:1:8,tokens=1:1:64", "batch=1:1:1,tokens=1:1:128")
        profiles = [parse_profile(text, Layout.PACKED) for text in texts]
        with pytest.raises(OutsideProfile, match=f"batch {run[0]} and tokens {run[1]}, .*tokens=1:1:128"):
            choose_profile(profiles, Layout.PACKED, *run)


class TestShapes:
    def test_every_axis_gets_its_range(self) -> None:
        profile = OptimizationProfile(
            sequences=SizeRange(minimum=1, optimum=2, maximum=3),
            tokens=SizeRange(minimum=4, optimum=5, maximum=6),
        )
        rows = TensorSpec(name="input_ids", dtype="int64", axes=("batch", "sequence"))
        fixed = TensorSpec(name="kinds", dtype="int64", axes=("tokens", 7))
        assert profile.shapes([rows, fixed]) == {
            "input_ids": ((1, 4), (2, 5), (3, 6)),
            "kinds": ((4, 7), (5, 7), (6, 7)),
        }

    @pytest.mark.parametrize("axis", ["heads", ""])
    def test_an_axis_that_no_profile_bounds_is_an_error(self, axis: Any) -> None:
        (profile, *_) = default_profiles(Layout.PADDED, 64)
        with pytest.raises(EngineError, match="dynamic axis"):
            profile.shapes([TensorSpec(name="x", dtype="int64", axes=(axis,))])
