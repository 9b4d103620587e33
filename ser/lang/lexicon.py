"""Transcripts -> words -> pronunciations.

A lexicon has one pronunciation per word and only the words of its corpus. English words come
from CMUdict or, if out of vocabulary, from g2p_en's neural model; words of other languages are
pronounced one by one by espeak-ng. Word by word, not sentence by sentence: the pronunciation of
a word is then the same everywhere, and can be looked up and corrected in one place.

Mandarin is written without blanks, and a character's reading depends on its neighbours (行 is xíng,
but 银行 yínháng). So everything between two blanks or punctuation marks is one "word", which
espeak-ng, with its phrase dictionary, segments into words; blanks in the transcript are
kept and may help it. Transcripts in pinyin are treated as words like those of other languages.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser.errors import UserError
from ser.lang import espeak, g2p, ipa
from ser.lang import mandarin as pinyin
from ser.lang.units import ARPABET_TO_CLASS

MANDARIN = "cmn"
_READ_HAN = (MANDARIN, "yue")  # voices of espeak-ng
_TAG = re.compile(r"\[([^\[\]]*)\]")
_QUOTES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`\x91\x92", "'"))
# "b-but": the cut-off consonant is no word of its own, and CMUdict would read the letter's name.
_STUTTER = re.compile(r"\b([^\W\d_aeiou])-+(?=\1)", re.IGNORECASE)
# Vowels are marks after letters in Hindi, Thai or pointed Arabic, and joiners occur within words.
_MARKS = "".join(map(chr, (n for n in range(0x10000) if unicodedata.category(chr(n))[0] == "M")))
_LETTERS_OF_WORD = rf"(?:[^\W_][{_MARKS}\u200c\u200d]*)+"
_WORD = re.compile(rf"'?{_LETTERS_OF_WORD}(?:'{_LETTERS_OF_WORD})*'?")
_SOFT_HYPHEN = "\u00ad"  # a possible line break
_LETTERS = re.compile(r"[A-Z']+")
_PINYIN = re.compile(r"(?:[a-z]+[0-5])+")  # as written by split_words
_PINYIN_VOICE = "cmn-latn-pinyin"  # of espeak-ng
_LATIN_OR_HAN = re.compile(r"[a-z']+|[^a-z']+")
_SUFFIX_R = ("儿", "兒")
# In espeak-ng's output for Han characters: a switch to English, and a character that it lacks.
_UNREAD = ("(", "əː")


@dataclass
class Transcripts:
    """Upper-case words of every utterance, and the number of times each tag was dropped."""

    words: dict[str, list[str]] = field(default_factory=dict)
    tags: Counter = field(default_factory=Counter)


@dataclass
class Lexicon:
    """Phones of every word, class of every phone, and source of the pronunciations."""

    phones: dict[str, list[str]]
    classes: dict[str, str]
    source: str
    predicted: list[str] = field(default_factory=list)  # out-of-vocabulary words


def split_text(text: Mapping[str, str], language: str) -> Transcripts:
    """Split the transcripts of all utterances (``text`` maps ids to them) into words."""
    known = g2p.load_cmudict() if language == "en" else ()
    result = Transcripts()
    for utt, line in text.items():
        words, tags = split_words(line, language, known)
        result.words[utt] = words
        result.tags.update(tags)
    return result


def split_words(
    text: str, language: str, known: Container[str] = ()
) -> tuple[list[str], list[str]]:
    """Split a transcript into upper-case words and its tags such as [LAUGHTER], which are dropped.

    Punctuation is removed; hyphens and dashes separate words, so the spoken part of a truncated
    word ("wh-") is kept. Apostrophes are kept inside words (DON'T), and at their edges only if
    ``known`` (lower-case words) has the word like this: 'CAUSE, but not 'HELLO'. English numbers
    are spelled out and accents removed; in other languages digits are left to espeak-ng. A Mandarin
    transcript without Han characters whose words carry tones is pinyin, whose syllables are written
    with digits (XIA4YU3); syllables without a tone mark have the neutral tone.
    """
    tags = [tag.strip().upper() for tag in _TAG.findall(text)]
    # NFKC also folds the full-width letters and digits of Chinese text.
    form = "NFKC" if language == MANDARIN else "NFC"
    text = unicodedata.normalize(form, _TAG.sub(" ", text)).translate(_QUOTES)
    text = text.replace(_SOFT_HYPHEN, "")
    if language == MANDARIN:
        text = re.sub(r"(?<=[ln])u:(?=e?[0-5])", "ü", text, flags=re.IGNORECASE)
    else:
        text = _STUTTER.sub("", text)
    if language == "en":
        text = text.replace("&", " and ").replace("%", " percent ")
        if any(char.isdigit() for char in text):
            text = g2p.spell_out_numbers(text)
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
    words = [_settle_edges(token, known) for token in _WORD.findall(text)]
    if language == MANDARIN and not any(map(_has_han, words)):
        words = _write_pinyin(words)
    return [_upper(word) for word in words], tags


def _has_han(word: str) -> bool:
    return any(unicodedata.name(char, "").startswith("CJK") for char in word)


def _write_pinyin(words: list[str]) -> list[str]:
    read = [pinyin.syllables(word) for word in words]
    if not any(of and pinyin.has_tone(word) for word, of in zip(words, read, strict=True)):
        return words  # a foreign sentence
    return ["".join(of) if of else word for word, of in zip(words, read, strict=True)]


def _settle_edges(token: str, known: Container[str]) -> str:
    inner = token.strip("'")
    for candidate in (token, token.rstrip("'"), token.lstrip("'")):
        if candidate.lower() in known:
            return candidate
    return inner


def _upper(word: str) -> str:
    # str.upper() would turn "ß" into "SS", and "Maße" (measures) would sound like "Masse" (mass).
    return word.replace("ß", "ẞ").upper()


def build_lexicon(
    words: Mapping[str, Sequence[str]], language: str, origin: Path | str = "text"
) -> Lexicon:
    """Pronounce every word once; ``words`` maps utterances to words. The lexicon is in C order.

    Raises UserError naming ``origin`` (the file with the words), the utterance and the word if a
    word cannot be pronounced in ``language``, and for Mandarin in Latin letters without tones.
    """
    if language == MANDARIN:
        _require_mandarin(words, origin)
    if language == "en":
        pronounce = _English()
    else:
        pronounce = _Mandarin() if language == MANDARIN else _Espeak(language)
    phones: dict[str, list[str]] = {}
    for utt, target in words.items():
        for word in target:
            if word not in phones:
                try:
                    phones[word] = pronounce(word.lower())
                except ValueError as err:
                    raise UserError(
                        f"{origin}: utterance {utt}: the word {word!r} has no pronunciation in "
                        f"language {language!r} ({err}); correct the transcript, or the language "
                        "in egs/<corpus>/corpus.yaml, and run stage 1 again"
                    ) from err
    symbols = {phone for pronunciation in phones.values() for phone in pronunciation}
    return Lexicon(
        phones=dict(sorted(phones.items())),
        classes=pronounce.classes(symbols),
        source=pronounce.source,
        predicted=sorted(word.upper() for word in pronounce.predicted),
    )


def _require_mandarin(words: Mapping[str, Sequence[str]], origin: Path | str) -> None:
    spoken = [(utt, word) for utt, target in words.items() for word in target]
    if spoken and all(_LETTERS.fullmatch(word) for _, word in spoken):
        utt, word = spoken[0]
        raise UserError(
            f"{origin}: utterance {utt}: {word!r}, and so are all words: Latin letters without "
            "tones, which cannot be told from English; write Han characters, or pinyin with its "
            "tones (xia4 yu3 or xià yǔ), and run stage 1 again"
        )


class _English:
    """CMUdict, and g2p_en's neural model for out-of-vocabulary words."""

    source = "CMUdict"

    def __init__(self) -> None:
        self.dictionary = g2p.load_cmudict()
        self.predicted: list[str] = []

    def __call__(self, word: str) -> list[str]:
        if word in self.dictionary:
            return self.dictionary[word]
        # Without a letter of its alphabet the model would output nonsense.
        if not re.search("[a-z]", word):
            raise ValueError("no letter from A to Z")
        self.predicted.append(word)
        # The model may emit <unk> and, as the only vowel without a stress digit, UW.
        phones = [{"UW": "UW0"}.get(phone, phone) for phone in g2p.neural_g2p()(word)]
        phones = [phone for phone in phones if phone in ARPABET_TO_CLASS]
        if not phones:
            raise ValueError("neither CMUdict nor g2p_en gives one")
        return phones

    def classes(self, _symbols: Iterable[str]) -> dict[str, str]:
        return dict(ARPABET_TO_CLASS)


class _Espeak:
    """espeak-ng's IPA, for every other language."""

    source = "espeak-ng"

    def __init__(self, language: str) -> None:
        self.language = language
        self.predicted: list[str] = []

    def __call__(self, word: str) -> list[str]:
        phones = ipa.phones(espeak.phonemize(word, self.language), self.language)
        if _has_han(word) and self.language not in _READ_HAN:
            raise ValueError(
                "espeak-ng says 'Chinese letter'; write Japanese in kana, Mandarin is language cmn"
            )
        if not phones:
            raise ValueError("espeak-ng is silent about it")
        return phones

    def classes(self, symbols: Iterable[str]) -> dict[str, str]:
        return {symbol: ipa.phone_class(symbol) for symbol in sorted(symbols)}


class _Mandarin(_Espeak):
    """espeak-ng for Han characters, digits and pinyin, and in English for other Latin letters."""

    def __init__(self) -> None:
        super().__init__(MANDARIN)

    def __call__(self, word: str) -> list[str]:
        syllables = pinyin.syllables(word) if _PINYIN.fullmatch(word) else None
        if syllables:  # not for words such as mp3
            return self._pinyin(syllables)
        result: list[str] = []
        for part in _LATIN_OR_HAN.findall(word):
            if part[0].isascii() and not part[0].isdigit():
                result += ipa.phones(espeak.phonemize(part, "en"), "en")
            else:
                result += self._han(part)
        if not result:
            raise ValueError("espeak-ng is silent about it")
        return result

    def _pinyin(self, syllables: Sequence[str]) -> list[str]:
        result: list[str] = []
        for syllable in syllables:
            name, tone = syllable[:-1], syllable[-1]
            plain = name.removesuffix("r") if name != "er" else name  # huar1 is hua1 plus suffix
            if plain:
                reading = espeak.phonemize(plain + tone, _PINYIN_VOICE, True)
                reading = ipa.mend_mandarin(reading)
                if any(mark in reading for mark in _UNREAD):
                    raise ValueError(f"espeak-ng has no reading of the pinyin {plain + tone!r}")
                result += ipa.phones(reading, MANDARIN)
            if plain != name:
                result = ipa.add_r(result) if result else ipa.phones("ˈər1", MANDARIN)
        return result

    def _han(self, text: str) -> list[str]:
        """Phones of ``text``, read as the longest prefixes that espeak-ng can read, one by one.

        The first prefix is the whole text, except for words in which 儿 is not a syllable of its
        own (花儿, 一点儿): espeak-ng lists them but has no sound for them. A prefix ends before 儿.
        """
        result: list[str] = []
        while text:
            if result and text[0] in _SUFFIX_R:
                result, text = ipa.add_r(result), text[1:]
                continue
            for end in range(len(text), 0, -1):
                reading = ipa.mend_mandarin(espeak.phonemize(text[:end], MANDARIN, True))
                if not any(mark in reading for mark in _UNREAD):
                    break
            else:
                raise ValueError(f"espeak-ng has no Mandarin reading of {text[0]!r}")
            result, text = result + ipa.phones(reading, MANDARIN), text[end:]
        return result
