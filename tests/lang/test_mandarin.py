"""Pinyin as syllables, and that it sounds like the characters that it stands for."""

import pytest

from ser.errors import UserError
from ser.lang.lexicon import build_lexicon, split_words
from ser.lang.mandarin import has_tone, syllables


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("xia4", ["xia4"]),
        ("Xia4yu3", ["xia4", "yu3"]),
        ("xiàyǔ", ["xia4", "yu3"]),
        ("shi4ma0", ["shi4", "ma5"]),  # 0 and 5 both stand for the neutral tone
        ("wǒmen", ["wo3", "men5"]),
        ("lǜ", ["lv4"]),
        ("lü4", ["lv4"]),
        ("lu:4", ["lv4"]),
        ("lüè", ["lve4"]),
        ("xī'ān", ["xi1", "an1"]),  # not xian
        ("nǚ'ér", ["nv3", "er2"]),
        ("fàngàn", ["fan4", "gan4"]),  # fang'an would have its apostrophe
        ("huār", ["huar1"]),
        ("yìdiǎnr", ["yi4", "dianr3"]),
        ("dian3r5", ["dian3", "r5"]),
        ("zhuàng", ["zhuang4"]),
        ("ok", None),
        ("hello", None),
        ("mp3", None),
        ("xia4u", None),
        ("ˈa", None),
        ("下4", None),
    ],
)
def test_a_word_is_split_into_syllables_with_tones(word, expected):
    assert syllables(word) == expected


def test_a_tone_is_an_accent_or_a_digit_behind_a_letter():
    assert has_tone("xià") and has_tone("Xia4") and has_tone("lü4")
    assert not has_tone("xia") and not has_tone("44") and not has_tone("lü")


def phones(text: str) -> list[str]:
    words = split_words(text, "cmn")[0]
    lexicon = build_lexicon({"u": words}, "cmn")
    return [phone for word in words for phone in lexicon.phones[word]]


@pytest.mark.parametrize(
    ("han", "romanised"),
    [
        ("就是下雨", ["jiu4 shi4 xia4 yu3", "jiùshì xiàyǔ", "Jiu4shi4 xia4yu3."]),
        ("绿色", ["lü4 se4", "lv4 se4", "lu:4 se4", "lǜsè"]),
        ("我的花儿", ["wo3 de5 huar1", "wǒ de huār", "wo3 de hua1r5"]),
        ("兄弟", ["xiong1 di4", "xiōngdì"]),
    ],
)  # fmt: skip
def test_pinyin_is_pronounced_as_the_characters_are(han, romanised):
    for text in romanised:
        assert phones(text) == phones(han), text


def test_latin_letters_beside_characters_or_without_tones_stay_english():
    assert split_words("用 a4 纸, OK", "cmn")[0] == ["用", "A4", "纸", "OK"]
    assert split_words("Come on!", "cmn")[0] == ["COME", "ON"]
    assert split_words("OK, xia4 yu3 ma", "cmn")[0] == ["OK", "XIA4", "YU3", "MA5"]


def test_pinyin_without_tones_is_refused_since_it_would_be_read_as_english():
    words = {"u1": [], "u2": ["JIU", "SHI"]}
    with pytest.raises(UserError, match="text: utterance u2: 'JIU', .* without tones.*xia4 yu3"):
        build_lexicon(words, "cmn", "text")
    build_lexicon({**words, "u3": ["下雨"]}, "cmn", "text")


def test_letters_with_a_digit_that_are_no_pinyin_are_read_as_before():
    """English letters, and the digit in Mandarin."""
    assert phones("mp3") == ["ˌɛ", "m", "p", "ˈiː", *phones("三")]
    assert phones("b4") == ["b", "ˈiː", *phones("四")]


def test_a_syllable_that_mandarin_lacks_is_refused():
    with pytest.raises(UserError, match="'BIONG4' has no pronunciation .* pinyin 'biong4'"):
        build_lexicon({"u": ["BIONG4"]}, "cmn", "text")
