"""Transcripts -> words -> pronunciations."""

import subprocess
import sys
import textwrap

import pytest

from ser.errors import UserError
from ser.lang.g2p import load_cmudict
from ser.lang.lexicon import build_lexicon, split_text, split_words
from tests.support import ROOT


def english(text):
    return split_words(text, "en", load_cmudict())[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Excuse me.", "EXCUSE ME"),
        ("I don't -- she's here, isn't she?", "I DON'T SHE'S HERE ISN'T SHE"),
        ("wh- what's that", "WH WHAT'S THAT"),  # broken off
        ("I-I-I know... y'know--", "I I I KNOW Y'KNOW"),
        ("b-but w--why", "BUT WHY"),  # stuttered consonants
        ("a T-shirt, an e-mail", "A T SHIRT AN E MAIL"),  # which these are not
        ("mother-in-law", "MOTHER IN LAW"),
        ("'cause 'em goin'", "'CAUSE 'EM GOIN'"),  # known so to CMUdict
        ("'Hello', he said. 'No'", "HELLO HE SAID NO"),
        ("the ‘real’ girl’s", "THE REAL GIRL'S"),
        ("the 'n' ' '' thing", "THE 'N THING"),
        ("café naïve", "CAFE NAIVE"),
        ("snake_case / and\\or", "SNAKE CASE AND OR"),
        ("R&B 50%", "R AND B FIFTY PERCENT"),
        ("In 1985 I had 25, the 3rd $5.", "IN NINETEEN EIGHTY FIVE I HAD TWENTY FIVE THE THIRD "
         "FIVE DOLLARS"),
        ("... -- ?!", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_english_transcripts_become_upper_case_words(text, words):
    assert english(text) == words.split()


def test_tags_are_dropped_and_counted_whatever_their_case():
    transcripts = split_text(
        {
            "u1": "[LAUGHTER] Well[BREATHING]no [ garbage ]",
            "u2": "[GARBAGE]",
            "u3": "[LIPSMACK] [LAUGHTER]",
        },
        "en",
    )
    assert transcripts.words == {"u1": ["WELL", "NO"], "u2": [], "u3": []}
    assert transcripts.tags == {"LAUGHTER": 2, "BREATHING": 1, "GARBAGE": 2, "LIPSMACK": 1}


def test_german_keeps_its_letters_digits_and_the_sharp_s():
    words, _ = split_words("Für 7 Straßen – könnte’s 'was' sein!", "de")
    assert words == ["FÜR", "7", "STRAẞEN", "KÖNNTE'S", "WAS", "SEIN"]
    assert words[2].lower() == "straßen"


def test_decomposed_letters_are_the_same_words():
    assert split_words("fu\u0308r", "de")[0] == split_words("für", "de")[0] == ["FÜR"]


def test_cmudict_gives_its_first_pronunciation():
    lexicon = build_lexicon({"u1": ["THE", "READ", "CLEARLY", "'CAUSE"]}, "en")
    assert {word: " ".join(phones) for word, phones in lexicon.phones.items()} == {
        "'CAUSE": "K AH0 Z",
        "CLEARLY": "K L IH1 R L IY0",
        "READ": "R EH1 D",  # (2) would be R IY1 D
        "THE": "DH AH0",  # (2) and (3): DH AH1, DH IY0
    }
    assert lexicon.predicted == []


def test_cmudict_has_no_comments_and_no_numbered_variants():
    words = load_cmudict()
    assert len(words) > 100_000
    assert not any("(" in word or "#" in word for word in words)
    assert " ".join(words["aalborg"]) == "AO1 L B AO0 R G"  # its line ends in a comment


def test_words_outside_the_dictionary_come_from_the_neural_model_and_are_listed():
    lexicon = build_lexicon({"u1": ["NO", "BLORPING"], "u2": ["AUGIE'S", "NO"]}, "en")
    assert lexicon.predicted == ["AUGIE'S", "BLORPING"]
    assert list(lexicon.phones) == ["AUGIE'S", "BLORPING", "NO"]
    assert " ".join(lexicon.phones["BLORPING"]) == "B L AO1 R P IH0 NG"
    assert lexicon.phones["AUGIE'S"][-1] == "Z"


@pytest.mark.slow
def test_g2p_en_works_without_network_and_without_nltk_data(tmp_path):
    # A process of its own, since the import that would download happens once in a process.
    script = textwrap.dedent(
        """
        import socket
        def refuse(*args, **kwargs):
            print("network:", args)
            raise OSError("no network")
        socket.socket.connect = socket.socket.connect_ex = refuse
        socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse

        import nltk
        nltk.data.path.clear()
        download = nltk.download

        from ser.lang.g2p import spell_out_numbers
        from ser.lang.lexicon import build_lexicon
        print(*build_lexicon({"u": ["BLORPING", "NO"]}, "en").phones["BLORPING"])
        print(spell_out_numbers("25"))
        print(nltk.download is download)
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["B L AO1 R P IH0 NG", "twenty-five", "True"], done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # nothing laid out or cached


def test_the_neural_model_is_not_loaded_for_words_of_the_dictionary(monkeypatch):
    def fail():
        raise AssertionError("loaded")

    monkeypatch.setattr("ser.lang.g2p.neural_g2p", fail)
    assert build_lexicon({"u1": ["NO"]}, "en").phones == {"NO": ["N", "OW1"]}


def test_symbols_that_are_no_phones_are_left_out_of_a_prediction(monkeypatch):
    monkeypatch.setattr(
        "ser.lang.g2p.neural_g2p", lambda: lambda word: ["<unk>", "B", "UW", "</s>"]
    )
    assert build_lexicon({"u1": ["BLOO"]}, "en").phones == {"BLOO": ["B", "UW0"]}


def test_a_word_without_a_pronunciation_is_named_with_its_file_and_utterance():
    with pytest.raises(UserError, match="all/text: utterance u2: the word '日本' has no pronun"):
        build_lexicon({"u1": ["NO"], "u2": ["NO", "日本"]}, "en", "all/text")


@pytest.mark.parametrize("language", ["de", "ja", "ko"])
def test_han_characters_are_read_as_chinese_alone(language):
    with pytest.raises(UserError, match="text: utterance u1: the word '元気' .*write .* kana"):
        build_lexicon({"u1": ["元気"]}, language)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("hi", "नमस्ते, आप कैसे हैं?", ["नमस्ते", "आप", "कैसे", "हैं"]),
        ("bn", "আমি ভাল।", ["আমি", "ভাল"]),
        ("th", "สวัสดี ผม", ["สวัสดี", "ผม"]),
        ("ar", "مَرْحَبًا", ["مَرْحَبًا"]),
        ("fa", "می\u200cخواهم", ["می\u200cخواهم"]),
        ("de", "Ver\u00adsicherung", ["VERSICHERUNG"]),
    ],
)
def test_vowels_that_are_marks_and_joiners_do_not_cut_words(language, text, words):
    assert split_words(text, language)[0] == words


def test_a_prediction_without_phones_is_an_error(monkeypatch):
    monkeypatch.setattr("ser.lang.g2p.neural_g2p", lambda: lambda word: ["<unk>"])
    with pytest.raises(UserError, match="the word 'BLOO' has no pronunciation"):
        build_lexicon({"u1": ["BLOO"]}, "en")


# Sentences of the Berlin database, with espeak-ng itself; the classes are worked by hand.
@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "Der Lappen liegt auf dem Eisschrank.",
            "S V L  L Vs S V N  L Vs S S  Vs F  S V N  Vs F F L V N S",
        ),
        (
            "Das will sie am Mittwoch abgeben.",
            "S V F  F V L  F V  Vs N  N Vs S F V F  Vs S S Vs S V N",
        ),
        (
            "In sieben Stunden wird es soweit sein.",
            "Vs N  F Vs S V N  F S Vs N S V N  F Vs L S  V F  F V F Vs S  F V N",
        ),
        (
            "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
            "S V  F Vs L S  Vs F  S V N  S L Vs S  F V N  F Vs  F V L  F V  Vs N V  "
            "F V N L Vs S V N",
        ),
    ],
)
def test_german_sentences_become_manner_classes(sentence, expected):
    words, _ = split_words(sentence, "de")
    lexicon = build_lexicon({"u1": words}, "de")
    found = [lexicon.classes[phone] for word in words for phone in lexicon.phones[word]]
    assert found == expected.split()


def mandarin(text):
    """(phones, classes) of a sentence."""
    words, _ = split_words(text, "cmn")
    lexicon = build_lexicon({"u1": words}, "cmn")
    found = [phone for word in words for phone in lexicon.phones[word]]
    return " ".join(found), " ".join(lexicon.classes[phone] for phone in found)


# espeak-ng itself; the classes are worked by hand from the pinyin: an initial, a final with one
# vowel (Vs in a full tone, V in the neutral one) and n or ng, y and w where there is no initial.
@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("你好，中国！", "N Vs  F Vs  S Vs N  S Vs"),  # ni3 hao3 zhong1 guo2
        ("就是下雨也去", "S Vs  F Vs  F Vs  L Vs  L Vs  S Vs"),  # jiu4 shi4 xia4 yu3 ye3 qu4
        # jin1 tian1 tian1 qi4 zhen1 hao3
        ("今天天气真好", "S Vs N  S Vs N  S Vs N  S Vs  S Vs N  F Vs"),
        # ta1 men5 zhi1 dao4 le5 ma5
        ("他们知道了吗？", "S Vs  N V N  S Vs  S Vs  L V  N V"),
        # ri4 ben3 ren2 chi1 re4 cai4
        ("日本人吃热菜", "L Vs  S Vs N  L Vs N  S Vs  L Vs  S Vs"),
    ],
)
def test_mandarin_sentences_become_manner_classes(sentence, expected):
    assert mandarin(sentence)[1].split() == expected.split()


def test_a_character_is_read_as_its_phrase_wants_it():
    assert mandarin("银行")[0] == "j ˈi n χ ˈɑ ŋ"  # háng
    assert mandarin("很行")[0] == "χ ˈə n ɕ ˈi ŋ"  # xíng


def test_blanks_between_mandarin_words_are_kept_and_change_no_sound():
    assert split_words("就是 下雨， 也去。", "cmn")[0] == ["就是", "下雨", "也去"]
    assert mandarin("就是 下雨 也 去") == mandarin("就是下雨也去")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("花儿", "χ ˈuɑ ɻ"),
        ("有一点儿", "j ˈiou j ˈi t ˈiɛ ɻ"),  # the n gives way
        ("一点兒", "j ˈi t ˈiɛ ɻ"),
        ("去那儿玩儿", "t͡ɕʰ ˈy n ˈɑ ɻ w ˈɑ ɻ"),
        ("女儿", "n ˈy ˈə r"),  # here it is a syllable
        ("儿童", "ˈə r tʰ ˈo ŋ"),
    ],
)
def test_the_suffix_er_colours_the_syllable_before_it(text, expected):
    assert mandarin(text)[0] == expected


def test_syllables_that_espeak_lacks_are_said_all_the_same():
    assert mandarin("英雄")[0] == "j ˈi ŋ ɕ ˈio ŋ"
    assert mandarin("困窘")[0] == "kʰ ˈuə n t͡ɕ ˈio ŋ"


def test_latin_letters_in_mandarin_are_english_and_wide_forms_are_folded():
    assert mandarin("OK吗") == ("ˌoʊ k ˈeɪ m ɑ", "Vs S Vs N V")
    assert mandarin("ＯＫ吗") == mandarin("OK吗")
    assert mandarin("３个人")[0] == mandarin("三个人")[0]


def test_a_character_that_espeak_cannot_read_is_named():
    with pytest.raises(UserError, match="all/text: utterance u1: the word '好鿿' .*of '鿿'"):
        build_lexicon({"u1": ["好鿿"]}, "cmn", "all/text")


def test_a_symbol_that_panphon_does_not_know_names_the_word(monkeypatch):
    monkeypatch.setattr("ser.lang.espeak.phonemize", lambda word, language: "aX")
    with pytest.raises(UserError, match="utterance u1: the word 'AH' .*'X' in 'aX'"):
        build_lexicon({"u1": ["AH"]}, "de")
