from dataclasses import replace

import pytest

from ser.data import tables as datadir
from ser.data.tables import Utterance
from ser.errors import UserError

EMOTIONS = ["angry", "happy"]


def _records(folder):
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for utt, speaker, gender, emotion, text in [
        ("b_1", "Ses01F", "f", "happy", "Good  morning."),
        ("a_2", "Ses01M", "m", "angry", ""),
        ("B_3", "Ses01M", "m", "happy", "[LAUGHTER] Yes."),
    ]:
        wav = folder / f"{utt}.wav"
        wav.write_bytes(b"RIFF")
        records.append(Utterance(utt, wav, text, speaker, emotion, gender, "Ses01", 1.25))
    return records


def _write(tmp_path, records=None, **changes):
    arguments = {
        "records": records or _records(tmp_path / "wav"),
        "emotions": EMOTIONS,
        "language": "en",
        "settings": {"seed": 1},
        **changes,
    }
    datadir.write_data_dir(tmp_path / "all", **arguments)
    return tmp_path / "all"


def test_tables_are_sorted_in_c_order_and_end_with_a_newline(tmp_path):
    data = _write(tmp_path)
    assert (data / "utt2emo").read_bytes() == b"B_3 happy\na_2 angry\nb_1 happy\n"
    assert (data / "spk2utt").read_text() == "Ses01F b_1\nSes01M B_3 a_2\n"
    assert (data / "utt2dur").read_text() == "B_3 1.2500\na_2 1.2500\nb_1 1.2500\n"
    assert (data / "emotions").read_text() == "angry\nhappy\n"
    assert (data / "language").read_text() == "en\n"
    assert (data / ".done").is_file() and not (data / "partial").exists()


def test_an_empty_text_leaves_the_key_alone_and_blanks_are_single(tmp_path):
    data = _write(tmp_path)
    assert (data / "text").read_text() == "B_3 [LAUGHTER] Yes.\na_2\nb_1 Good morning.\n"
    assert datadir.read_table(data / "text", allow_empty=True)["a_2"] == ""
    with pytest.raises(UserError, match="text:2: a_2 has no value"):
        datadir.read_table(data / "text")


def test_tables_of_the_user_outlive_the_recipes_own(tmp_path):
    data = _write(tmp_path)
    (data / "utt2age").write_text("b_1 30\n")
    (data / "notes").write_text("not a table")
    _write(tmp_path, [replace(r, gender="m", speaker="x") for r in _records(tmp_path / "wav")])
    assert (data / "utt2age").read_text() == "b_1 30\n"
    assert (data / "utt2gender").read_text() == "B_3 m\na_2 m\nb_1 m\n"
    assert not (data / "notes").exists()
    assert [path.name for path in datadir.user_tables(data)] == ["utt2age"]


def test_c_order_is_byte_order_also_beyond_ascii(tmp_path):
    keys = ["é", "z", "Z", "語", "a_", "a1"]
    datadir.write_table(tmp_path / "t", dict.fromkeys(keys, "x"))
    lines = (tmp_path / "t").read_bytes().splitlines()
    assert lines == sorted(lines) and len(lines) == 6


@pytest.mark.parametrize("name", ["with blank", "quo'te", 'quo"te', "Zoë", "a|b |", "$HOME;*"])
def test_paths_may_hold_anything_but_a_line_end(tmp_path, name):
    data = _write(tmp_path, _records(tmp_path / name))
    assert datadir.read_table(data / "wav.scp")["a_2"] == str(tmp_path / name / "a_2.wav")
    assert datadir.validate_data_dir(data) == 3


@pytest.mark.parametrize("utt", ["a b", "", "a\tb", "a\u00a0b"])
def test_an_id_with_blanks_is_refused_and_nothing_is_written(tmp_path, utt):
    records = _records(tmp_path / "wav")
    records[0] = replace(records[0], utt_id=utt)
    with pytest.raises(UserError, match="b_1.wav.*empty or holds blanks"):
        _write(tmp_path, records)
    assert [p.name for p in tmp_path.iterdir()] == ["wav"]


