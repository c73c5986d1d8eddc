"""Strided views and the loop nests over them, against numpy's own indexing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwq import ir
from hwq.config import PRESETS
from hwq.errors import CapacityError
from hwq.layout import View, nests
from hwq.tiling import Buffer, allocate, tensor_view

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def visited(nest, view):
    """Addresses in the order the nest visits them in one of its views."""
    for row, column, channel in itertools.product(range(nest.rows), range(nest.columns), range(nest.channels)):
        yield nest.addresses[view] + row * nest.row_strides[view] + column * nest.column_strides[view] + channel


@given(shape=shapes, data=st.data())
def test_nests_pair_the_elements_of_two_views(shape, data):
    perm = data.draw(st.permutations(range(len(shape))))
    source = View.dense(1000, [shape[i] for i in perm]).transpose(np.argsort(perm))
    target = View.dense(5000, shape)
    pairs = [pair for nest in nests([source, target]) for pair in zip(visited(nest, 0), visited(nest, 1), strict=True)]
    expected = zip(source.offsets().reshape(-1), target.offsets().reshape(-1), strict=True)
    assert sorted(pairs) == sorted((int(a), int(b)) for a, b in expected)


@given(shape=shapes, data=st.data())
def test_views_agree_with_numpy(shape, data):
    memory = np.arange(int(np.prod(shape)))
    view, array = View.dense(0, shape), memory.reshape(shape)
    perm = data.draw(st.permutations(range(len(shape))))
    assert (memory[view.transpose(perm).offsets()] == array.transpose(perm)).all()
    flat = view.reshape((array.size,))
    assert flat is not None
    assert (memory[flat.offsets()] == array.reshape(-1)).all()
    axis = data.draw(st.integers(0, len(shape) - 1))
    assert (memory[view.slice(axis, 1, shape[axis] - 1).offsets()] == np.take(array, range(1, shape[axis]), axis)).all()
    wide = (3, *shape)
    assert (memory[view.broadcast(wide).offsets()] == np.broadcast_to(array, wide)).all()


def test_dense_copy_is_one_nest_of_one_run():
    (nest,) = nests([View.dense(0, (3, 4, 5)), View.dense(100, (3, 4, 5))])
    assert (nest.rows, nest.columns, nest.channels) == (1, 1, 60)


@given(
    images=st.integers(1, 2),
    size=st.tuples(*[st.integers(1, 4)] * 3),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    grain=st.sampled_from([1, 2]),
)
def test_halo_and_pixels_cover_a_buffer_exactly(images, size, pads, grain):
    buffer = Buffer("x", (images, *size), pads, fill=3, address=0, grain=grain)
    assert buffer.pixel_pitch == size[2] + size[2] % grain
    stored = View(buffer.view().address, (*buffer.shape[:3], buffer.pixel_pitch), buffer.view().strides)
    covered = [int(a) for view in (stored, *buffer.halo()) for a in view.offsets().reshape(-1)]
    inside = set(range(buffer.size_bytes))
    assert set(covered) == inside
    pixels = {int(a) for a in stored.offsets().reshape(-1)}
    assert pixels.isdisjoint(int(a) for view in buffer.halo() for a in view.offsets().reshape(-1))
    # every padding pixel a kernel may read is halo or, beside the neighbouring row, halo shared with it
    rows, columns, channels = size
    view = tensor_view(buffer.view(), ir.Tensor("x", (images, channels, rows, columns), "int8", 1.0))
    halo = inside - pixels
    top, left, bottom, right = pads
    for n, y, x in itertools.product(range(images), range(-top, rows + bottom), range(-left, columns + right)):
        if not (0 <= y < rows and 0 <= x < columns):
            base = view.address + n * view.strides[0] + y * view.strides[2] + x * view.strides[3]
            assert {base + c for c in range(channels)} <= halo


def test_buffers_alive_together_do_not_overlap():
    rng = np.random.default_rng(1)
    buffers = []
    for index in range(40):
        first = int(rng.integers(0, 20))
        buffers.append(Buffer(str(index), (1, 1, 1, int(rng.integers(1, 2000))), first=first, last=first + 3))
    allocate([buffers], PRESETS["sim-4x4"], reserved_bytes=0, name="n")
    for a, b in itertools.combinations(buffers, 2):
        if a.first <= b.last and b.first <= a.last:
            assert a.address + a.size_bytes <= b.address or b.address + b.size_bytes <= a.address


def test_too_large_a_tensor_is_named():
    with pytest.raises(CapacityError, match="Network 'n': tensor 'big' needs activation memory"):
        allocate([[Buffer("big", (1, 1, 1, 1 << 21))]], PRESETS["sim-4x4"], reserved_bytes=0, name="n")
