"""The rows of a request for several texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import InvalidInput, Refusal

__all__ = ["decode_texts", "in_row"]

_Prepared = TypeVar("_Prepared")


def decode_texts(elements: Sequence[bytes], name: str) -> list[str]:
    """Decode the elements of a tensor of texts.

    Args:
        elements: UTF-8.
        name: the tensor's.

    Raises:
        InvalidInput: an element is not UTF-8.
    """
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode("utf-8"))
        except UnicodeDecodeError as error:
            row = f" in row {index}" if len(elements) > 1 else ""
            raise InvalidInput(
                f"{name}{row} is not UTF-8: {error.reason} at byte {error.start}; encode the text as UTF-8",
                reason=Refusal.NOT_TEXT,
            ) from None
    return texts


def in_row(
    index: int, rows: Sequence[object], prepare: Callable[..., _Prepared], *arguments: object
) -> _Prepared:
    """Call `prepare`, naming the row in its error where there are several."""
    try:
        return prepare(*arguments)
    except InvalidInput as error:
        if len(rows) == 1:
            raise
        raise InvalidInput(f"row {index}: {error}", reason=error.reason) from None
