"""How the scorer and the predictor talk: requests by pipe, logits through one shared file.

The scorer writes a request (slot, rows) and the tokens; the predictor writes float32 logits into that
slot of the shared file and answers with one status byte. The predictor is untrusted: every answer is
read with a known length, and nothing that it sends is parsed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

SLOTS = 2  # the predictor fills one slot while the scorer reads the other
DONE, WRONG_SHAPE = b"+", b"s"
_REQUEST = struct.Struct("<II")


@dataclass(frozen=True)
class Shape:
    """Sizes of one exchange: up to `rows` rows of `length` tokens, logits over `vocab` tokens."""

    rows: int
    length: int
    vocab: int

    @property
    def slot_bytes(self) -> int:
        return self.rows * self.length * self.vocab * 4

    @property
    def shared_bytes(self) -> int:
        return SLOTS * self.slot_bytes


def write_all(fd: int, blob: bytes) -> None:
    """Write every byte to a pipe."""
    view = memoryview(blob)
    while view:
        view = view[os.write(fd, view) :]


def read_exactly(fd: int, size: int) -> bytes:
    """Read `size` bytes; shorter only when the other side has gone."""
    parts = []
    while size and (part := os.read(fd, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def pack_request(slot: int, rows: int) -> bytes:
    return _REQUEST.pack(slot, rows)


def read_request(fd: int) -> tuple[int, int] | None:
    """The next (slot, rows), or None when the scorer has finished."""
    head = read_exactly(fd, _REQUEST.size)
    return _REQUEST.unpack(head) if len(head) == _REQUEST.size else None