def test_a_repeated_id_names_both_files(tmp_path):
    records = _records(tmp_path / "wav")
    records[1] = replace(records[1], utt_id="b_1")
    with pytest.raises(UserError, match=r"a_2\.wav.*'b_1' is also that of .*b_1\.wav"):
        _write(tmp_path, records)


def test_a_label_outside_the_emotions_is_named(tmp_path):
    with pytest.raises(UserError, match="label 'angry' is not one of"):
        _write(tmp_path, emotions=["happy", "sad"])


def test_a_path_of_two_lines_or_not_in_utf8_is_refused(tmp_path):
    for path in ("/x/a\nb.wav", "/x/\udcff.wav", "relative.wav"):
        records = [replace(_records(tmp_path / "wav")[0], wav=path)]
        with pytest.raises(UserError, match="not an absolute path of one line"):
            _write(tmp_path, records)


def test_many_faults_are_cut_to_the_first_few_and_a_number(tmp_path):
    record = _records(tmp_path / "wav")[0]
    records = [replace(record, utt_id=f"u{i}", emotion="bored") for i in range(12)]
    with pytest.raises(UserError) as err:
        _write(tmp_path, records)
    assert str(err.value).count("bored") == 5
    assert "and 7 more" in str(err.value)


def test_a_failed_write_keeps_the_older_directory(tmp_path):
    data = _write(tmp_path)
    before = {p.name: p.read_bytes() for p in data.iterdir()}
    gone = replace(_records(tmp_path / "wav")[0], wav=tmp_path / "gone.wav")
    with pytest.raises(UserError, match="no such file: .*gone.wav"):
        _write(tmp_path, [gone])
    assert {p.name: p.read_bytes() for p in data.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "wav"]


def test_what_is_missing_stands_in_partial(tmp_path):
    data = _write(tmp_path, partial=["Ses01: 3 found,\n 4 expected"])
    assert datadir.read_lines(data / "partial") == ["Ses01: 3 found, 4 expected"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\na 2\n", ":2: a stands here a second time"),
        (b"a 1\nb\n", ":2: b has no value"),
        (b"a 1\n\nb 2\n", ":2: no key"),
        (b"a 1\nb \xff\n", ":2: not UTF-8"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match=message):
        datadir.read_table(tmp_path / "t")


def test_a_missing_table_says_which_stage_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"utt2spk: no such file.*run.sh --stage 1"):
        datadir.read_table(tmp_path / "utt2spk")


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("utt2emo", "a_2 angry\nB_3 happy\nb_1 happy\n", "not in C order"),
        ("utt2emo", "B_3 happy\na_2 angry\n", "utt2emo: b_1 is missing, but stands in utt2spk"),
        ("utt2emo", "B_3 happy\na_2 sad\nb_1 happy\n", "a_2 is 'sad'"),
        ("utt2dur", "B_3 1.0\na_2 0.0\nb_1 1.0\n", "a_2 is '0.0', expected seconds"),
        ("utt2dur", "B_3 1.0\na_2 long\nb_1 1.0\n", "a_2 is 'long', expected seconds"),
        ("utt2gender", "B_3 m\na_2 man\nb_1 f\n", "a_2 is 'man', expected f, m or u"),
        ("utt2gender", "B_3 m\na_2 f\nb_1 f\n", "a_2 is f, but speaker Ses01M is m"),
        ("utt2session", "B_3 S1\na_2 S2\nb_1 S1\n", "a_2 is S2, but speaker Ses01M is S1"),
        ("spk2utt", "Ses01F b_1\nSes01M a_2\n", "not the inverse"),
        ("wav.scp", "B_3 /no/b.wav\na_2 /no/c.wav\nb_1 /no/d.wav\n", "no such file: /no/b.wav"),
        ("language", "en\nde\n", "expected one word"),
    ],
)
def test_the_validator_finds_a_table_that_was_spoilt(tmp_path, table, content, message):
    data = _write(tmp_path)
    assert datadir.validate_data_dir(data) == 3
    (data / table).write_text(content)
    with pytest.raises(UserError, match=message):
        datadir.validate_data_dir(data)
