"""How large a text may be: hard caps, so that one request cannot occupy a server for minutes."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidInput, Refusal

__all__ = ["DEFAULT_MAX_TEXT_BYTES", "DEFAULT_MAX_WINDOWS", "TextLimits"]

DEFAULT_MAX_TEXT_BYTES = 4 << 20
"""4 MiB: some 700,000 English words."""
DEFAULT_MAX_WINDOWS = 256
"""About a million tokens with a model of 4096."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """The largest text that a pipeline takes.

    Attributes:
        max_text_bytes: most bytes of a text, a question or a context, in UTF-8.
        max_windows: most windows that a text or context may be cut into.

    Raises:
        InvalidInput: a limit is not a positive whole number.
    """

    max_text_bytes: int = DEFAULT_MAX_TEXT_BYTES
    max_windows: int = DEFAULT_MAX_WINDOWS

    def __post_init__(self) -> None:
        for name in ("max_text_bytes", "max_windows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(
                    f"{name} is {value!r}; give a whole number, 1 or more", reason=Refusal.OPTION
                )

    def check_text(self, text: str, name: str) -> None:
        """Refuse a text that has too many bytes. Anything but a string is left to the tokenizer.

        Raises:
            InvalidInput: more than `max_text_bytes`.
        """
        if not isinstance(text, str) or len(text) * 4 <= self.max_text_bytes:  # 4: UTF-8's longest character
            return
        size = len(text.encode("utf-8", errors="surrogatepass"))
        if size > self.max_text_bytes:
            raise InvalidInput(
                f"the {name} has {size} bytes in UTF-8, but at most {self.max_text_bytes} are taken "
                "(max_text_bytes); split it",
                reason=Refusal.TOO_LARGE,
            )

    def check_windows(self, windows: int, name: str) -> None:
        """Refuse a text that needs too many windows.

        Raises:
            InvalidInput: more than `max_windows`.
        """
        if windows > self.max_windows:
            raise InvalidInput(
                f"the {name} needs {windows} windows, but at most {self.max_windows} are taken "
                "(max_windows); split it, or give a smaller stride",
                reason=Refusal.TOO_MANY_WINDOWS,
            )
