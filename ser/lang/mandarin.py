"""Pinyin: Mandarin in Latin letters, with tones as digits (xia4 yu3) or as accents (xià yǔ)."""

import re
import unicodedata

NEUTRAL = "5"  # tone of a syllable without a tone mark
_ACCENTS = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_DIAERESIS = "\u0308"
_INITIAL = "zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]"
_FINAL = (
    "iang|iong|uang|ueng|ang|eng|ing|ong|iao|ian|uai|uan|van|"
    "ai|ao|an|ei|en|er|ia|ie|in|iu|ou|ua|ue|ui|un|uo|ve|vn|a|e|i|o|u|v"
)
# A syllable within a word begins with a consonant; before a vowel there is an apostrophe (xi'an).
_FIRST = re.compile(f"(?:{_INITIAL})?(?:{_FINAL})r?")
_NEXT = re.compile(f"(?:{_INITIAL})(?:{_FINAL})r?")
_NUMBERED = re.compile(r"([a-zv]+)([0-5])")


def syllables(word: str) -> list[str] | None:
    """Split a pinyin word into syllables with their tones as digits; None if it is not pinyin.

    ü becomes v, and a syllable without a tone mark has the neutral tone: "lǜ de" is lv4, de5.
    "xiàyǔ", "xia4yu3" -> ["xia4", "yu3"]; "xī'ān" -> ["xi1", "an1"]; "ok" -> None.
    """
    letters, tones = _letters(word.lower().replace("u:", "v"))
    if letters is None:
        return None
    result: list[str] = []
    start = 0
    for part in letters.split("'"):
        if any(char.isdigit() for char in part):
            found = _NUMBERED.findall(part)
            if "".join(map("".join, found)) != part or tones:
                return None
            pieces = [(name, tone.replace("0", NEUTRAL)) for name, tone in found]
            if not all(_FIRST.fullmatch(name) or name == "r" for name, _ in pieces):
                return None
        else:
            names = _split(part)
            if not names:
                return None
            pieces, place = [], start
            for name in names:
                here = [tones[i] for i in range(place, place + len(name)) if i in tones]
                pieces.append((name, here[0] if here else NEUTRAL))
                place += len(name)
        result += [name + tone for name, tone in pieces]
        start += len(part) + 1
    return result


def has_tone(word: str) -> bool:
    """Whether a word in Latin letters carries a tone: an accent, or a digit after a letter."""
    marks = any(mark in _ACCENTS for mark in unicodedata.normalize("NFD", word))
    return marks or re.search(r"[a-zü][0-5]", word.lower()) is not None


def _letters(word: str) -> tuple[str | None, dict[int, str]]:
    """Letters without accents, ü as v, and the tones given by accents, by position."""
    letters, tones = "", {}
    for char in unicodedata.normalize("NFD", word):
        if char in _ACCENTS and letters:
            tones[len(letters) - 1] = _ACCENTS[char]
        elif char == _DIAERESIS and letters[-1:] == "u":
            letters = letters[:-1] + "v"
        elif char in "abcdefghijklmnopqrstuvwxyz'012345":
            letters += char
        else:
            return None, {}
    return letters, tones


def _split(letters: str, first: bool = True) -> list[str]:
    """Split ``letters`` into syllables, preferring the longest if the rest can be split too."""
    for end in range(len(letters), 0, -1):
        if (_FIRST if first else _NEXT).fullmatch(letters[:end]):
            rest = letters[end:]
            if not rest:
                return [letters]
            following = _split(rest, first=False)
            if following:
                return [letters[:end], *following]
    return []
