"""IPA from espeak-ng -> phones -> manner classes, for languages without a pronouncing dictionary.

A phone is a consonant or the nucleus of a syllable, so that a target has about one unit per
sound, as in ARPAbet:

- affricates are one phone. espeak-ng writes "jˈɛtst" without a tie bar; inside a word a plosive
  followed by the fricative of the same place counts as one (t͡s, p͡f, d͡ʒ, ...);
- diphthongs are one phone (aɪ, aʊ, ɔø), because the nucleus is stressed as a whole and CTC
  should see one V, not two. Vowels in hiatus ("Museum", eːʊ) stay separate;
- a stress mark (ˈ primary, ˌ secondary; espeak-ng puts it before the nucleus) belongs to the
  next vowel and is kept on it: ˈaɪ;
- Mandarin (and Cantonese): the vowels of one syllable are one nucleus, including the glide after
  an initial (kwɑ, tɕjɑu), since espeak-ng writes it as a vowel in some finals and as a
  consonant in others. Tones are pitch, not manner, but they replace stress: a syllable with a
  full tone is marked ˈ, one in Mandarin's neutral tone is not. espeak-ng's own stress marks
  are ignored there: it leaves syllables with a full tone unmarked. This interpretation of S1's
  "stressed vowels" for a tone language is ours.

Classes come from panphon's distinctive features, with exceptions: panphon counts the glottal
sounds h and ʔ as sonorants, but S1 has HH among the fricatives, and ʔ is a plosive; ʁ is a
fricative by its features, but a realisation of the phoneme r. So is espeak-ng's ʐ in Mandarin
(人, pinyin r), which becomes the approximant ɻ.
"""

import re
import unicodedata
import warnings
from functools import lru_cache

STRESS = "ˈˌ"
_LETTERS = ("Ll", "Lu", "Lo")  # Unicode categories
_TIE = "\u0361"
_NON_SYLLABIC = "\u032f"

_AFFRICATES = [
    (re.compile(f"{stop}{_TIE}?(?=[{fricatives}])"), stop + _TIE)
    for stop, fricatives in (("t", "sʃɕ"), ("d", "zʒʑ"), ("ʈ", "ʂ"), ("p", "f"))
]
# espeak-ng's Mandarin voice writes ASCII for some IPA symbols: a dot for retroflex consonants and
# for the vowel of "shi", a hyphen for the vowel of "ge", nɡ for one nasal, h for aspiration, and a
# digit for the tone, of which 3 is written as ɜ: 5 is high or falling, 3 rising, 2 low, 1 neutral.
# The digit follows the vowel and precedes the final n or ŋ.
_FULL_TONE, _NEUTRAL_TONE = "\u02e5", "\u02e9"
_TONAL = [
    (re.compile(f"[{STRESS}]"), ""),
    (re.compile("ts\\."), "ʈʂ"),
    (re.compile("s\\."), "ʂ"),
    (re.compile("i[.\u032a]"), "ɨ"),
    (re.compile("o-"), "ɤ"),
    (re.compile("nɡ"), "ŋ"),
    (re.compile("(?<=[ptksɕʂ])h"), "ʰ"),
    (re.compile("-"), ""),
    # An n after a tone ends its syllable, and a glide after it begins the next.
    (re.compile("(?<=[ptkʰχsʂɕlmn])(?<![ɜ\\d]n)j"), "i"),
    (re.compile("(?<=[ptkʰχsʂɕlmn])(?<![ɜ\\d]n)wu?"), "u"),
]
_MANDARIN = [(re.compile("ʐ"), "ɻ"), (re.compile("1"), _NEUTRAL_TONE)]
_ANY_TONE = (re.compile("[ɜ\\d]"), _FULL_TONE)
_TONES_DROPPED = ("hak", "shn", "th", "vi")  # languages whose tones are written the same way
# It has no sounds for the pinyin jiong, qiong and xiong, and spells them, with their tone number,
# in English.
_MISREAD = re.compile(r"\(en\)(dʒɪ|kɪ|kʃ)əŋ(?:wˈɒn|tˈuː|θɹˈiː|fˈɔː)\(cmn\)")
_MEANT = {"dʒɪ": "tɕionɡ5", "kɪ": "tɕhionɡ5", "kʃ": "ɕionɡ5"}
_CODAS = ("n", "ŋ")
_RESPELLED = {"g": "ɡ", "ε": "ɛ", "ɚ": "ə˞", "ɝ": "ɜ˞"}
_RESPELLED |= {"ʦ": f"t{_TIE}s", "ʧ": f"t{_TIE}ʃ"}
_OPEN_VOWELS, _CLOSE_OFFGLIDES = set("aɐɑæɔoeɛəœ"), set("ɪʊʏø")
_EXCEPTIONS = {"h": "F", "ɦ": "F", "ʔ": "S", "ʁ": "L"}


