"""Damage of files: by accident, and on purpose with the file's own checksums made to hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytearray, np.random.Generator], None]

_HEADER = 2048  # bytes in which most formats tell what follows
_INTEGERS = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1,
             2**63, 2**64 - 1)  # fmt: skip


def truncated(content: bytearray, generator: np.random.Generator) -> None:
    """Cut the end off."""
    del content[int(generator.integers(len(content))) :]


def flipped_bits(content: bytearray, generator: np.random.Generator) -> None:
    """Flip one bit, or a few."""
    for _ in range(int(generator.choice([1, 1, 1, 8]))):
        content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))


def flipped_header(content: bytearray, generator: np.random.Generator) -> None:
    """Flip bits where formats tell what follows."""
    for _ in range(int(generator.choice([1, 2, 8]))):
        content[int(generator.integers(min(_HEADER, len(content))))] ^= 1 << int(generator.integers(8))


def overwritten_integer(content: bytearray, generator: np.random.Generator) -> None:
    """Put a number that is special to many programs in the place of another, most often near the start."""
    width = int(generator.choice([1, 2, 4, 8]))
    most = len(content) if generator.random() < 0.5 else min(_HEADER, len(content))
    place = int(generator.integers(max(1, most - width)))
    value = _INTEGERS[int(generator.integers(len(_INTEGERS)))] % (1 << 8 * width)
    content[place : place + width] = value.to_bytes(width, str(generator.choice(["little", "big"])))


def zeroed_run(content: bytearray, generator: np.random.Generator) -> None:
    """Fill a run with zeros, as a file system does after a crash."""
    start = int(generator.integers(len(content)))
    length = min(int(generator.choice([16, 512, 4096])), len(content) - start)
    content[start : start + length] = bytes(length)


def swapped_runs(content: bytearray, generator: np.random.Generator) -> None:
    """Let two runs change places."""
    length = int(generator.choice([8, 64, 1024]))
    one, other = (int(place) for place in generator.integers(max(1, len(content) - length), size=2))
    if abs(one - other) >= length:
        first, second = content[one : one + length], content[other : other + length]
        content[one : one + length], content[other : other + length] = second, first


def grown(content: bytearray, generator: np.random.Generator) -> None:
    """Put a run in twice, so that all that follows lies elsewhere."""
    start = int(generator.integers(len(content)))
    length = int(generator.choice([1, 8, 4096]))
    content[start:start] = content[start : start + length]


MUTATIONS: tuple[Mutation, ...] = (
    truncated, flipped_bits, flipped_header, overwritten_integer, zeroed_run, swapped_runs, grown,
)  # fmt: skip


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """Damage a file's bytes, in a way that the generator chooses."""
    changed = bytearray(content)
    MUTATIONS[int(generator.integers(len(MUTATIONS)))](changed, generator)
    return bytes(changed)


class Hdf5Metadata:
    """The blocks of an HDF5 file that describe its data, each of which ends with its checksum.

    Damage there that keeps the checksums is what HDF5 itself has to withstand.
    """

    _KINDS = b"OHDR OCHK FRHP FHDB FHIB BTHD BTIN BTLF FAHD FADB EAHD EAIB EASB EADB SMTB SMLI"
    _SIGNATURES = (b"\x89HDF\r\n\x1a\n", *_KINDS.split())
    _MOST = 2048

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._blocks: list[tuple[int, int, int]] = []
        for signature in self._SIGNATURES:
            start = content.find(signature)
            while start >= 0:
                length = self._length(start)
                if length:
                    self._blocks.append((start, start + len(signature), start + length))
                start = content.find(signature, start + 1)

    def _length(self, start: int) -> int:
        """Find the length of a block, without its checksum, by which the checksum holds; 0 for none."""
        for length in range(8, min(self._MOST, len(self._content) - start - 4)):
            stored = int.from_bytes(self._content[start + length : start + length + 4], "little")
            if stored and lookup3(self._content[start : start + length]) == stored:
                return length
        return 0

    def mutate(self, generator: np.random.Generator) -> bytes:
        """Change a few bytes or one number of a block, and make its checksum hold again."""
        changed = bytearray(self._content)
        start, after_signature, stop = self._blocks[int(generator.integers(len(self._blocks)))]
        block = changed[after_signature:stop]
        (flipped_bits if generator.random() < 0.5 else overwritten_integer)(block, generator)
        changed[after_signature:stop] = block
        changed[stop : stop + 4] = lookup3(bytes(changed[start:stop])).to_bytes(4, "little")
        return bytes(changed)


def lookup3(data: bytes) -> int:
    """Compute Bob Jenkins' lookup3 hash (2006, public domain), the checksum of HDF5's metadata."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    rest = len(data)
    place = 0
    while rest > 12:
        a = (a + int.from_bytes(data[place : place + 4], "little")) & mask
        b = (b + int.from_bytes(data[place + 4 : place + 8], "little")) & mask
        c = (c + int.from_bytes(data[place + 8 : place + 12], "little")) & mask
        a, b, c = _mixed(a, b, c)
        place += 12
        rest -= 12
    if not rest:
        return c
    tail = data[place:].ljust(12, b"\0")
    a = (a + int.from_bytes(tail[0:4], "little")) & mask
    b = (b + int.from_bytes(tail[4:8], "little")) & mask
    c = (c + int.from_bytes(tail[8:12], "little")) & mask
    for turn, (one, other) in zip((14, 11, 25, 16, 4, 14, 24), ("cb", "ac", "ba", "cb", "ac", "ba", "cb"),
                                  strict=True):  # fmt: skip
        values = {"a": a, "b": b, "c": c}
        values[one] = ((values[one] ^ values[other]) - _turned(values[other], turn)) & mask
        a, b, c = values["a"], values["b"], values["c"]
    return c


def _turned(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & 0xFFFFFFFF


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    mask = 0xFFFFFFFF
    for turns in ((4, 6, 8), (16, 19, 4)):
        a = ((a - c) & mask) ^ _turned(c, turns[0])
        c = (c + b) & mask
        b = ((b - a) & mask) ^ _turned(a, turns[1])
        a = (a + c) & mask
        c = ((c - b) & mask) ^ _turned(b, turns[2])
        b = (b + a) & mask
    return a, b, c
