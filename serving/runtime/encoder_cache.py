"""What the encoder gave, kept by the text model, so that what was read before is not encoded again.

Triton has a response cache of its own, which longserve does not use: its key leaves out shapes and
parameters, and it keeps errors too, which come back as answers without outputs (core: cache_manager.cc,
dynamic_batch_scheduler.cc, June 2026; seen in Triton 2.51).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from .packing import EncoderOutput, Int64Array

__all__ = ["EncoderCache"]

_ENTRY_BYTES = 512
"""What an entry takes beside its logits, about."""
_Inputs = Mapping[str, Int64Array]


class EncoderCache:
    """Outputs of the encoder by their sequences; the least recently used make room. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        """Begin with nothing kept.

        Args:
            max_bytes: most bytes that are kept; 0: keep nothing.
        """
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, EncoderOutput] = OrderedDict()
        self._lock = threading.Lock()

    def output_of(self, inputs: _Inputs, encode: Callable[[_Inputs], EncoderOutput]) -> EncoderOutput:
        """Return the output that is kept for a sequence, else what `encode` gives, and keep that.

        Args:
            inputs: all that the output depends on, int64 `[tokens]` by name.
            encode: asks the encoder. What it raises is passed on, and nothing is kept.
        """
        if self._max_bytes == 0:
            return encode(inputs)
        key = _digest(inputs)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        output = encode(inputs)
        self._keep(key, output)
        return output

    def _keep(self, key: bytes, output: EncoderOutput) -> None:
        size = _size(output)
        if size > self._max_bytes:
            return
        with self._lock:
            if key in self._kept:  # another thread was faster
                return
            self._kept[key] = output
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _digest(inputs: _Inputs) -> bytes:
    digest = hashlib.sha256()
    for name, array in inputs.items():
        digest.update(f"{name} {array.size} ".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _size(output: EncoderOutput) -> int:
    return _ENTRY_BYTES + sum(vector.nbytes for vector in output.vectors())
