"""Weights of 4 bits and of codebooks: how they lie in memory, and when they are used."""

import numpy as np
import pytest

import hwq
from hwq import weights
from hwq.compiler import compile
from hwq.errors import ModelError
from hwq.ladder import verify
from tests import programs
from tests.onnx_models import Builder

ROOM = {"act_bytes": 1 << 16, "weight_words": 1 << 14, "param_words": 2048, "slots": 64, "weight_bits": 4}


# In memory


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_every_weight_has_its_half_of_a_byte(depth, channels):
    cols = 4
    block = np.random.default_rng(depth).integers(-8, 8, (depth, channels)).astype(np.int8)
    words = weights.pack(block, cols, 1)
    assert len(words) == (depth if channels > cols else (depth + 1) // 2)
    for (k, c), weight in np.ndenumerate(block):
        word, byte, high = (k, c % cols, c >= cols) if channels > cols else (k // 2, c, k % 2)
        assert (int(words[word, byte]) >> (4 if high else 0)) & 15 == weight & 15
    assert np.array_equal(weights.unpack(words, depth, channels, cols, 1), block)


def test_bytes_are_one_word_a_step():
    block = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    words = weights.pack(block, 5, 0)
    assert words.tolist() == [[*row, 0, 0] for row in block.tolist()]
    assert np.array_equal(weights.unpack(words, 4, 3, 5, 0), block)


@pytest.mark.parametrize("codebook", [1, 2])
@pytest.mark.parametrize("cols", [3, 4, 16, 20])
@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 4), (7, 4), (7, 9), (6, 50)])
def test_every_index_has_its_half_of_a_byte_behind_its_book(depth, channels, cols, codebook):
    rng = np.random.default_rng([depth, channels, cols])
    books = rng.permutation(np.arange(-128, 128))[: 16 * (channels if codebook == 2 else 1)].reshape(-1, 16)
    blocks = np.arange(channels) // cols
    matrix = books[blocks % len(books), rng.integers(0, 16, (depth, channels))].astype(np.int8)
    form = weights.Form(codebook=codebook)
    words = weights.pack_layer(matrix, cols, cols, form)
    book_words, block_words = -(-16 // cols), -(-depth // 2)
    count = blocks[-1] + 1
    assert len(words) == (count if codebook == 2 else 1) * book_words + count * block_words
    stride = block_words + (book_words if codebook == 2 else 0)
    for (k, c), weight in np.ndenumerate(matrix):
        block, column = divmod(c, cols)
        byte = words[book_words + block * stride + k // 2, column]
        index = (int(byte) >> 4 * (k % 2)) & 15
        assert words[block * stride * (codebook == 2) + index // cols, index % cols] == weight
    assert np.array_equal(weights.unpack_layer(words, depth, channels, cols, cols, form)[0], matrix)


@pytest.mark.parametrize(
    ("different", "books"), [([16, 16, 16], "BLOCK"), ([16, 17, 3], "NONE"), ([16, 16], "BLOCK"), ([16], "LAYER")]
)
def test_sixteen_weights_fit_a_book(different, books):
    values = iter(range(-128, 128))
    blocks = [np.resize([next(values) for _ in range(count)], (20, 4)) for count in different]
    matrix = np.concatenate(blocks, axis=1).astype(np.int8)
    assert weights.fitting_codebook(matrix, 4).name == books
    assert weights.fitting_codebook(np.tile(matrix[:, :4], 5), 4).name == "LAYER"


@pytest.mark.parametrize(
    ("values", "fits"), [([-8, 7], True), ([-9, 7], False), ([-8, 8], False), ([0, 0], True), ([-128, 127], False)]
)
def test_weights_fit_from_minus_8_to_7(values, fits):
    assert weights.fits_int4(np.array([values], np.int8), 4, 2) is fits


@pytest.mark.parametrize("channels", [2, 3])
def test_paired_sums_must_stay_in_24_bits(channels):
    matrix = np.full((8192, channels), -8, np.int8)
    assert weights.fits_int4(matrix[:8191], 4, 2)
    assert weights.fits_int4(matrix, 4, 2) is (channels == 2), "up to `cols` channels have 32 bits each"


# In a program


def layer(channels, values=range(-8, 8), **attributes):
    """A model of one 1x1 convolution of 20 inputs."""
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, 20, 4, 4)), 0.05, 3), 0.05, 3)
    weight = np.resize(np.array(values, np.int8), (channels, 20, 1, 1))
    y = model.node("Conv", [x, model.weight(weight, np.full(channels, 0.02))], "y", **attributes)
    return model.model(model.dequantize(model.quantize(y, 0.3, -5), 0.3, -5))


def convolutions(program):
    """Return the descriptors of the layers that aren't copies."""
    return [d for step in program.array_steps for d in program.descriptors(step.slot) if d["opcode"] in (1, 3)]


