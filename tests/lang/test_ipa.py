"""espeak-ng's IPA -> phones -> manner classes."""

import pytest

from ser.lang.ipa import add_r, mend_mandarin, phone_class, phones


def classes(ipa, language="de"):
    return " ".join(phone_class(phone) for phone in phones(ipa, language))


@pytest.mark.parametrize(
    ("name", "symbols"),
    [
        ("S", "p b t d k ɡ g c ɟ q ʔ t͡s t͡ʃ d͡ʒ p͡f ʦ ʧ pʰ"),
        ("F", "f v s z ʃ ʒ ç x χ ɣ θ ð h ɦ ɕ ʂ ʐ β"),
        ("N", "m n ŋ ɲ n̩ m̩"),
        ("L", "l r ɾ ɹ ʁ ʀ j w ɥ ʋ l̩ ʎ ɫ ɐ̯"),
        ("V", "a ɑː ə ɜ ɐ ø œ y ʏ ɔ ɑ̃ ɪ eː aɪ aʊ ɔø ɚ"),
        ("Vs", "ˈa ˌa ˈɑː ˈaɪ ˌɔø ˈœ̃"),
    ],
)
def test_phones_get_the_class_of_their_manner(name, symbols):
    for symbol in symbols.split():
        assert [phone_class(phone) for phone in phones(symbol, "de")] == [name], symbol


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("lˈapən", "l ˈa p ə n"),  # the mark stands before the nucleus in espeak-ng
        ("ˈlapən", "l ˈa p ə n"),  # ... and before the syllable elsewhere
        ("lˈiːkt", "l ˈiː k t"),
        ("ˈapɡˌeːbən", "ˈa p ɡ ˌeː b ə n"),
        ("rˌɛstoːrˈɑ̃", "r ˌɛ s t oː r ˈɑ̃"),
        ("mˈɛːdçən", "m ˈɛː d ç ə n"),
        ("laːbn̩", "l aː b n̩"),
    ],
)
def test_stress_length_and_diacritics_stay_on_their_phone(ipa, expected):
    assert phones(ipa, "de") == expected.split()


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("jˈɛtst", "j ˈɛ t͡s t"),
        ("pfˈeːɾt", "p͡f ˈeː ɾ t"),
        ("dˈɔøtʃ", "d ˈɔø t͡ʃ"),
        ("dʒˈʊŋəl", "d͡ʒ ˈʊ ŋ ə l"),
        ("hˈɔltsʃtʏk", "h ˈɔ l t͡s ʃ t ʏ k"),  # ts + ʃ, not t + sʃ
        ("hˈɔlt͡sʃtʏk", "h ˈɔ l t͡s ʃ t ʏ k"),
        ("bˈeːst", "b ˈeː s t"),  # fricative first: no affricate
    ],
)
def test_an_affricate_is_one_phone_with_or_without_a_tie_bar(ipa, expected):
    assert phones(ipa, "de") == expected.split()


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("hˈaʊzə", "h ˈaʊ z ə"),
        ("zaɪn", "z aɪ n"),
        ("hˈɔøtə", "h ˈɔø t ə"),
        ("ha͡ʊs", "h aʊ s"),
        ("haʊ̯s", "h aʊ̯ s"),
        ("ˈuːɐ̯", "ˈuːɐ̯"),  # the vocalised r ends the nucleus
    ],
)
def test_a_diphthong_is_one_nucleus(ipa, expected):
    assert phones(ipa, "de") == expected.split()


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("muːzˈeːʊm", "m uː z ˈeː ʊ m"),  # a long vowel and the next syllable's
        ("bəˈoːbaxtən", "b ə ˈoː b a x t ə n"),
        ("ʃtˈeːən", "ʃ t ˈeː ə n"),
        ("bˈoa", "b ˈo a"),  # opens instead of closing
        ("zoˈɪst", "z o ˈɪ s t"),  # the second one is stressed
    ],
)
def test_vowels_of_two_syllables_stay_two(ipa, expected):
    assert phones(ipa, "de") == expected.split()