@lru_cache(maxsize=1)
def _features():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its regular expressions, on Python 3.12
        from panphon import FeatureTable
    return FeatureTable()


def phone_class(phone: str) -> str:
    """Manner class of a phone from ``phones``; the stress mark of a vowel decides V or Vs.

    Raises ValueError for a phone unknown to panphon.
    """
    base = phone.lstrip(STRESS)
    segments = _features().ipa_segs(base)
    if not segments:
        raise ValueError(f"{phone!r} is no IPA symbol that panphon knows")
    if base[0] in _EXCEPTIONS:
        return _EXCEPTIONS[base[0]]
    # A diphthong has several segments, one of them syllabic.
    features = [_features().fts(segment) for segment in segments]
    if any(f["syl"] > 0 and f["cons"] < 0 for f in features):
        return "Vs" if phone != base else "V"
    f = features[0]
    if f["nas"] > 0:
        return "N"
    if f["son"] > 0:
        return "L"
    return "F" if f["cont"] > 0 else "S"


def mend_mandarin(ipa: str) -> str:
    """Repair espeak-ng's IPA of Han characters, which marks a switch to English by "(en)...(cmn)":
    insert the syllables that it lacks for their names spelled in English."""
    return _MISREAD.sub(lambda misread: _MEANT[misread[1]], ipa)


def add_r(syllables: list[str]) -> list[str]:
    """Phones of Mandarin ``syllables``, the last of which merges with the suffix 儿.

    The suffix colours the vowel and takes the place of a final nasal (Duanmu, The Phonology of
    Standard Chinese, 2007): 点 t ˈiɛ n, 点儿 t ˈiɛ ɻ.
    """
    return [*(syllables[:-1] if syllables[-1] in _CODAS else syllables), "ɻ"]


def phones(ipa: str, language: str) -> list[str]:
    """Split espeak-ng's IPA of a word into phones; "" gives [].

    Raises ValueError for a symbol that panphon does not know.
    """
    ipa = unicodedata.normalize("NFD", ipa)
    tonal = language in ("cmn", "yue")
    if tonal:
        for pattern, replacement in (*_TONAL, *(_MANDARIN if language == "cmn" else ()), _ANY_TONE):
            ipa = pattern.sub(replacement, ipa)
    elif language.partition("-")[0] in _TONES_DROPPED:
        ipa = _ANY_TONE[0].sub("", ipa)
    for symbol, replacement in _RESPELLED.items():
        ipa = ipa.replace(symbol, replacement)
    for pattern, replacement in _AFFRICATES:
        ipa = pattern.sub(replacement, ipa)

    result: list[str] = []
    stress = ""
    open_nucleus = False  # whether the next vowel may join the phone before it
    nucleus = None  # place in result of the vowel that the next tone belongs to
    marks = STRESS + _FULL_TONE + _NEUTRAL_TONE + " "
    for piece in re.findall(f"[{marks}]|[^{marks}]+", ipa):
        if piece in marks:
            open_nucleus = False
            if piece in STRESS:
                stress = piece
            elif nucleus is not None and piece == _FULL_TONE:
                result[nucleus] = STRESS[0] + result[nucleus]
            nucleus = None
            continue
        for segment in _segments(piece, ipa):
            if phone_class(segment) != "V" and _NON_SYLLABIC not in segment:
                result.append(segment)
                open_nucleus = False
            elif open_nucleus and (tonal or _is_diphthong(result[-1], segment)):
                result[-1] += segment
            elif _NON_SYLLABIC in segment:
                result.append(segment)
                open_nucleus = False
            else:
                result.append(stress + segment)
                stress, open_nucleus, nucleus = "", True, len(result) - 1
    return [unicodedata.normalize("NFC", phone) for phone in result]


def _segments(piece: str, ipa: str) -> list[str]:
    # espeak-ng writes diphthongs with tie bars between vowels; panphon reads a tie only as part of
    # an affricate. Non-letters that panphon skips are marks of something other than manner: the
    # French mute e (ə-), the rounding in Japanese (ɯᵝ).
    piece = re.sub(f"(?<![tdʈp]){_TIE}", "", piece)
    segments = _features().ipa_segs(piece)
    if "".join(segments) != piece:
        rest = piece
        for segment in segments:
            rest = rest.replace(segment, "", 1)
        if any(unicodedata.category(char) in _LETTERS for char in rest):
            raise ValueError(f"{rest!r} in {ipa!r} is no IPA symbol that panphon knows")
    return segments


def _is_diphthong(nucleus: str, segment: str) -> bool:
    if _NON_SYLLABIC in segment:
        return True
    return nucleus.lstrip(STRESS) in _OPEN_VOWELS and segment in _CLOSE_OFFGLIDES