@pytest.mark.parametrize(("channels", "words"), [(3, 10), (4, 10), (5, 20), (8, 20), (9, 30), (13, 40)])
def test_memory_is_half(channels, words):
    config = programs.tiny(4, 4, 4, 1, **ROOM)
    narrow = compile(layer(channels), config, golden=False)
    wide = compile(layer(channels), config, golden=False, weights="int8")
    assert (len(narrow.weights), len(wide.weights)) == (words, 20 * -(-channels // 4))
    assert [d["int4"] for d in convolutions(narrow) + convolutions(wide)] == [1, 0]
    assert hwq.estimate(narrow).layers[-1].weight_bytes == words * 4


def test_wider_weights_and_arrays_without_4_bits_keep_bytes():
    config = programs.tiny(4, 4, 4, 1, **ROOM)
    assert not convolutions(compile(layer(8, range(-9, 8)), config, golden=False))[0]["int4"]
    plain = programs.tiny(4, 4, 4, 1, **{**ROOM, "weight_bits": 8})
    assert not convolutions(compile(layer(8), plain, golden=False))[0]["int4"]


def test_storage_is_chosen_by_layer():
    config = programs.tiny(4, 4, 4, 1, **ROOM)
    assert not convolutions(compile(layer(8), config, golden=False, weights={"n_y": "int8"}))[0]["int4"]
    assert convolutions(compile(layer(8), config, golden=False, weights={"n_y": "auto"}))[0]["int4"]
    with pytest.raises(ModelError, match="the model has no operator 'z'"):
        compile(layer(8), config, weights={"z": "int8"})
    with pytest.raises(ModelError, match="weights must be auto, int8 or codebook, not 'int3'"):
        compile(layer(8), config, weights="int3")


def test_unsigned_weights_count_from_their_zero_point():
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, 6, 4, 4)), 0.05, 3, "uint8"), 0.05, 3, "uint8")
    values = np.resize(np.arange(120, 136, dtype=np.uint8), (9, 6, 1, 1))
    y = model.node("Conv", [x, model.weight(values, np.full(9, 0.02), 128)])
    graph = hwq.load(model.model(model.dequantize(model.quantize(y, 0.1, 99, "uint8"), 0.1, 99, "uint8")))
    config = programs.tiny(4, 4, 4, 1, **ROOM)
    assert convolutions(compile(graph, config, golden=False))[0]["int4"]
    assert verify(graph, config, samples=2, targets=["reference", "machine"]).ok


BOOK = [*range(-120, 0, 9), 7, 127]
BOOKS = ROOM | {"codebooks": 1}


def forms(program):
    return [(d["int4"], d["codebook"]) for d in convolutions(program)]


@pytest.mark.parametrize(("channels", "words"), [(3, 14), (4, 14), (5, 24), (13, 44)])
def test_a_book_is_used_where_it_is_asked_for_or_memory_is_short(channels, words):
    config, model = programs.tiny(4, 4, 4, 1, **BOOKS), layer(channels, BOOK)
    asked = compile(model, config, golden=False, weights="codebook")
    wide = compile(model, config, golden=False)
    assert (len(asked.weights), forms(asked)) == (words, [(0, 1)])
    assert forms(wide) == forms(compile(model, config, golden=False, weights="int8", compact=True)) == [(0, 0)]
    assert forms(compile(model, config, golden=False, compact=True)) == [(0, 1)]
    assert forms(compile(model, config, golden=False, weights={"n_y": "codebook"})) == [(0, 1)]
    short = programs.tiny(4, 4, 4, 1, **BOOKS | {"weight_words": words})
    assert forms(compile(model, short, golden=False)) == [(0, 1)]
    assert 0 < hwq.estimate(asked).cycles_predicted - hwq.estimate(wide).cycles_predicted <= 16


def test_a_book_is_not_used_in_vain():
    config, book = programs.tiny(4, 4, 4, 1, **BOOKS), {"golden": False, "weights": "codebook"}
    assert forms(compile(layer(8), config, **book)) == [(1, 0)], "4 bits are better"
    assert forms(compile(layer(8, range(-30, 30, 3)), config, **book)) == [(0, 0)], "too many weights"
    assert forms(compile(layer(8, BOOK), programs.tiny(4, 4, 4, 1, **ROOM), **book)) == [(0, 0)], "not on this array"
    wide = programs.tiny(4, 16, 4, 1, **BOOKS)
    assert forms(compile(layer(8, BOOK), wide, **book)) == [(0, 1)]


@pytest.mark.parametrize(("inputs", "codebook"), [(3, 0), (9, 0), (11, 1)])
def test_a_book_of_four_words_is_for_more_than_four_words_less(inputs, codebook):
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, inputs, 4, 4)), 0.05, 3), 0.05, 3)
    y = model.node("Conv", [x, model.weight(np.resize(np.array(BOOK, np.int8), (4, inputs, 1, 1)), 0.02)])
    model = model.model(model.dequantize(model.quantize(y, 0.3, -5), 0.3, -5))
    program = compile(model, programs.tiny(4, 4, 4, 1, **BOOKS), golden=False, weights="codebook")
    assert forms(program) == [(0, codebook)]
    assert len(program.weights) == min(inputs, -(-inputs // 2) + 4)
