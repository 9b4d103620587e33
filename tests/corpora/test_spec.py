"""ser/corpora/spec.py: what a corpus.yaml may say; a parametrised test for each kind of mistake."""

import pytest

from ser.corpora.spec import load_spec
from ser.errors import UserError

LINES = """name: toy
reader: table
language: en
emotions: [angry, neutral]
label_map: {anger: angry, calm: neutral}
"""


def load(tmp_path, text: str):
    path = tmp_path / "toy/corpus.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return load_spec("toy", tmp_path)


def changed(line: str) -> str:
    """LINES with this one in place of that with the same key, or behind the others."""
    key = line.partition(":")[0]
    kept = [old for old in LINES.splitlines() if old.partition(":")[0] != key]
    return "\n".join([*kept, line]) + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("emotions: angry neutral", "5: emotions: found 'angry neutral'; expected a list"),
        ("emotions:", "5: emotions: found nothing; expected a list"),
        ("emotions: {a: b}", "5: emotions: found .*; expected a list"),
        ("emotions: [[a], b]", r"5: emotions.0: found \['a'\]; expected text"),
        ("emotions: [angry, ~]", "5: emotions.1: found nothing; expected text"),
        ("label_map: [anger]", "5: label_map: found .*; expected `key: value` lines"),
        ("label_map:", "5: label_map: found nothing; expected `key: value` lines"),
        ("sessions: anna", "6: sessions: found 'anna'; expected `key: value` lines"),
        ("sessions:", "6: sessions: found nothing"),
        ("sessions: {A: anna}", "6: sessions.A: found 'anna'; expected a list"),
        ("columns: [audio]", "6: columns: found .*; expected `key: value` lines"),
        ("columns: {audio: [a]}", "6: columns.audio: found .*; expected text"),
        ("counts: [1]", "6: counts: found .*; expected `key: value` lines"),
        ("counts: {total: many}", "6: counts.total: found 'many'; expected a whole number"),
        ("counts: {total: -1}", "6: counts.total: found '-1'; expected 0 or more"),
        ("counts: {total: 1.5}", "6: counts.total: found '1.5'; expected a whole number"),
        ("counts: {emotion: {angry: x}}", "6: counts.emotion.angry: found 'x'; expected a whole"),
        ("skip_labels: none", "6: skip_labels: found 'none'; expected a list"),
        ("part: ids", "6: part: found 'ids'; expected `key: value` lines"),
        ("splits: train", "6: splits: found 'train'; expected a list"),
        ("language: en us", "5: language: found 'en us'; expected a code such as en, de or cmn"),
        ("language: ''", "5: language: found ''; expected a code"),
        (
            "emotions: [very angry, neutral]",
            "5: emotions.0: 'very angry': a class is one word, .*; write very_angry, and label_map",
        ),
        ("emotions: ['angry,hot', neutral]", "5: emotions.0: .*; write angry_hot, and label_map"),
        ("same_speakers: [a, b]", "6: same_speakers.0: found 'a'; expected a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_fits(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"toy/corpus.yaml:{message}"):
        load(tmp_path, changed(line))


def test_whatever_yaml_takes_for_numbers_and_booleans_is_text_where_text_is_expected(tmp_path):
    text = (
        changed("label_map: {1: yes, 0x2: no, 1_0: yes, null: no}").replace(
            "emotions: [angry, neutral]", "emotions: [yes, no]"
        )
        + "speakers: {03: m, 08: f, 010: f, 10: m, 1e3: f, 12:30: m}\n"
        + 'counts: {total: "16", speaker: {03: {yes: 7, no: 9}}}\n'
    )
    spec = load(tmp_path, text)
    assert spec.emotions == ["yes", "no"]
    assert list(spec.label_map) == ["1", "0x2", "1_0", "null"]
    assert list(spec.speakers) == ["03", "08", "010", "10", "1e3", "12:30"]
    assert spec.counts.total == 16


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("session: {A: [a]}", "6: unknown key 'session'; did you mean sessions?"),
        ("skip_label: [x]", "6: unknown key 'skip_label'; did you mean skip_labels?"),
        ("counts: {totl: 16}", "6: unknown key 'counts.totl'; did you mean total?"),
        ("part: {id: x, ids: x}", "6: unknown key 'part.id'; did you mean ids?"),
        ("qqqq: 1", "6: unknown key 'qqqq'; expected name, reader, "),
        ("columns: {speakr: x}", "6: columns.speakr: found 'speakr'; expected one of audio, "),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"toy/corpus.yaml:{message}"):
        load(tmp_path, changed(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: other", "5: name: 'other', but its folder is 'toy'"),
        ("emotions: [angry]", r"5: emotions: found \['angry'\]; expected two classes"),
        ("emotions: [angry, angry]", "5: emotions: 'angry' is named twice"),
        ("emotions: [angry, sad]", "emotions: no label of label_map becomes 'sad'"),
        ("emotion_sets: {3: [angry, neutral, joy]}", "emotion_sets.3: no label .* 'joy'"),
        (
            "label_map: {a: angryy, b: angry, c: neutral}",
            "5: label_map.a: 'angryy' is in neither emotions nor .*did you mean angry",
        ),
        ("skip_labels: [calm]", "6: skip_labels: 'calm' is in label_map as well"),
        ("sessions: {A: [a, b], B: [b]}", "6: sessions.B: 'b' is also in A"),
        ("sessions: {A: [a, a]}", "6: sessions.A: 'a' is twice in it"),
        ("sessions: [A, B]", "6: sessions: found a list; expected session -> speakers"),
        ("counts: {emotion: {joy: 1}}", "6: counts.emotion.joy: no class"),
        ("counts: {speaker: {a: {joy: 1}}}", "6: counts.speaker.a.joy: no class"),
        ("texts: {a: Hi.}", "6: texts: of the reader files, not of table; take it out"),
        ("counts: {wav: {A: 1}}", "6: counts.wav: counted by the reader iemocap alone"),
        ("name: toy\nname: toy", "6: name: given a second time, first in line 5"),
        ("label_map: {a: angry, a: neutral}", "5: label_map.a: given a second time"),
        ("label_map: {\u00e4: angry, a\u0308: neutral}", "5: .*: given a second time"),
        ("speakers: {..: f}", r"6: speakers..*: '..' is no name"),
        ("sessions: {A: [nan]}", "6: sessions.A.0: 'nan' is no name"),
        ("sessions: {A: ['']}", "6: sessions.A.0: '' is no name"),
    ],
)
def test_a_contradiction_is_refused_with_its_key_and_line(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"toy/corpus.yaml:\d*:? ?.*{message}"):
        load(tmp_path, changed(line))


def test_several_mistakes_are_listed_together(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path, changed("emotions: x") + "colums: {}\ncounts: {total: x}\n")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("line", ["emotions: angry, neutral", "emotions:", ""])
def test_a_label_map_is_not_missed_where_emotions_are_what_is_wrong(tmp_path, line):
    text = "name: toy\nreader: table\nlanguage: en\n" + line
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    (problem,) = str(caught.value).replace(str(tmp_path), "").splitlines()
    assert "emotions" in problem and "label_map" not in problem


def test_capitals_of_a_language_make_no_difference(tmp_path):
    assert load(tmp_path, changed("language: EN")).language == "en"
