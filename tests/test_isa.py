"""The instruction set's tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwq import isa

TABLES = [(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS), (isa.PARAM, isa.PARAM_LANE_WORDS)]


@pytest.mark.parametrize(("fields", "words"), TABLES)
def test_every_bit_belongs_to_at_most_one_field(fields, words):
    owners = [[f.name for f in fields if f.word == w and f.mask >> b & 1] for w in range(words) for b in range(32)]
    assert max(map(len, owners)) == 1


@pytest.mark.parametrize(("fields", "words"), TABLES)
@given(data=st.data())
def test_encoded_values_decode_to_themselves(fields, words, data):
    values = {f.name: data.draw(st.integers(*f.range), f.name) for f in fields}
    assert isa.decode(fields, isa.encode(fields, words, values)) == values


@pytest.mark.parametrize(("fields", "words"), TABLES)
@given(data=st.data())
def test_every_word_decodes_and_encodes_back(fields, words, data):
    image = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=words, max_size=words))
    masks = isa.word_masks(fields, words)
    kept = [word & mask for word, mask in zip(image, masks, strict=True)]
    assert isa.encode(fields, words, isa.decode(fields, image)) == kept


@pytest.mark.parametrize("field", isa.DESCRIPTOR, ids=lambda f: f.name)
def test_extremes_keep_their_sign_and_one_more_is_refused(field):
    for value in field.range:
        words = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, {field.name: value})
        assert isa.decode(isa.DESCRIPTOR, words)[field.name] == value
    for value in (field.range[0] - 1, field.range[1] + 1):
        with pytest.raises(ValueError, match=f"Field {field.name} must be in"):
            isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, {field.name: value})


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="No such field: colour"):
        isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, {"colour": 1})


def test_overlapping_fields_are_refused():
    fields = (isa.Field("a", 0, 0, 8), isa.Field("b", 0, 7, 2))
    with pytest.raises(ValueError, match="'b' overlaps"):
        isa._check(fields, 1)
