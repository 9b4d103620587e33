"""Characters and BPE pieces."""

import pytest

from ser.errors import UserError
from ser.lang.tokens import bpe_units, char_units

# vocab.json of facebook/wav2vec2-base-960h, by id.
WAV2VEC2 = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


def test_english_characters_and_the_blank_are_the_32_symbols_of_wav2vec_2():
    inventory, units = char_units({"u1": ["DON'T", "GO"], "u2": []}, "en")
    assert inventory == ["<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'"]
    assert len(WAV2VEC2) == 32
    assert {"<pad>", *inventory} == set(WAV2VEC2)  # the blank is <pad> there
    assert units == {"u1": ["D", "O", "N", "'", "T", "|", "G", "O"], "u2": []}


def test_a_foreign_letter_in_english_becomes_unknown():
    _, units = char_units({"u1": ["ÆON"]}, "en")
    assert units == {"u1": ["<unk>", "O", "N"]}


def test_other_languages_extend_the_inventory_from_their_text():
    inventory, units = char_units({"u1": ["TÜTEN", "FÜR"], "u2": ["KÖNNTE"]}, "de")
    assert inventory[-4:] == ["Z", "'", "Ö", "Ü"]
    assert len(inventory) == 31 + 2
    assert units["u1"] == ["T", "Ü", "T", "E", "N", "|", "F", "Ü", "R"]


WORDS = {
    "u1": ["HELLO", "WORLD"],
    "u2": [],
    "u3": ["THIS", "IS", "A", "TEST"],
    "u4": ["A", "SMALL", "CORPUS"],
}


def test_bpe_gives_the_size_asked_for_and_pieces_that_spell_the_words():
    inventory, units, model = bpe_units(WORDS, 25)
    assert len(inventory) == len(set(inventory)) == 25
    assert inventory[0] == "<unk>"
    assert units["u2"] == []
    for utt, words in WORDS.items():
        assert "".join(units[utt]).replace("▁", " ").split() == words
        assert set(units[utt]) <= set(inventory)
    assert model


def test_bpe_is_the_same_each_time():
    assert bpe_units(WORDS, 25) == bpe_units(WORDS, 25)


def test_a_bpe_size_beyond_the_corpus_names_the_largest_one_and_that_one_works():
    with pytest.raises(
        UserError, match="--bpe-size 500: .* largest possible size is [0-9]+"
    ) as err:
        bpe_units(WORDS, 500)
    largest = int(str(err.value).split()[-1])
    assert len(bpe_units(WORDS, largest)[0]) == largest
    with pytest.raises(UserError, match=f"largest possible size is {largest}"):
        bpe_units(WORDS, largest + 1)


def test_a_bpe_size_below_the_letters_names_the_smallest_one_and_that_one_works():
    with pytest.raises(UserError, match="--bpe-size 5: .* smallest size is [0-9]+") as err:
        bpe_units(WORDS, 5)
    smallest = int(str(err.value).split()[-1])
    assert len(bpe_units(WORDS, smallest)[0]) == smallest


@pytest.mark.parametrize("size", [0, -3])
def test_a_bpe_size_that_is_no_size_is_refused(size):
    with pytest.raises(UserError, match=f"--bpe-size {size}: "):
        bpe_units(WORDS, size)
