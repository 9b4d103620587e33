import os
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import soundfile

from ser.corpora import mini, prepare
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.stage import read_marker
from tests.support import ROOT

pytestmark = pytest.mark.slow


def _contents(corpus):
    return {p.relative_to(corpus): p.read_bytes() for p in corpus.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    prepare.prepare("mini", data)
    return data / "mini/all"


def test_a_full_disk_leaves_nothing_and_says_what_it_is(tmp_path):
    command = f"ulimit -f 1; exec '{sys.executable}' -m ser data --corpus mini"
    # half a .pyc would be left for others to stumble over
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {command} --data-dir '{tmp_path}/data'"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*Ses01.*\.wav: File too large.*\n", done.stderr), done.stderr
    assert not list((tmp_path / "data").rglob("*.wav"))


@pytest.fixture(scope="module")
def corpus(data):
    return data.parent / "corpus"


@pytest.fixture(scope="module")
def tables(data):
    names = (
        "wav.scp",
        "text",
        "utt2spk",
        "utt2emo",
        "utt2session",
        "utt2gender",
        "utt2dur",
        "utt2orig",
    )
    return {name: read_table(data / name, allow_empty=True) for name in names}


@pytest.fixture(scope="module")
def audio(tables):
    return {utt: soundfile.read(wav) for utt, wav in tables["wav.scp"].items()}


def test_ten_speakers_in_five_sessions_speak_four_hundred_utterances(data, tables):
    assert read_lines(data / "emotions") == ["angry", "happy", "sad", "neutral"]
    assert Counter(tables["utt2spk"].values()) == dict.fromkeys(
        [f"Ses0{n}{g}" for n in range(1, 6) for g in "FM"], 40
    )
    classes = Counter(tables["utt2emo"].values())
    assert classes == {"angry": 100, "happy": 100, "sad": 80, "neutral": 120}


def test_another_process_makes_the_same_bytes(corpus, tmp_path):
    command = [sys.executable, "-m", "ser", "data", "--corpus", "mini"]
    command += ["--data-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    assert _contents(tmp_path / "mini/corpus") == _contents(corpus)


def test_another_seed_makes_another_corpus_in_the_same_place(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "SESSIONS", 1)
    mini.make(tmp_path / "c", seed=0)
    zero = _contents(tmp_path / "c")
    mini.make(tmp_path / "c", seed=1)
    one = _contents(tmp_path / "c")
    assert zero.keys() == one.keys()
    wavs = [p for p in zero if p.suffix == ".wav" and not p.name.startswith(".")]
    assert len(wavs) == 88 and all(zero[p] != one[p] for p in wavs)


def test_a_corpus_made_with_the_same_settings_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "SESSIONS", 1)
    mini.make(tmp_path / "c", seed=0)
    monkeypatch.setattr(mini, "_make_session", lambda *_: pytest.fail("made again"))
    mini.make(tmp_path / "c", seed=0)


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path):
    for name in ("IEMOCAP_full_release", "other"):
        (tmp_path / name / "Session1").mkdir(parents=True)
        with pytest.raises(UserError, match=f"{name}: holds something other than the mini"):
            mini.make(tmp_path / name, seed=0)
        assert (tmp_path / name / "Session1").is_dir()


def test_speech_is_16_khz_mono_16_bit_and_neither_clipped_nor_faint(tables, audio):
    for utt, wav in tables["wav.scp"].items():
        info = soundfile.info(wav)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        peak = np.abs(audio[utt][0]).max()
        assert 0.02 < peak < 0.99
    durations = [float(d) for d in tables["utt2dur"].values()]
    assert 1.5 < np.mean(durations) < 2.0 and min(durations) > 0.5 and max(durations) < 5


def test_the_layout_is_iemocaps_oddities_included(corpus):
    labels = (corpus / "Session2/dialog/EmoEvaluation/Ses02F_script01_1.txt").read_bytes()
    assert labels.startswith(b"% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n[")
    assert b"\r" not in labels
    assert b"\tSes02F_script01_1_F000\t" in labels and b"\txxx\t" in labels
    assert b"C-E2:\t" in labels and b"; dom  " in labels and b"dom  ;" in labels
    text = (corpus / "Session2/dialog/transcriptions/Ses02F_script01_1.txt").read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n") > 40
    assert b"Ses02F_script01_1_MXX0 [" in text and b"\r\nM: Yeah.\r\n" in text
    assert len(list(corpus.rglob("._*.txt"))) == 10 and len(list(corpus.rglob("._*.wav"))) == 10


