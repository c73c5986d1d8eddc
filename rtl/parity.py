"""Parity: a bit beside every byte of a memory, which makes the number of ones even."""

from amaranth import Cat, Value

__all__ = ["PARITY_BYTE", "checked", "stored"]

PARITY_BYTE = 9
"""Bits of a byte and its parity; block RAM of FPGAs has words of so many."""


def stored(word: Value) -> Value:
    """Return the bytes of `word`, each with its parity above it.

    Zeros have a parity of 0: memory that begins as zeros may be read before it is written.
    """
    return Cat(Cat(byte, byte.xor()) for byte in _parts(word, 8))


def checked(word: Value) -> tuple[Value, Value]:
    """Return the bytes that `word` holds with their parities, and a bit for each byte that isn't what was stored."""
    parts = _parts(word, PARITY_BYTE)
    return Cat(part[:8] for part in parts), Cat(part.xor() for part in parts)


def _parts(word: Value, width: int) -> list[Value]:
    return [word[start : start + width] for start in range(0, len(word), width)]
