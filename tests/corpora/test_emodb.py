import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser.corpora import prepare
from ser.data.tables import read_lines, read_table
from ser.errors import UserError

SPEC = prepare.load_spec("emodb")
LETTER = {emotion: letter for letter, emotion in SPEC.label_map.items()}
FOUR = SPEC.emotion_sets["4"]
SEVEN = SPEC.emotion_sets["7"]


def _names(emotion):
    """As many names as corpus.yaml counts; speakers as it says, or in turn where it does not."""
    table = SPEC.counts.speaker
    total = SPEC.counts.emotion[emotion]
    speakers = [s for s, row in table.items() for _ in range(row.get(emotion, 0))]
    speakers = speakers or [list(table)[i % len(table)] for i in range(total)]
    seen = Counter()
    for speaker in speakers:
        take, sentence = divmod(seen[speaker], len(SPEC.texts))
        seen[speaker] += 1
        yield f"{speaker}{list(SPEC.texts)[sentence]}{LETTER[emotion]}{'abc'[take]}"


def _write(folder, emotions):
    folder.mkdir(parents=True)
    first = folder / "03a01Fa.wav"
    soundfile.write(first, np.sin(np.arange(800) / 10), 16000, subtype="PCM_16")
    for emotion in emotions:
        for name in _names(emotion):
            (folder / f"{name}.wav").write_bytes(first.read_bytes())
    return folder


@pytest.fixture
def four(tmp_path):
    return _write(tmp_path / "emodb/wav", FOUR)


def _prepare(tmp_path, corpus_dir, **options):
    prepare.prepare("emodb", tmp_path / "data", corpus_dir, **options)
    return tmp_path / "data/emodb/all"


def test_a_file_name_gives_speaker_sentence_emotion_and_pseudo_session(tmp_path, four):
    data = _prepare(tmp_path, four)
    assert read_table(data / "utt2spk")["03a01Fa"] == "03"
    assert read_table(data / "utt2emo")["03a01Fa"] == "happy"
    assert read_table(data / "utt2gender")["03a01Fa"] == "m"
    assert read_table(data / "utt2gender")["16b01Wa"] == "f"
    assert read_table(data / "text")["03a04Wa"] == "Heute abend könnte ich es ihm sagen."
    assert read_table(data / "utt2session")["03a01Fa"] == "Ses01"
    assert read_table(data / "utt2dur")["03a01Fa"] == "0.0500"
    assert read_lines(data / "emotions") == ["angry", "happy", "sad", "neutral"]
    assert read_lines(data / "language") == ["de"]
    assert len(read_table(data / "wav.scp")) == 339


def test_seven_emotions_are_535_files_and_keep_the_four_classes_first(tmp_path):
    data = _prepare(tmp_path, _write(tmp_path / "wav", SEVEN), emotions="7")
    assert len(read_table(data / "wav.scp")) == 535
    emotions = read_lines(data / "emotions")
    assert emotions[:4] == FOUR and sorted(emotions[4:]) == ["bored", "disgust", "fear"]


def test_with_four_emotions_the_other_files_may_be_absent_or_are_left_out(tmp_path, capsys):
    data = _prepare(tmp_path, _write(tmp_path / "wav", SEVEN))
    assert len(read_table(data / "wav.scp")) == 339
    assert "left out: 81 utterances labelled L" in capsys.readouterr().out


def test_seven_emotions_from_the_files_of_four_say_which_are_short(tmp_path, four):
    with pytest.raises(UserError, match=r"emotion bored: 0 found, 81 expected"):
        _prepare(tmp_path, four, emotions="7")


@pytest.mark.parametrize("given", ["emodb", "."])
def test_the_folder_above_wav_is_mended_and_said(tmp_path, four, given, capsys):
    _prepare(tmp_path, tmp_path / given)
    assert f"the corpus lies in {tmp_path}/emodb/wav; using that" in capsys.readouterr().out


def test_the_wrong_folder_is_an_error(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="in it; found no files: give"):
        _prepare(tmp_path, tmp_path / "x")


def test_a_missing_file_is_found_by_its_speaker_and_class(tmp_path, four):
    (four / "03a01Fa.wav").unlink()
    with pytest.raises(UserError, match="speaker 03 happy: 6 found, 7 expected"):
        _prepare(tmp_path, four)
    data = _prepare(tmp_path, four, allow_partial=True)
    assert "speaker 03 happy: 6 found, 7 expected" in read_lines(data / "partial")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("03a01F a", "speaker 03 happy: 6 found, 7 expected"),
        ("03a01F", "speaker 03 happy: 6 found, 7 expected"),
        ("99a01Fa", "speaker 99: in no session of corpus.yaml"),
        ("03a03Fa", "03a03Fa.wav: text 'a03' is not in texts"),
        ("03a01Xa", "03a01Xa.wav: label 'X' is not in label_map"),
    ],
)
def test_a_name_that_is_not_emodbs_is_refused(tmp_path, four, name, message):
    (four / "03a01Fa.wav").rename(four / f"{name}.wav")
    with pytest.raises(UserError, match=message):
        _prepare(tmp_path, four)


def test_dot_files_and_other_files_are_ignored(tmp_path, four):
    (four / "._03a01Fa.wav").write_bytes(b"\0\5\x16\7")
    (four / "erkennung.txt").write_text("x")
    assert len(read_table(_prepare(tmp_path, four) / "wav.scp")) == 339


def test_other_emotions_than_those_of_stage_1_are_noticed(tmp_path, four):
    _prepare(tmp_path, four)
    data_dir = tmp_path / "data"
    prepare.require_same_options("emodb", data_dir, "4")
    prepare.require_same_options("emodb", tmp_path / "no stage 1 here", "7")
    with pytest.raises(UserError, match="--emotions 7: .* was made with angry,happy,sad,neutral"):
        prepare.require_same_options("emodb", data_dir, "7")


def test_every_pseudo_session_is_one_woman_and_one_man():
    pairs = [[SPEC.speakers[s] for s in members] for members in SPEC.sessions.values()]
    assert pairs == [["f", "m"]] * 5
    assert len({s for members in SPEC.sessions.values() for s in members}) == 10


def test_counts_are_those_of_the_published_corpus():
    assert sum(SPEC.counts.emotion.values()) == 535
    assert sum(SPEC.counts.emotion[e] for e in FOUR) == SPEC.counts.total == 339


@pytest.mark.skipif(
    "SER_TEST_EMODB" not in os.environ, reason="set SER_TEST_EMODB to EmoDB's folder of wav files"
)
def test_the_real_corpus_is_read(tmp_path):
    data = _prepare(tmp_path, Path(os.environ["SER_TEST_EMODB"]))
    assert read_table(data / "utt2dur")["03a01Fa"] == "1.8982"