def test_both_speakers_of_a_session_speak_in_each_dialog(tables):
    speakers = defaultdict(set)
    for utt, speaker in tables["utt2spk"].items():
        speakers[tables["utt2orig"][utt].rpartition("_")[0]].add(speaker)
    assert speakers["Ses03F_script01_1"] == speakers["Ses03M_impro01"] == {"Ses03F", "Ses03M"}


def test_scripted_sentences_are_shared_by_all_and_carry_several_emotions(tables):
    emotions, speakers = defaultdict(set), defaultdict(set)
    for utt, text in tables["text"].items():
        if "script" in utt:
            sentence = text.split("] ")[-1]
            emotions[sentence].add(tables["utt2emo"][utt])
            speakers[sentence].add(tables["utt2spk"][utt])
    # Two of the 22 scripted turns of a speaker are xxx or fru, so not everyone is here.
    assert set(mini.SCRIPTED) <= set(speakers)
    assert all(len(speakers[sentence]) >= 8 for sentence in mini.SCRIPTED)
    assert all(len(emotions[sentence]) >= 3 for sentence in mini.SCRIPTED)


def test_sentences_are_short_and_differ():
    sentences = mini.SCRIPTED + mini.IMPROVISED
    assert len(set(sentences)) == len(sentences) == 60
    assert all(3 <= len(sentence.split()) <= 10 for sentence in sentences)
    assert sum("'" in sentence for sentence in sentences) >= 10


def test_some_transcripts_have_tags_and_one_has_nothing_else(tables):
    texts = tables["text"].values()
    assert [text for text in texts if not text.split("]")[-1]] == ["[LAUGHTER]"]
    assert 8 < sum("[" in text for text in texts) < 50


def test_emotions_differ_in_level_and_rate_and_overlap(tables, audio):
    level, rate = defaultdict(list), defaultdict(list)
    for utt, (samples, _) in audio.items():
        emotion = tables["utt2emo"][utt]
        level[emotion].append(10 * np.log10(np.mean(samples**2)))
        rate[emotion].append(len(tables["text"][utt]) / len(samples) * 16000)
    mean = {emotion: np.mean(values) for emotion, values in level.items()}
    assert mean["sad"] + 3 < mean["neutral"] < mean["happy"] - 2 < mean["angry"] - 4
    assert np.mean(rate["sad"]) < np.mean(rate["neutral"]) < np.mean(rate["angry"])
    assert max(level["neutral"]) > min(level["angry"])
    assert max(level["sad"]) > min(level["neutral"])


def test_stage_1_skips_what_is_done_and_follows_the_seed(data, capsys, monkeypatch):
    monkeypatch.setattr(mini, "_make_session", lambda *_: pytest.fail("made again"))
    before = read_marker(data)
    prepare.prepare("mini", data.parents[1])
    assert "already done (400 utterances)" in capsys.readouterr().out
    assert read_marker(data) == before


def test_every_voice_of_the_corpus_is_one_that_the_audit_knows(tmp_path, monkeypatch):
    spoken = set()

    def speak(_turn, voice, _generator):
        spoken.add(voice)
        return np.ones(1600, dtype=np.int16)

    monkeypatch.setattr(mini, "speak", speak)
    mini.make(tmp_path / "c", seed=0)
    assert spoken == mini.voices() and len(spoken) == 10


def test_a_corpus_whose_voices_the_encoder_was_pretrained_on_is_refused(tmp_path, monkeypatch):
    (tmp_path / "heard.json").write_text('{"voices": ["en-us+m7", "en-us+f3", "en-us+m1"]}')
    monkeypatch.setattr(mini, "ENCODER", tmp_path)
    message = r"heard.json: .* on voices of the mini corpus, en-us\+f3, en-us\+m1, .*make mini-enc"
    with pytest.raises(UserError, match=message):
        mini.make(tmp_path / "corpus", seed=0)
    assert not (tmp_path / "corpus").exists()


def test_stage_1_says_that_the_encoder_heard_none_of_the_voices(tmp_path, capsys):
    prepare.prepare("mini", tmp_path)
    assert "checked: none of the 10 voices is among the 60 that the encoder was" in (
        capsys.readouterr().out
    )
