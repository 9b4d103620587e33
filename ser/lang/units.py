"""Phonemes -> manner classes -> emotion-tagged units: the targets of the phoneme head.

Li, Yan, Gao, Fang and Zou (2024) map every phoneme to one of six manner classes and tag each
class of an utterance with the utterance's emotion:

    S plosives and affricates, F fricatives, N nasals, L liquids and glides,
    V unstressed vowels, Vs vowels with primary or secondary stress

so that "no" (N OW1) said angrily (emotion 0) becomes ``N0 Vs0``. The digit is the emotion's index
in ``data/<corpus>/all/emotions``. Four emotions give 24 units and, with the blank, 25 outputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.errors import UserError
from ser.files import atomic_write

BLANK = "<blank>"
UNK = "<unk>"
CLASSES = ("S", "F", "N", "L", "V", "Vs")

TOKEN_TYPES = {
    "tagged_class": "manner classes with the emotion's digit, e.g. Vs0 (the paper's units)",
    "class": "manner classes, e.g. Vs",
    "tagged_phone": "phones with the emotion's digit, e.g. AH0_2: unstressed AH, emotion 2",
    "phone": "phones, e.g. AH0",
    "char": "characters, | between words",
    "bpe": "sentencepiece BPE pieces",
}

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = {
    "S": "B P T D K G CH JH",
    "F": "S Z SH ZH TH DH F V HH",
    "N": "M N NG",
    "L": "L R Y W",
}

# Class of each ARPAbet symbol; a vowel's stress is its last character: 0 none, 1 primary,
# 2 secondary. A vowel without the digit counts as unstressed.
ARPABET_TO_CLASS: dict[str, str] = {
    phone: name for name, phones in _CONSONANTS.items() for phone in phones.split()
}
for _vowel in _VOWELS.split():
    ARPABET_TO_CLASS |= {_vowel: "V", f"{_vowel}0": "V", f"{_vowel}1": "Vs", f"{_vowel}2": "Vs"}


def phone_units(
    token_type: str,
    text_phn: Mapping[str, Sequence[str]],
    classes: Mapping[str, str],
    emotion_index: Mapping[str, int],
    num_emotions: int,
) -> tuple[list[str], dict[str, list[str]]]:
    """Make the inventory (without blank) and each utterance's units, for a phone-based token type.

    ``text_phn`` maps an utterance to its phones, ``classes`` a phone to its manner class and
    ``emotion_index`` an utterance to its emotion's index. Class inventories are complete, in the
    order of CLASSES; phone inventories are the phones of this corpus in C order. Tagged
    inventories are in this order, then by emotion. All units of an utterance have the same tag.
    """
    if token_type.endswith("class"):
        inventory, mark = list(CLASSES), ""
        text_phn = {utt: [classes[phone] for phone in said] for utt, said in text_phn.items()}
    else:
        inventory = sorted({phone for said in text_phn.values() for phone in said})
        mark = "_"  # separates the tag from ARPAbet's stress digit
    if not token_type.startswith("tagged"):
        return inventory, {utt: list(said) for utt, said in text_phn.items()}
    return [f"{unit}{mark}{digit}" for unit in inventory for digit in range(num_emotions)], {
        utt: [f"{unit}{mark}{emotion_index[utt]}" for unit in said]
        for utt, said in text_phn.items()
    }


def token_tables(token_type: str) -> tuple[str, str]:
    """File names in dump/<corpus> of the units and of the inventory of ``token_type``."""
    suffix = "" if token_type == "tagged_class" else f"_{token_type}"
    return f"text{suffix}", f"units{suffix}.txt"


def tag_stripper(token_type: str) -> Callable[[str], str] | None:
    """Function that strips the emotion tag from a unit; None for units that are not phonemes.

    ``Vs3`` becomes ``Vs`` and ``AH0_3`` becomes ``AH0``; untagged units stay as they are.
    """
    return {
        "tagged_class": lambda unit: unit.rstrip("0123456789"),
        "tagged_phone": lambda unit: unit.rpartition("_")[0],
        "class": str,
        "phone": str,
    }.get(token_type)


def read_untagged(
    units: Sequence[str], strip_tag: Callable[[str], str]
) -> tuple[list[str], dict[str, int]]:
    """Strip the tags from the inventory ``units`` (the blank first).

    Returns:
        The untagged units, the blank first, and for each of ``units`` its index among them.
    """
    untagged = {unit: unit if unit == BLANK else strip_tag(unit) for unit in units}
    names = list(dict.fromkeys(untagged.values()))
    return names, {unit: names.index(name) for unit, name in untagged.items()}


def ctc_min_frames(units: Sequence) -> int:
    """Minimum number of frames in which CTC can emit ``units``: U + R.

    U is the number of units, R the number of adjacent repeats: between two equal units CTC
    needs a blank, or they would be merged (Graves et al., 2006).
    """
    return len(units) + sum(a == b for a, b in zip(units, units[1:], strict=False))


def write_units(path: Path | str, inventory: Iterable[str]) -> None:
    """Write ``<unit> <id>`` lines: the blank has id 0, the inventory follows in its order."""
    with atomic_write(path) as stream:
        stream.writelines(f"{unit} {i}\n" for i, unit in enumerate([BLANK, *inventory]))


def read_units(path: Path | str) -> list[str]:
    """Read the units of a ``units.txt`` in order of id; the first is the blank.

    Raises UserError naming file and line if ids do not count up from 0, a unit is listed twice or
    the blank is not first.
    """
    units: list[str] = []
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            unit, _, index = line.rstrip("\n").rpartition(" ")
            wrong = index != str(number) or unit in units or (unit == BLANK) != (number == 0)
            if wrong or not unit:
                raise UserError(
                    f"{path}:{number + 1}: found {line.strip()!r}; expected '<unit> {number}' "
                    f"with a unit of its own and {BLANK} first; make the file again with "
                    "./run.sh --stage 2 --stop-stage 3"
                )
            units.append(unit)
    if not units:
        raise UserError(f"{path}: no units; make the file again: ./run.sh --stage 2 --stop-stage 3")
    return units


def greedy_ctc(best: Iterable[int], units: Sequence[str]) -> list[str]:
    """Best-path CTC decoding: merge adjacent repeats, then drop the blank (index 0).

    Args:
        best: Index of the most probable unit in each frame, (T,).
        units: Names by index.
    """
    decoded, previous = [], 0
    for index in best:
        if index != previous and index != 0:
            decoded.append(units[index])
        previous = index
    return decoded


@dataclass(frozen=True)
class ErrorRate:
    """Edits over reference units; ``empty`` counts utterances without a reference, left out."""

    edits: int
    units: int
    utterances: int
    empty: int

    @property
    def rate(self) -> float | None:
        """Edits per reference unit, which may exceed 1; None without reference units."""
        return self.edits / self.units if self.units else None


def unit_error_rate(
    refs: Mapping[str, Sequence[str]], hyps: Mapping[str, Sequence[str]]
) -> ErrorRate:
    """Levenshtein edits over reference units, summed over the utterances of ``hyps``."""
    import editdistance

    edits = units = empty = 0
    for utt_id, hyp in hyps.items():
        ref = refs[utt_id]
        if not ref:
            empty += 1
            continue
        edits += editdistance.eval(list(ref), list(hyp))
        units += len(ref)
    return ErrorRate(edits, units, len(hyps) - empty, empty)


def align(ref: Sequence[str], hyp: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Align with the fewest edits: pairs of positions, None where a unit has no counterpart."""
    import editdistance

    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(ref), len(hyp)
    while i or j:
        edits = editdistance.eval(ref[:i], hyp[:j])
        if (
            i
            and j
            and edits == editdistance.eval(ref[: i - 1], hyp[: j - 1]) + (ref[i - 1] != hyp[j - 1])
        ):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and edits == editdistance.eval(ref[: i - 1], hyp[:j]) + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def units_head(model: Any) -> str | None:
    """Name of the head for the units column: the first CTC head, if any."""
    return next(iter(model.aux_units), None)
