"""Manner classes, tagged units and the CTC length condition."""

import pytest

from ser.errors import UserError
from ser.lang.g2p import load_cmudict
from ser.lang.units import (
    ARPABET_TO_CLASS,
    ctc_min_frames,
    phone_units,
    read_units,
    write_units,
)

# Written out by hand from the table of S1, symbol by symbol.
BY_HAND = """
    B S   P S   T S   D S   K S   G S   CH S   JH S
    S F   Z F   SH F  ZH F  TH F  DH F  F F    V F   HH F
    M N   N N   NG N
    L L   R L   Y L   W L
    AA V  AA0 V  AA1 Vs  AA2 Vs      AE V  AE0 V  AE1 Vs  AE2 Vs
    AH V  AH0 V  AH1 Vs  AH2 Vs      AO V  AO0 V  AO1 Vs  AO2 Vs
    AW V  AW0 V  AW1 Vs  AW2 Vs      AY V  AY0 V  AY1 Vs  AY2 Vs
    EH V  EH0 V  EH1 Vs  EH2 Vs      ER V  ER0 V  ER1 Vs  ER2 Vs
    EY V  EY0 V  EY1 Vs  EY2 Vs      IH V  IH0 V  IH1 Vs  IH2 Vs
    IY V  IY0 V  IY1 Vs  IY2 Vs      OW V  OW0 V  OW1 Vs  OW2 Vs
    OY V  OY0 V  OY1 Vs  OY2 Vs      UH V  UH0 V  UH1 Vs  UH2 Vs
    UW V  UW0 V  UW1 Vs  UW2 Vs
"""
EXPECTED = dict(zip(BY_HAND.split()[::2], BY_HAND.split()[1::2], strict=True))


def test_every_arpabet_symbol_has_the_class_of_the_paper():
    assert len(EXPECTED) == 24 + 15 * 4
    assert ARPABET_TO_CLASS == EXPECTED


def test_every_symbol_that_cmudict_uses_has_a_class():
    used = {phone for phones in load_cmudict().values() for phone in phones}
    assert len(used) == 24 + 15 * 3
    assert used <= set(ARPABET_TO_CLASS)


def test_four_emotions_give_24_units_by_class_then_emotion():
    inventory, _ = phone_units("tagged_class", {}, {}, {}, 4)
    assert " ".join(inventory) == (
        "S0 S1 S2 S3 F0 F1 F2 F3 N0 N1 N2 N3 L0 L1 L2 L3 V0 V1 V2 V3 Vs0 Vs1 Vs2 Vs3"
    )


def test_seven_emotions_give_42_units():
    inventory, _ = phone_units("tagged_class", {}, {}, {}, 7)
    assert len(inventory) == len(set(inventory)) == 42
    assert inventory[6] == "S6" and inventory[-1] == "Vs6"


# "no" said angrily (0), "about" said sadly (2), and an utterance without words.
TEXT_PHN = {"u1": ["N", "OW1"], "u2": ["AH0", "B", "AW1", "T"], "u3": []}
EMOTION = {"u1": 0, "u2": 2, "u3": 1}


@pytest.mark.parametrize(
    ("token_type", "u1", "u2"),
    [
        ("tagged_class", "N0 Vs0", "V2 S2 Vs2 S2"),
        ("class", "N Vs", "V S Vs S"),
        ("tagged_phone", "N_0 OW1_0", "AH0_2 B_2 AW1_2 T_2"),
        ("phone", "N OW1", "AH0 B AW1 T"),
    ],
)
def test_units_of_each_type_made_from_phones(token_type, u1, u2):
    inventory, units = phone_units(token_type, TEXT_PHN, ARPABET_TO_CLASS, EMOTION, 3)
    assert units == {"u1": u1.split(), "u2": u2.split(), "u3": []}
    assert {unit for target in units.values() for unit in target} <= set(inventory)


@pytest.mark.parametrize(
    ("token_type", "size", "first"),
    [
        ("tagged_class", 18, ["S0", "S1", "S2", "F0"]),
        ("class", 6, ["S", "F", "N", "L", "V", "Vs"]),
        ("tagged_phone", 18, ["AH0_0", "AH0_1", "AH0_2", "AW1_0"]),
        ("phone", 6, ["AH0", "AW1", "B", "N", "OW1", "T"]),
    ],
)
def test_inventory_of_each_type_made_from_phones(token_type, size, first):
    inventory, _ = phone_units(token_type, TEXT_PHN, ARPABET_TO_CLASS, EMOTION, 3)
    assert len(inventory) == len(set(inventory)) == size
    assert inventory[: len(first)] == first


@pytest.mark.parametrize(
    ("units", "frames"),
    [
        ("", 0),
        ("S0", 1),
        ("S0 F0", 2),
        ("S0 S0", 3),  # S0 blank S0
        ("S0 S0 S0", 5),
        ("S0 F0 S0", 3),  # equal, but not neighbours
        ("L0 Vs0 S0 S0 Vs0 Vs0 F0", 9),  # "liegt auf" with two pairs of neighbours
    ],
)
def test_ctc_needs_a_frame_per_unit_and_a_blank_between_equal_neighbours(units, frames):
    assert ctc_min_frames(units.split()) == frames


@pytest.mark.parametrize("target", [[1], [1, 2], [1, 1], [1, 1, 1], [1, 2, 2, 1, 1], [2, 2, 1, 2]])
def test_torch_finds_no_path_in_one_frame_less_than_the_minimum(target):
    torch = pytest.importorskip("torch")
    need = ctc_min_frames(target)
    for frames, possible in ((need, True), (need - 1, False)):
        if frames == 0:
            continue
        logp = torch.zeros(frames, 1, 3).log_softmax(-1)  # (T, B, V)
        loss = torch.nn.functional.ctc_loss(
            logp, torch.tensor([target]), torch.tensor([frames]), torch.tensor([len(target)])
        )
        assert bool(loss.isfinite()) is possible


def test_units_file_starts_with_the_blank_and_is_read_back(tmp_path):
    path = tmp_path / "units.txt"
    write_units(path, ["S0", "Vs0"])
    assert path.read_text(encoding="utf-8") == "<blank> 0\nS0 1\nVs0 2\n"
    assert read_units(path) == ["<blank>", "S0", "Vs0"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("S0 0\n", 1),  # no blank
        ("<blank> 0\nS0 2\n", 2),  # a gap
        ("<blank> 0\nS0 1\nS0 2\n", 3),  # twice
        ("<blank> 0\nS0\n", 2),  # no id
        ("<blank> 0\n<blank> 1\n", 2),
    ],
)
def test_a_damaged_units_file_is_refused_with_its_line(tmp_path, content, line):
    path = tmp_path / "units.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"units.txt:{line}: found"):
        read_units(path)


def test_an_empty_units_file_is_refused(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no units"):
        read_units(path)
