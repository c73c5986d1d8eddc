"""Random reads and writes over a link, checked against a mirror of the memory."""

from __future__ import annotations

import random

import numpy as np

from boards.link.client import Link
from tests.link.device import COUNTER, Words


def exercise(link: Link, memory: Words, draw: random.Random, enough, most_words: int = 200) -> int:
    """Read and write until `enough()`; return the checked words."""
    mirror: dict[int, int] = {}
    counted = checked = 0
    while not enough():
        address, count = 4 * draw.randrange(300), draw.choice([1, 1, 2, 7, draw.randint(1, most_words)])
        action = draw.random()
        if action < 0.45:
            words = np.frombuffer(draw.choice([draw.randbytes(4 * count), bytes(4 * count)]), np.uint32)
            link.write(address, words)
            mirror |= {address + 4 * n: int(word) for n, word in enumerate(words)}
        elif action < 0.9:
            got = link.read(address, count)
            assert got.tolist() == [mirror.get(address + 4 * n, 0) for n in range(count)]
            checked += count
        else:
            link.write(COUNTER, np.zeros(1, np.uint32))
            counted += 1
            assert link.read(COUNTER, 1).tolist() == [counted]
    assert {a: w for a, w in memory.words.items() if w and a != COUNTER} == {a: w for a, w in mirror.items() if w}
    assert memory.read(COUNTER) == counted
    return checked
