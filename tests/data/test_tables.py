import re
import subprocess
from dataclasses import replace

import pytest

from ser.data import tables as datadir
from ser.data.tables import Utterance
from ser.errors import UserError
from ser.stage import MARKER, mark_done

EMOTIONS = ["angry", "happy"]


def _records(folder):
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for utt, speaker, gender, emotion, text in [
        ("F_b", "F", "f", "happy", "Good  morning."),
        ("M_a", "M", "m", "angry", ""),
        ("M_B", "M", "m", "happy", "[LAUGHTER] Yes."),
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
    assert (data / "utt2emo").read_bytes() == b"F_b happy\nM_B happy\nM_a angry\n"
    assert (data / "spk2utt").read_text() == "F F_b\nM M_B M_a\n"
    assert (data / "utt2dur").read_text() == "F_b 1.2500\nM_B 1.2500\nM_a 1.2500\n"
    assert (data / "spk2gender").read_text() == "F f\nM m\n"
    assert (data / "emotions").read_text() == "angry\nhappy\n"
    assert (data / "language").read_text() == "en\n"
    assert (data / ".done").is_file() and not (data / "partial").exists()


@pytest.mark.parametrize(
    ("speakers", "ids"),
    [
        ({"A_1": "A", "B_1": "B"}, ["A_1", "B_1"]),
        ({"A_1": "A", "A_2": "B"}, ["A_1", "B-A_2"]),  # IEMOCAP: the dialog is that of a partner
        ({"x1": "A", "x2": "B", "x0": "B"}, ["A-x1", "B-x0", "B-x2"]),
        ({"10a": "1", "100": "10", "1_c": "1"}, ["1-10a", "1-1_c", "10-100"]),
        ({"x": "a", "y": "a-b"}, ["a!x", "a-b!y"]),
        ({"é1": "é", "a": "z"}, ["z-a", "é1"]),
    ],
)
def test_ids_begin_with_the_speaker_s_so_that_kaldi_finds_utt2spk_sorted(tmp_path, speakers, ids):
    record = _records(tmp_path / "wav")[0]
    records = [replace(record, utt_id=utt, speaker=spk) for utt, spk in speakers.items()]
    data = _write(tmp_path, records)
    own = datadir.own_ids(data)
    assert list(own) == ids and {own[utt] for utt in ids} == speakers.keys()
    text = (data / "utt2spk").read_text()
    command = ["sort", "-k2", data / "utt2spk"]
    done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, check=True)
    assert done.stdout == text
    wrong = zip(own, reversed(datadir.read_table(data / "utt2spk").values()), strict=True)
    datadir.write_table(data / "utt2spk", dict(wrong))
    with pytest.raises(UserError, match="not in the order of speakers"):
        datadir.validate_data_dir(data)


def test_a_gender_that_is_not_known_leaves_no_spk2gender(tmp_path):
    records = _records(tmp_path / "wav")
    data = _write(tmp_path, [replace(records[0], gender="u"), *records[1:]])
    assert not (data / "spk2gender").exists()


def test_an_empty_text_leaves_the_key_alone_and_blanks_are_single(tmp_path):
    data = _write(tmp_path)
    assert (data / "text").read_text() == "F_b Good morning.\nM_B [LAUGHTER] Yes.\nM_a\n"
    assert datadir.read_table(data / "text", allow_empty=True)["M_a"] == ""
    with pytest.raises(UserError, match="text:3: M_a has no value"):
        datadir.read_table(data / "text")


def test_tables_of_the_user_outlive_the_recipes_own(tmp_path):
    data = _write(tmp_path)
    (data / "utt2age").write_text("F_b 30\n")
    (data / "notes").write_text("not a table")
    _write(tmp_path, [replace(r, gender="m", speaker="x") for r in _records(tmp_path / "wav")])
    assert (data / "utt2age").read_text() == "F_b 30\n"
    assert (data / "utt2gender").read_text() == "x-F_b m\nx-M_B m\nx-M_a m\n"
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
    assert datadir.read_table(data / "wav.scp")["M_a"] == str(tmp_path / name / "M_a.wav")
    assert datadir.validate_data_dir(data) == 3


@pytest.mark.parametrize("utt", ["a b", "", "a\tb", "a\u00a0b"])
def test_an_id_with_blanks_is_refused_and_nothing_is_written(tmp_path, utt):
    records = _records(tmp_path / "wav")
    records[0] = replace(records[0], utt_id=utt)
    with pytest.raises(UserError, match="F_b.wav.*empty or holds blanks"):
        _write(tmp_path, records)
    assert [p.name for p in tmp_path.iterdir()] == ["wav"]


def test_a_repeated_id_names_both_files(tmp_path):
    records = _records(tmp_path / "wav")
    records[1] = replace(records[1], utt_id="F_b")
    with pytest.raises(UserError, match=r"M_a\.wav.*'F_b' is also that of .*F_b\.wav"):
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
        (b"\0\0\0\0", ": holds zero bytes, .*; remove it; make it again: ./run.sh --stage 1"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match=message):
        datadir.read_table(tmp_path / "t")


def test_a_missing_table_says_which_stage_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"utt2spk: no such file; make it again: ./run.sh --sta"):
        datadir.read_table(tmp_path / "utt2spk")
    mark_done(tmp_path, {})  # the stage would pass it over
    marker = re.escape(str(tmp_path / MARKER))
    with pytest.raises(UserError, match=rf"no such file; remove {marker}, then make it again: "):
        datadir.read_lines(tmp_path / "fold/test")


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("utt2emo", "F_b happy\nM_a angry\nM_B happy\n", "not in C order"),
        (
            "utt2emo",
            "M_B happy\nM_a angry\n",
            "utt2emo: F_b is missing, but stands in utt2spk",
        ),
        ("utt2emo", "F_b happy\nM_B happy\nM_a sad\n", "M_a is 'sad'"),
        (
            "utt2dur",
            "F_b 1.0\nM_B 1.0\nM_a 0.0\n",
            "M_a is '0.0', expected seconds",
        ),
        (
            "utt2dur",
            "F_b 1.0\nM_B 1.0\nM_a long\n",
            "M_a is 'long', expected seconds",
        ),
        (
            "utt2gender",
            "F_b f\nM_B m\nM_a man\n",
            "M_a is 'man', expected f, m or u",
        ),
        (
            "utt2gender",
            "F_b f\nM_B m\nM_a f\n",
            "M_a is f, but speaker M is m",
        ),
        (
            "utt2session",
            "F_b S1\nM_B S1\nM_a S2\n",
            "M_a is S2, but speaker M is S1",
        ),
        ("spk2utt", "F F_b\nM M_a\n", "not the inverse"),
        (
            "wav.scp",
            "F_b /no/d.wav\nM_B /no/b.wav\nM_a /no/c.wav\n",
            "no such file: /no/b.wav",
        ),
        ("language", "en\nde\n", "expected one word"),
    ],
)
def test_the_validator_finds_a_table_that_was_spoilt(tmp_path, table, content, message):
    data = _write(tmp_path)
    assert datadir.validate_data_dir(data) == 3
    (data / table).write_text(content)
    with pytest.raises(UserError, match=message):
        datadir.validate_data_dir(data)