# Worked by hand from a dictionary's division into sounds, word by word.
@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        # Der Lappen liegt auf dem Eisschrank
        (
            "dɛɾ lˈapən lˈiːkt ˈaʊf deːm ˈaɪsçraŋk",
            "S V L  L Vs S V N  L Vs S S  Vs F  S V N  Vs F F L V N S",
        ),
        # Heute abend könnte ich es ihm sagen
        (
            "hˈɔøtə ˈɑːbənt kˈœntə ɪç ɛs ˈiːm zˈɑːɡən",
            "F Vs S V  Vs S V N S  S Vs N S V  V F  V F  Vs N  F Vs S V N",
        ),
        # (Das) schwarze Stück Papier befindet sich ... neben dem Holzstück
        (
            "ʃvˈaɾtsə ʃtˈʏk papˈiːɾ bəfˈɪndət zɪç nˈeːbən deːm hˈɔltsʃtʏk",
            "F F Vs L S V  F S Vs S  S V S Vs L  S V F Vs N S V S  F V F  N Vs S V N  S V N  "
            "F Vs L S F S V S",
        ),
        # Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter
        (
            "ziː hˈɑːbən ɛs ɡərˈɑːdə hˈoːxɡətɾˌɑːɡən ˈʊnt jˈɛtst ɡˈeːən ziː vˈiːdɜ rˈʊntɜ",
            "F V  F Vs S V N  V F  S V L Vs S V  F Vs F S V S L Vs S V N  Vs N S  L Vs S S  "
            "S Vs V N  F V  F Vs S V  L Vs N S V",
        ),
    ],
)
def test_sentences_of_emodb(ipa, expected):
    assert classes(ipa).split() == expected.split()


@pytest.mark.parametrize(
    ("ipa", "phones_", "classes_"),
    [
        ("ni2χˈɑu2", "n ˈi χ ˈɑu", "N Vs F Vs"),  # 你好
        ("ts.ˈonɡ5 kˈuoɜ", "ʈ͡ʂ ˈo ŋ k ˈuo", "S Vs N S Vs"),  # 中国: ɜ is the rising tone
        ("ts.hˈi.5 fˈa5n", "ʈ͡ʂʰ ˈɨ f ˈa n", "S Vs F Vs N"),  # 吃饭: tone digit inside
        ("ɕi5ˈa5n", "ɕ ˈi ˈa n", "F Vs Vs N"),  # 西安: two syllables
        ("ɕia5n", "ɕ ˈia n", "F Vs N"),  # ... and one
        ("khˈo-2", "kʰ ˈɤ", "S Vs"),  # 渴
        ("tɕhˈy5", "t͡ɕʰ ˈy", "S Vs"),  # 去
        ("ʐˈəɜn", "ɻ ˈə n", "L Vs N"),  # 人: a retroflex approximant
        ("ˈər5", "ˈə r", "Vs L"),  # 二: the tone behind the final r is the vowel's
        ("ˈŋ-ɜ sˈi̪5", "ŋ s ˈɨ", "N F Vs"),  # 嗯四: a syllable without a vowel
    ],
)
def test_mandarin_has_one_nucleus_a_syllable_and_full_tones_count_as_stress(ipa, phones_, classes_):
    assert phones(ipa, "cmn") == phones_.split()
    assert classes(ipa, "cmn") == classes_


@pytest.mark.parametrize(
    ("ipa", "phones_", "classes_"),
    [
        ("mɑ5mˈɑ1", "m ˈɑ m ɑ", "N Vs N V"),  # 妈妈
        ("ˈərɜ tsˈi̪1", "ˈə r t͡s ɨ", "Vs L S V"),  # 儿子
        ("wˈo2 tˈə1", "w ˈo t ə", "L Vs S V"),  # 我的
        ("wo2mˈə1n", "w ˈo m ə n", "L Vs N V N"),  # 我们
    ],
)
def test_mandarins_neutral_tone_is_a_vowel_without_stress(ipa, phones_, classes_):
    assert phones(ipa, "cmn") == phones_.split()
    assert classes(ipa, "cmn") == classes_


