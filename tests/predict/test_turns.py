"""Emotions by speaker, from the turns of a diarisation."""

import functools
import json
from pathlib import Path

import pytest

from ser.errors import UserError
from ser.predict.classifier import SpeechEmotion
from ser.predict.turns import Turn, predict_turns, read_rttm, turns_of
from tests.predict.test_classifier import (
    fake,
    packed,
    read_textgrid,
    said_like,
    ser_predict,
    write,
)

__all__ = ["packed"]
RTTM = """;; by hand
SPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA> <NA>
SPEAKER talk 1 4.00 2.00 <NA> <NA> anna <NA> <NA>
SPEAKER talk 1 0.00 2.00 <NA> <NA> anna <NA> <NA>
SPEAKER talk 1 2.00 2.00 <NA> <NA> ben <NA> <NA>
SPEAKER talk 1 3.50 0.01 <NA> <NA> ben <NA> <NA>
"""


@pytest.fixture
def talk(tmp_path, packed):
    (tmp_path / "talk.rttm").write_text(RTTM, encoding="utf-8")
    return write(tmp_path / "talk.wav", said_like("angry", "sad", "angry", seconds=2))


def test_each_turn_is_predicted_by_itself_and_each_speaker_from_his_turns(talk, capsys):
    _, out, err = ser_predict(capsys, talk, "--rttm", f"{talk[:-4]}.rttm", "--format", "json")
    assert not err
    said = json.loads(out)
    assert [(s["speaker"], s["start"], s["end"], s["emotion"]) for s in said["segments"]] == [
        ("anna", 0.0, 2.0, "angry"),
        ("ben", 2.0, 4.0, "sad"),
        ("anna", 4.0, 6.0, "angry"),
    ]
    found = {who: (s["emotion"], s["seconds"]) for who, s in said["speakers"].items()}
    assert found == {"anna": ("angry", 4.0), "ben": ("sad", 2.0)}
    assert (said["emotion"], said["duration"]) == ("angry", 6.0)
    assert said["warnings"] == ["1 of 4 turns left out, too short for the model or without sound"]


@pytest.mark.parametrize("seconds", [0.4, 0.6])
def test_a_turn_that_the_model_refuses_is_left_out_if_it_is_short_and_else_named(
    talk, monkeypatch, seconds
):
    def call(model, samples, *given):
        if len(samples) < 16000:
            raise UserError("the array: too short for this encoder")
        return heard(model, samples, *given)

    heard = SpeechEmotion.__call__
    monkeypatch.setattr(SpeechEmotion, "__call__", call)
    turns = [*read_rttm(f"{talk[:-4]}.rttm")["talk"], Turn(1, 1 + seconds, "cleo", "t.rttm:9")]
    predicted = functools.partial(predict_turns, fake(), talk, turns, "auto", lambda *_: None)
    if seconds > 0.5:
        with pytest.raises(UserError, match="^t.rttm:9: too short for this encoder"):
            predicted()
    else:
        said = predicted()
        assert list(said.speakers) == ["anna", "ben"] and "2 of 5 turns" in said.warnings[-1]


def test_every_format_says_who(talk, capsys):
    rttm = ("--rttm", f"{talk[:-4]}.rttm")
    text = ser_predict(capsys, talk, *rttm)[1].splitlines()
    assert text[1].startswith("  anna (0:04.0): angry: angry 1.00")
    assert text[2].startswith("  ben (0:02.0): sad: sad 0.98")
    assert [line.split()[3:5] for line in text[3:6]] == [
        ["anna", "angry"],
        ["ben", "sad"],
        ["anna", "angry"],
    ]
    rows = ser_predict(capsys, talk, *rttm, "--format", "csv")[1].splitlines()
    assert rows[0].endswith(",warnings,speaker")
    told = [row.split(",") for row in rows[1:]]
    assert [(row[1], row[4], row[-1]) for row in told] == [
        ("file", "angry", ""),
        ("speaker", "angry", "anna"),
        ("speaker", "sad", "ben"),
        ("segment", "angry", "anna"),
        ("segment", "sad", "ben"),
        ("segment", "angry", "anna"),
    ]
    Path(rttm[1]).write_text(RTTM.replace("ben", 'b"e"n'), encoding="utf-8")
    grid = read_textgrid(ser_predict(capsys, talk, *rttm, "--format", "textgrid")[1])
    assert list(grid) == ["emotion anna", 'emotion b"e"n', "warnings"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("SPEAKER talk 1 0.0 x <NA> <NA> a <NA> <NA>", "t.rttm:1: found 'SPEAKER talk 1 0.0 x"),
        ("\nSPEAKER talk 1 0.0 1.0 <NA>", "t.rttm:2: found"),
        ("SPEAKER talk 1 -1 2 <NA> <NA> a <NA> <NA>", "t.rttm:1: found"),
        ("SPEAKER talk 1 1 0 <NA> <NA> a <NA> <NA>", "t.rttm:1: found"),
        ("SPEAKER walk 1 0 1 <NA> <NA> a <NA> <NA>", "no turns of 'talk', but of 'walk'"),
        ("SPEAKER talk 1 5 9 <NA> <NA> a <NA> <NA>", "t.rttm:1: a turn ends at 14.00 s"),
        ("", "t.rttm: no line of type SPEAKER"),
    ],
)
def test_an_rttm_that_does_not_fit_is_refused_with_its_line(tmp_path, lines, said):
    (tmp_path / "t.rttm").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        turns_of("calls/talk.wav", 6.0, read_rttm(tmp_path / "t.rttm"))
    with pytest.raises(UserError, match="none.rttm: cannot be read"):
        read_rttm(tmp_path / "none.rttm")


def test_the_mark_at_the_start_of_a_windows_file_costs_no_turn(tmp_path):
    line = "SPEAKER talk 1 0 1 <NA> <NA> a <NA> <NA>"
    (tmp_path / "t.rttm").write_text(f"\ufeff{line}\r\n{line}\r\n", encoding="utf-8")
    assert len(read_rttm(tmp_path / "t.rttm")["talk"]) == 2


def test_a_recording_that_cannot_be_read_costs_no_other_its_turns(talk, capsys):
    status, out, err = ser_predict(
        capsys, talk, "none.wav", "--rttm", f"{talk[:-4]}.rttm", "--format", "json"
    )
    assert status == 1 and json.loads(out)["speakers"]
    assert err == [
        "error: none.wav: no such file; correct the path, or put the file back",
        "error: 1 of 2 files failed, see above",
    ]
