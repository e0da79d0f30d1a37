from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from longserve.serving.runtime.errors import CorruptBundle, InvalidInput
from longserve.serving.runtime.manifest import Manifest
from longserve.serving.runtime.tokenization import Tokenizer

TEXTS = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=80
).filter(lambda text: not text.isspace())
SPECIAL_STRINGS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path: Path, make_manifest: Callable[..., Manifest]) -> Tokenizer:
    return Tokenizer(tokenizer_path, make_manifest())


def test_truncation_and_padding_of_the_file_are_off(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("key", "text").ids.size < 8
    assert tokenizer.encode("key box mill " * 50, "text").ids.size > 100


@pytest.mark.parametrize("string", SPECIAL_STRINGS)
@pytest.mark.parametrize("frame", ["{}", "the {} key", "the{}", " {}\n", "</s>{}<s>"])
def test_a_text_cannot_forge_a_special_token(tokenizer: Tokenizer, string: str, frame: str) -> None:
    text = frame.format(string)
    encoded = tokenizer.encode(text, "context")
    assert not np.isin(encoded.ids, [0, 1, 2, 3, 4]).any()
    assert encoded.offsets[-1, 1] == len(text.rstrip()) or text.endswith("\n")


def test_tokens_that_mark_something_in_a_text_are_read_as_in_training(
    tokenizer_path: Path, make_manifest: Callable[..., Manifest], tmp_path: Path
) -> None:
    stock = FastTokenizer.from_file(str(tokenizer_path))
    size = stock.get_vocab_size()
    stock.add_special_tokens(["[CLAUSE]", AddedToken("<speaker1>", lstrip=True)])
    stock.add_tokens(["ordinarytoken"])
    stock.save(str(tmp_path / "tokenizer.json"))
    stock.no_truncation()
    stock.no_padding()
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", make_manifest(vocab_size=size + 3))
    text = "[CLAUSE] the key <speaker1> the ordinarytoken[CLAUSE]"
    ids = tokenizer.ids(text, "text").tolist()
    assert ids == stock.encode(text, add_special_tokens=False).ids
    assert [token for token in ids if token >= size] == [size, size + 1, size + 2, size]
    assert tokenizer.encode(text, "text").offsets[0].tolist() == [0, 8]
    assert not set(tokenizer.ids("<s>the [CLAUSE]</s>", "text").tolist()) & {0, 1, 2, 3, 4}


@settings(deadline=None)
@given(text=TEXTS)
def test_offsets_are_code_points_of_the_text_in_order(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode(text, "text")
    starts, ends = encoded.offsets.T
    assert encoded.ids.shape == starts.shape
    assert starts[0] >= 0 and ends[-1] <= len(text)
    assert (starts <= ends).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
    covered = np.zeros(len(text) + 1, dtype=bool)
    for start, end in encoded.offsets:
        covered[start:end] = True
    missed = [c for c, hit in zip(text, covered, strict=False) if not hit]
    assert all(character.isspace() for character in missed)


@settings(deadline=None)
@given(text=TEXTS)
def test_the_ids_alone_are_those_with_offsets(tokenizer: Tokenizer, text: str) -> None:
    np.testing.assert_array_equal(tokenizer.ids(text, "text"), tokenizer.encode(text, "text").ids)


@pytest.mark.parametrize("method", ["encode", "ids"])
def test_a_long_text_holds_no_other_thread_up(tokenizer: Tokenizer, method: str) -> None:
    """Or a server could neither refuse nor say that it is alive meanwhile."""
    text = "key box mill " * 200_000
    pauses: list[float] = []
    done = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    getattr(tokenizer, method)(text, "text")
    taken = time.perf_counter() - started
    done.set()
    thread.join()
    assert max(pauses) < taken / 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty"),
        (" \t\n\u3000", r"only whitespace \(4 characters\)"),
        ("a\0b", "NUL character at index 1"),
        ("key \ud83d", r"unpaired surrogate \(U\+D83D\) at index 4"),
        (b"key", "type bytes"),
        (None, "type NoneType"),
    ],
)
def test_unusable_texts_are_refused(tokenizer: Tokenizer, text: str, cause: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the question .*{cause}"):
        tokenizer.encode(text, "question")


def test_a_special_token_that_the_file_does_not_mark_as_special_is_refused(
    tokenizer_path: Path, tmp_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    text = tokenizer_path.read_text(encoding="utf-8")
    path = tmp_path / "tokenizer.json"
    path.write_text(text.replace('"special": true', '"special": false'), encoding="utf-8")
    with pytest.raises(InvalidInput, match="the context contains '</s>'"):
        Tokenizer(path, make_manifest()).encode("the key</s>", "context")


def test_an_unreadable_file_is_named(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(CorruptBundle, match=str(path)):
        Tokenizer(path, make_manifest())


def test_a_manifest_without_separator_is_refused(
    tokenizer_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    with pytest.raises(CorruptBundle, match="no sep token"):
        Tokenizer(tokenizer_path, make_manifest(special_tokens={"cls": 0}))