@pytest.mark.parametrize(
    ("ipa", "phones_"),
    [
        ("kwˈɑ5", "k ˈuɑ"),  # 瓜, like 锅
        ("kˈuo5", "k ˈuo"),
        ("s.wˈei2", "ʂ ˈuei"),  # 水, like 归
        ("ts.hwˈɑ5ŋ", "ʈ͡ʂʰ ˈuɑ ŋ"),  # 窗
        ("tɕjˈɑu5", "t͡ɕ ˈiɑu"),  # 叫, like 九
        ("khwˈuə5n", "kʰ ˈuə n"),  # 困: written twice
        ("jˈyɛ5", "j ˈyɛ"),  # 月: without an initial before it, it is one
        ("ji5njˈyɛ5", "j ˈi n j ˈyɛ"),  # 音乐: the initial of the second syllable
    ],
)
def test_a_glide_between_initial_and_vowel_is_part_of_the_nucleus(ipa, phones_):
    assert phones(ipa, "cmn") == phones_.split()


def test_every_tone_of_cantonese_is_a_full_one():
    assert classes("sˈi1 sˈiɜ sˈi4 ŋˈo5", "yue") == "F Vs F Vs F Vs N Vs"  # 詩試時我


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("(en)kʃəŋtˈuː(cmn)", "ɕ ˈio ŋ"),  # 熊, xiong2
        ("jˈi5ŋ (en)kɪəŋwˈɒn(cmn)", "j ˈi ŋ t͡ɕʰ ˈio ŋ"),  # 英 and qiong1
        ("(en)dʒɪəŋθɹˈiː(cmn)", "t͡ɕ ˈio ŋ"),  # 窘, jiong3
    ],
)
def test_syllables_that_espeak_reads_out_in_english_are_mended(ipa, expected):
    assert phones(mend_mandarin(ipa), "cmn") == expected.split()


def test_other_english_is_left_to_be_noticed():
    names = "(en)dʒɪəŋθɹˈiːdʒɪəŋθɹˈiː dʒɪəŋθɹˈiː(cmn)"  # 炯炯
    assert mend_mandarin(names) == names


def test_the_suffix_r_takes_the_place_of_a_final_nasal():
    assert add_r(["t", "ˈiɛ", "n"]) == ["t", "ˈiɛ", "ɻ"]
    assert add_r(["kʰ", "ˈo", "ŋ"]) == ["kʰ", "ˈo", "ɻ"]
    assert add_r(["χ", "ˈuɑ"]) == ["χ", "ˈuɑ", "ɻ"]
    assert phone_class("ɻ") == "L"


def test_silence_has_no_phones():
    assert phones("", "de") == []


def test_an_unknown_symbol_is_named():
    with pytest.raises(ValueError, match="'X' in 'aXb'"):
        phones("aXb", "de")


@pytest.mark.parametrize(
    ("language", "ipa", "expected"),
    [
        ("fr", "sˈə-", "s ˈə"),  # ce
        ("ja", "säkˈɯᵝɽä", "s ä k ˈɯ ɽ ä"),
        ("vi", "kˈaːɜ", "k ˈaː"),  # cá: ɜ is the third tone
        ("vi", "bˈaː6n", "b ˈaː n"),  # bạn
        ("cs", "tr̝̊ˈi", "t r̝ ˈi"),  # tři
        ("da", "fˈεm", "f ˈɛ m"),  # fem
    ],
)
def test_signs_of_espeak_that_say_nothing_of_manner_are_passed_over(language, ipa, expected):
    assert " ".join(phones(ipa, language)) == expected
