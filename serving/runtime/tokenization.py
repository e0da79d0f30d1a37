"""Texts to token ids and character offsets, without special tokens: those are the pipeline's to place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CorruptBundle, EngineError, InvalidInput, Refusal
from .manifest import Manifest

__all__ = ["EncodedText", "Tokenizer"]

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A tokenized text.

    Attributes:
        ids: token ids, int64 `[tokens]`.
        offsets: first character and one after the last of each token, in Unicode code points of the text as
            it was given, int64 `[tokens, 2]`. Tokens that share a code point (byte-level BPE) all name it.
    """

    ids: Int64Array
    offsets: Int64Array


class Tokenizer:
    """A bundle's `tokenizer.json`, with truncation and padding off whatever the file says.

    A text cannot forge a special token of the manifest: `</s>` in a document is encoded as the characters
    `<`, `/`, `s`, `>`. Other special tokens, added to mark something in the texts, are read as such.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        """Load the tokenizer.

        Args:
            path: the `tokenizer.json`.
            manifest: its bundle's manifest, which names the special tokens.

        Raises:
            EngineError: the package `tokenizers` is not installed.
            CorruptBundle: the file cannot be read, or the manifest lacks the `cls` or `sep` token.
        """
        special = manifest.special_tokens
        self._tokenizer = _load(Path(path), set(special.values()))
        missing = [role for role in ("cls", "sep") if role not in special]
        if missing:
            raise CorruptBundle(
                f"the manifest names no {' and no '.join(missing)} token, which every input has; "
                "export the bundle again"
            )
        self.cls_id = special["cls"]
        self.sep_id = special["sep"]
        # The unknown token is a legitimate encoding of text; the others are structure.
        structural = {token for role, token in special.items() if role != "unk"} - {special.get("unk")}
        self._structural = np.array(sorted(structural), dtype=np.int64)

    def encode(self, text: str, name: str) -> EncodedText:
        """Tokenize a text whole, without special tokens.

        Args:
            text: the text.
            name: what it is (`text`, `question`, `context`), for messages.

        Raises:
            InvalidInput: not a string, empty, only whitespace, an embedded NUL, an unpaired surrogate, or
                nothing that the vocabulary knows.
        """
        encoding, ids = self._encode(text, name, self._tokenizer.encode_batch)
        pairs = chain.from_iterable(encoding.offsets)
        return EncodedText(ids, np.fromiter(pairs, np.int64, 2 * ids.size).reshape(-1, 2))

    def ids(self, text: str, name: str) -> Int64Array:
        """Tokenize as `encode`, in three quarters of the time: the ids without offsets, int64 `[tokens]`."""
        return self._encode(text, name, self._tokenizer.encode_batch_fast)[1]

    def _encode(self, text: str, name: str, encode_batch: Any) -> tuple[Any, Int64Array]:
        """`encode_batch` lets other threads run, unlike `encode`: a long text would hold them all up."""
        _check_text(text, name)
        (encoding,) = encode_batch([text], add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        if ids.size == 0:
            raise InvalidInput(
                f"the {name} has no token in the model's vocabulary; give another text",
                reason=Refusal.NOT_TEXT,
            )
        forged = (ids[:, None] == self._structural).any(axis=1)
        if forged.any():
            token = encoding.tokens[int(forged.argmax())]
            raise InvalidInput(
                f"the {name} contains {token!r}, which this tokenizer reads as a special token; remove it",
                reason=Refusal.NOT_TEXT,
            )
        return encoding, ids


def _load(path: Path, structural: set[int]) -> Any:
    try:
        from tokenizers import Tokenizer as FastTokenizer
    except ImportError as error:
        raise EngineError(
            f"the package tokenizers cannot be imported ({error}); install the engine's extra, such as "
            "'longserve[cpu]'"
        ) from error
    try:
        tokenizer = FastTokenizer.from_file(str(path))
        added = tokenizer.get_added_tokens_decoder()
        if any(token.special and number not in structural for number, token in added.items()):
            tokenizer = FastTokenizer.from_str(_read_markers(path, structural))
    except Exception as error:  # tokenizers raises bare Exception, whatever went wrong
        raise CorruptBundle(
            f"{path} is not a tokenizer that this tokenizers release reads: {error}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _read_markers(path: Path, structural: set[int]) -> str:
    """The file's JSON, in which no added tokens are special but structural ones.

    `encode_special_tokens` takes all special tokens for plain text, also those that mark something in it.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["id"] in structural
    return json.dumps(content, ensure_ascii=False)


def _check_text(text: str, name: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(
            f"the {name} is of type {type(text).__name__}; give a string", reason=Refusal.NOT_TEXT
        )
    if not text:
        raise InvalidInput(f"the {name} is empty; give at least one character", reason=Refusal.EMPTY)
    if text.isspace():
        raise InvalidInput(
            f"the {name} is only whitespace ({len(text)} characters); give some text", reason=Refusal.EMPTY
        )
    position = text.find("\0")
    if position >= 0:
        raise InvalidInput(
            f"the {name} has a NUL character at index {position}; remove it", reason=Refusal.NOT_TEXT
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the {name} has an unpaired surrogate (U+{ord(text[error.start]):04X}) at index {error.start}, "
            "which is no character; decode the text properly",
            reason=Refusal.NOT_TEXT,
        ) from None
