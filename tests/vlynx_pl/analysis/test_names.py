"""Names of tokens, on tokens that are words of the miniature."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.analysis.names import entropy, name_distance, names, vocabulary


@pytest.fixture(scope="module")
def words(loaded):
    return vocabulary(loaded)


def test_a_token_that_is_a_words_embedding_is_called_so(loaded, words):
    for word in (" sphere", " red"):
        [number] = loaded.tokenizer(word, add_special_tokens=False)["input_ids"]
        rows = 7 * loaded.embed(torch.tensor([number, number]))
        assert names(rows, words) == {word.strip(): 1.0}


def test_shares_are_of_all_rows_and_the_commonest_name_comes_first(words):
    row = {name: words.rows[words.texts.index(name)] for name in ("sphere", "middle")}
    rows = torch.stack([row["middle"], row["sphere"], row["sphere"], row["sphere"]])
    assert list(names(rows, words).items()) == [("sphere", 0.75), ("middle", 0.25)]


def test_centred_names_do_not_depend_on_what_all_rows_have_in_common(words):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, words.rows.shape[1], generator=generator)
    shift = 30 * words.rows[7]
    assert len(names(rows + shift, words)) == 1
    assert names(rows + shift, words, centred=True) == names(rows, words, centred=True)


def test_many_words_are_compared_in_parts(words, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, words.rows.shape[1], generator=generator)
    whole = names(rows, words)
    monkeypatch.setattr("vlynx_pl.analysis.names._AT_ONCE", 100)
    assert names(rows, words) == whole


def test_byte_pieces_print_readable_and_special_tokens_are_no_names(loaded, words):
    assert all(text.isprintable() and text and "\ufffd" not in text for text in words.texts)
    assert not {"<|endoftext|>", *loaded.tokenizer.all_special_tokens} & {*words.texts}
    assert len(words.rows) == len(words.texts) == len(loaded.tokenizer) - 5


def test_untrained_rows_of_the_embedding_are_no_names(backbone):
    backbone.model.resize_token_embeddings(500)
    weight = backbone.model.get_input_embeddings().weight
    assert len(weight) == 500
    weight.data[17] = 0
    assert len(vocabulary(backbone).rows) == len(backbone.tokenizer) - 6


def test_entropy_and_distance_of_names():
    even = {"a": 0.5, "b": 0.5}
    assert entropy({"a": 1.0}) == 0
    assert entropy(even) == pytest.approx(math.log(2))
    assert name_distance(even, {"b": 0.5, "a": 0.5}) == pytest.approx(0, abs=1e-6)
    assert name_distance({"a": 1.0}, {"b": 1.0}) == pytest.approx(1)
    assert 0 < name_distance(even, {"a": 1.0}) == name_distance({"a": 1.0}, even) < 1


@given(st.dictionaries(st.text(), st.floats(1e-6, 1), min_size=2), st.randoms())
def test_entropy_does_not_depend_on_the_order_of_names(shares, random):
    """Not even in the last bit, since equal runs must leave equal reports."""
    order = [*shares.items()]
    random.shuffle(order)
    assert entropy(dict(order)) == entropy(shares)
