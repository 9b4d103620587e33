"""ser/data/prepare.py and ser dump: stage 3 as a whole, on a corpus of a few short tones."""

import os
import re
import signal
import struct
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import soundfile

from ser.data.prepare import prepare_dump, require_current
from ser.data.tables import (
    Utterance,
    read_lines,
    read_table,
    write_data_dir,
    write_lines,
    write_table,
)
from ser.errors import UserError
from ser.stage import MARKER, mark_done
from tests.support import ROOT

EMOTIONS = ("angry", "happy")
SPEAKERS = ("Ses01F", "Ses01M", "Ses02F", "Ses02M")


def tone(frequency, num_samples=1600, rate=16000):
    """(num_samples,) int16 sine."""
    wave = np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate)
    return (8000 * wave).astype(np.int16)


def make_lang(directory, utts):
    directory.mkdir()
    write_table(directory / "text.units", {utt: "S0 V0" for utt in utts[:-1]} | {utts[-1]: ""})
    (directory / "units.txt").write_text("<blank> 0\nS0 1\nV0 2\n")
    mark_done(directory, {})


@pytest.fixture
def corpus(tmp_path):
    """data/ and wav/ of four speakers with one utterance per emotion, all 16-kHz mono PCM16."""
    (tmp_path / "wav").mkdir()
    records = []
    for number, speaker in enumerate(SPEAKERS):
        for emotion in EMOTIONS:
            utt = f"{speaker}_{emotion}"
            wav = tmp_path / "wav" / f"{utt}.wav"
            soundfile.write(wav, tone(300 + 50 * len(records), 1600 + 10 * number), 16000)
            records.append(
                Utterance(utt, wav, "no", speaker, emotion, speaker[-1].lower(), speaker[:5], 0.1)
            )
    write_data_dir(tmp_path / "data" / "all", records, EMOTIONS, "en", {})
    make_lang(tmp_path / "data" / "lang", [r.utt_id for r in records])
    return tmp_path


def dump(corpus, token_type="tagged_class", feats_type="raw", protocol="strict", nj=1):
    prepare_dump(corpus / "data", corpus / "dump", token_type, feats_type, protocol, nj)
    return corpus / "dump"


def snapshot(directory):
    """Every file below ``directory`` with its time: equal snapshots mean nothing was written."""
    return {str(p): p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def wav_of(corpus, utt="Ses01F_angry"):
    return corpus / "wav" / f"{utt}.wav"


def move_wav(corpus, name, utt="Ses01F_angry"):
    """Give one recording another path below ``corpus``; returns it."""
    path = corpus / name
    path.parent.mkdir(parents=True, exist_ok=True)
    wav_of(corpus, utt).rename(path)
    wavs = read_table(corpus / "data/all/wav.scp")
    write_table(corpus / "data/all/wav.scp", {**wavs, utt: path})
    return path


def test_every_table_that_training_reads_is_there(corpus):
    directory = dump(corpus)
    for name in ("utt2emo", "utt2spk", "utt2gender", "utt2session", "emotions", "language"):
        assert (directory / name).read_text() == (corpus / "data/all" / name).read_text()
    assert (directory / "text").read_text() == (corpus / "data/lang/text.units").read_text()
    assert (directory / "units.txt").read_text() == (corpus / "data/lang/units.txt").read_text()
    assert read_table(directory / "utt2num_samples")["Ses01M_happy"] == "1610"
    assert read_lines(directory / "folds/strict/folds") == list(SPEAKERS)
    assert (directory / MARKER).exists()
    assert not (directory / "partial").exists()


def test_a_partial_corpus_stays_marked_as_partial(corpus, capsys):
    write_lines(corpus / "data/all/partial", ["Session2: 3 wavs missing"])
    directory = dump(corpus)
    assert read_lines(directory / "partial") == ["Session2: 3 wavs missing"]
    assert "partial corpus: 1 lines in partial" in capsys.readouterr().out
    (corpus / "data/all/partial").unlink()
    assert not (dump(corpus) / "partial").exists()


def test_audio_that_is_right_already_is_referenced_not_copied(corpus, capsys):
    directory = dump(corpus)
    assert read_table(directory / "wav.scp") == read_table(corpus / "data/all/wav.scp")
    assert not list(directory.rglob("*.ark"))
    assert "8 referenced, 0 copied to arks (0 resampled, 0 mixed" in capsys.readouterr().out


def rewrite(path, samples, rate=16000, subtype="PCM_16"):
    soundfile.write(path, samples, rate, subtype=subtype, format="WAV")


def test_other_audio_is_converted_and_comes_back_from_the_same_scp(corpus, capsys):
    one = tone(500, 4800, 48000)
    rewrite(wav_of(corpus, "Ses01F_angry"), one, 48000)
    rewrite(wav_of(corpus, "Ses01F_happy"), np.stack([tone(600)] * 2, axis=1))
    rewrite(wav_of(corpus, "Ses01M_angry"), tone(700) / 32768, subtype="FLOAT")
    directory = dump(corpus)
    out = capsys.readouterr().out
    assert "5 referenced, 3 copied to arks (1 resampled, 1 mixed" in out

    wavs = kaldiio.load_scp(str(directory / "wav.scp"))  # as ESPnet's type kaldi_ark does
    for utt, samples in read_table(directory / "utt2num_samples").items():
        rate, speech = wavs[utt]
        assert (rate, speech.dtype, speech.shape) == (16000, np.int16, (int(samples),))
    np.testing.assert_array_equal(wavs["Ses01F_happy"][1], tone(600))
    np.testing.assert_array_equal(wavs["Ses01M_angry"][1], tone(700))


@pytest.mark.parametrize(
    "name, referenced",
    [
        ("mit blank.wav", True),
        ('quote\'s "n" Käse 音.wav', True),
        ("a [draft] b.wav", True),
        ("take:12", False),  # to kaldiio: the file "take" from byte 12
        ("slice[3:4]", False),  # the samples 3 and 4 of "slice"
        ("pipe.wav |", False),
        ("take:x.wav", True),
        ("brackets[[1]].wav", False),
    ],
)
def test_a_path_is_referenced_only_if_kaldiio_reads_the_same_audio(corpus, name, referenced):
    path = move_wav(corpus, name)
    directory = dump(corpus)
    assert (read_table(directory / "wav.scp")["Ses01F_angry"] == str(path)) is referenced
    rate, speech = kaldiio.load_scp(str(directory / "wav.scp"))["Ses01F_angry"]
    assert rate == 16000
    np.testing.assert_array_equal(speech, tone(300))


def test_a_path_that_looks_like_a_command_is_never_run(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    move_wav(corpus, "x; touch canary |")
    dump(corpus)
    assert not (corpus / "canary").exists()


def test_headers_that_only_libsndfile_understands_are_read_correctly_all_the_same(corpus):
    soundfile.write(wav_of(corpus, "Ses01F_angry"), tone(300), 16000, format="WAVEX")
    raw = wav_of(corpus, "Ses01F_happy").read_bytes()
    odd = raw[:36] + b"LIST" + struct.pack("<I", 5) + b"INFOx\0" + raw[36:]
    wav_of(corpus, "Ses01F_happy").write_bytes(odd)
    wavs = kaldiio.load_scp(str(dump(corpus) / "wav.scp"))
    np.testing.assert_array_equal(wavs["Ses01F_angry"][1], tone(300))
    np.testing.assert_array_equal(wavs["Ses01F_happy"][1], tone(350))


def test_all_bad_audio_is_listed_before_anything_is_written(corpus):
    wav_of(corpus, "Ses01F_angry").write_bytes(b"")
    rewrite(wav_of(corpus, "Ses02M_happy"), np.zeros(1600))
    with pytest.raises(UserError) as caught:
        dump(corpus, nj=2)
    message = str(caught.value)
    assert "2 of 8 utterances have audio that cannot be used" in message
    assert "Ses01F_angry.wav: empty (0 bytes)" in message
    assert "Ses02M_happy.wav: silent" in message
    assert "nothing was written" in message and "ignore in corpus.yaml" in message
    assert not (corpus / "dump").exists()


def test_only_the_first_ten_bad_files_are_listed(corpus, monkeypatch):
    monkeypatch.setattr("ser.data.prepare.BAD_FILES_SHOWN", 3)
    for wav in (corpus / "wav").iterdir():
        wav.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        dump(corpus)
    assert str(caught.value).count("empty (0 bytes)") == 3
    assert "... and 5 more" in str(caught.value)


@pytest.mark.parametrize("protocol", ["strict", "paper", "session"])
def test_a_second_run_writes_nothing_and_says_so(corpus, capsys, protocol):
    before = snapshot(dump(corpus, "tagged_class", "fbank", protocol))
    capsys.readouterr()
    assert snapshot(dump(corpus, "tagged_class", "fbank", protocol)) == before
    assert "already done" in capsys.readouterr().out


def test_a_second_token_type_joins_the_first_without_touching_audio_or_folds(corpus):
    before = snapshot(dump(corpus))
    make_lang(corpus / "data/lang_char", list(read_table(corpus / "data/all/utt2spk")))
    after = snapshot(dump(corpus, "char"))
    directory = corpus / "dump"
    new = {str(directory / name) for name in ("text_char", "units_char.txt")}
    assert new == after.keys() - before.keys()
    for part in ("wav", "folds", "wav.scp", "utt2hash"):
        assert all(after[p] == t for p, t in before.items() if p.startswith(str(directory / part)))
    dump(corpus)  # the first type again
    assert snapshot(directory) == after


@pytest.mark.parametrize(
    "name", ["wav.scp", "utt2num_samples", "utt2emo", "text", "folds/strict/Ses01F/test"]
)
def test_a_lost_file_is_made_again_once_the_advice_is_followed(corpus, name):
    path = dump(corpus) / name
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="no such file; remove .*, then make it again") as raised:
        read_lines(path)
    os.unlink(re.search("remove (.*), then", str(raised.value))[1])
    dump(corpus)
    assert path.read_bytes() == content


def test_changed_targets_are_copied_again(corpus):
    dump(corpus)
    targets = dict.fromkeys(read_table(corpus / "data/all/utt2spk"), "V0")
    write_table(corpus / "data/lang/text.units", targets)
    assert read_table(dump(corpus) / "text") == targets


def test_a_run_that_stops_while_targets_are_replaced_is_not_done(corpus, monkeypatch):
    directory = dump(corpus)
    utts = read_table(corpus / "data/all/utt2spk")
    write_table(corpus / "data/lang/text.units", dict.fromkeys(utts, "N0"))
    monkeypatch.setattr("ser.data.prepare.write_once", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dump(corpus)
    assert not (directory / MARKER).exists()


def test_other_labels_take_away_every_fold_and_target_made_from_the_old_ones(corpus):
    make_lang(corpus / "data/lang_char", list(read_table(corpus / "data/all/utt2spk")))
    dump(corpus, "char", protocol="paper")
    emotions = read_table(corpus / "data/all/utt2emo")
    swapped = {u: {"angry": "happy", "happy": "angry"}[e] for u, e in emotions.items()}
    write_table(corpus / "data/all/utt2emo", swapped)
    directory = dump(corpus, protocol="strict")
    assert read_table(directory / "utt2emo") == swapped
    assert not (directory / "folds/paper" / MARKER).exists()
    assert not (directory / "text_char").exists()


AGES = {"Ses01F_angry": "30", "Ses02M_happy": "about 60"}


def test_tables_of_the_user_come_along_and_may_lack_utterances(corpus, capsys):
    write_table(corpus / "data/all/utt2age", AGES)
    (corpus / "data/all/utt2age~").write_text("a leftover of an editor\n")
    directory = dump(corpus)
    assert read_table(directory / "utt2age") == AGES
    assert not (directory / "utt2age~").exists() and not (directory / "utt2dur").exists()
    out = capsys.readouterr().out
    assert out.count("not copied") == 1 and "utt2age~: not copied to dump/, so no head" in out


def test_a_table_of_the_user_that_comes_changes_or_goes_leaves_all_else_alone(corpus):
    make_lang(corpus / "data/lang_char", list(read_table(corpus / "data/all/utt2spk")))
    dump(corpus, "char")
    directory = dump(corpus, feats_type="mfcc")
    path = corpus / "data/all/utt2age"
    names = ("wav", "folds", "mfcc", "text_char", "wav.scp", "utt2hash")
    parts = tuple(str(directory / name) for name in names)
    before = {p: t for p, t in snapshot(directory).items() if p.startswith(parts)}
    for ages in (AGES, {**AGES, "Ses01F_angry": "31"}, None):
        write_table(path, ages) if ages else path.unlink()
        with pytest.raises(UserError, match="not made from what .*all holds now.*--stage 2"):
            require_current(corpus / "data", directory)
        dump(corpus)
        require_current(corpus / "data", directory)
        after = snapshot(directory)
        assert {p: t for p, t in after.items() if p.startswith(parts)} == before
        assert (directory / "utt2age").exists() == (ages is not None)
        assert not ages or read_table(directory / "utt2age") == ages
        dump(corpus)
        assert snapshot(directory) == after  # the second time it is done already


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "utt2age",
            "Ses01F_angry 30\nnobody 4\n",
            "utt2age:2: nobody is no utterance of ",
        ),
        ("utt2age", "Ses01F_angry\n", "utt2age:1: Ses01F_angry has no value"),
        ("utt2hash", "Ses01F_angry 30\n", "utt2hash: stage 3 writes a table of this name itself"),
    ],
)
def test_a_wrong_table_of_the_user_is_refused_before_anything_is_written(
    corpus, name, line, message
):
    (corpus / "data/all" / name).write_text(line)
    with pytest.raises(UserError, match=message):
        dump(corpus)
    assert not (corpus / "dump").exists()


def test_a_recording_that_changed_is_read_again(corpus):
    directory = dump(corpus, feats_type="mfcc")
    before = read_table(directory / "utt2hash")
    rewrite(wav_of(corpus, "Ses01F_angry"), tone(900, 3200))
    dump(corpus)
    after = read_table(directory / "utt2hash")
    assert {u for u in before if before[u] != after[u]} == {"Ses01F_angry"}
    assert read_table(directory / "folds/strict/Ses01F/test.shape")["Ses01F_angry"] == "3200"
    assert not (directory / "mfcc" / MARKER).exists()


def test_a_recording_of_one_speaker_filed_under_another_fails_the_audit(corpus):
    raw = wav_of(corpus, "Ses01F_angry").read_bytes()
    wav_of(corpus, "Ses02F_angry").write_bytes(raw)
    with pytest.raises(UserError, match="same audio: Ses02F_angry = Ses01F_angry"):
        dump(corpus)
    assert not (corpus / "dump" / MARKER).exists()


@pytest.mark.parametrize("gone, stage", [("all", 1), ("lang", 2), ("lang_char", 2)])
def test_a_missing_stage_is_named(corpus, gone, stage):
    (corpus / "data/lang_char").mkdir()
    if gone != "lang_char":
        (corpus / "data" / gone / MARKER).unlink()
    with pytest.raises(UserError, match=f"data/{gone}: .*run.sh --stage {stage} "):
        dump(corpus, "char")
    assert not (corpus / "dump").exists()


def test_targets_of_another_selection_of_utterances_are_refused(corpus):
    targets = read_table(corpus / "data/lang/text.units", allow_empty=True)
    del targets["Ses01M_happy"]
    write_table(corpus / "data/lang/text.units", targets)
    with pytest.raises(UserError, match="1 differ, the first is Ses01M_happy.*--stage 2"):
        dump(corpus)


def test_units_of_other_labels_are_refused(corpus):
    mark_done(corpus / "data/lang", {"inputs": "digest of other tables"})
    with pytest.raises(UserError, match="other labels or transcripts .* --stage 2"):
        dump(corpus)


def test_training_is_refused_when_data_or_audio_changed_after_the_dump(corpus):
    dump(corpus)
    require_current(corpus / "data", corpus / "dump")
    require_current(corpus / "elsewhere", corpus / "dump")
    rewrite(wav_of(corpus), tone(500))
    with pytest.raises(UserError, match="audio files .* have changed .*--stage 1 --stop-stage 3"):
        require_current(corpus / "data", corpus / "dump")
    labels = read_table(corpus / "data/all/utt2emo")
    write_table(corpus / "data/all/utt2emo", {**labels, "Ses01F_angry": "happy"})
    with pytest.raises(UserError, match="not made from what .*all holds now.*--stage 2"):
        require_current(corpus / "data", corpus / "dump")


def test_a_protocol_that_does_not_fit_is_refused_before_the_audio_is_read(corpus):
    sessions = {u: s[:6] for u, s in read_table(corpus / "data/all/utt2spk").items()}
    write_table(corpus / "data/all/utt2session", sessions)
    with pytest.raises(UserError, match="session Ses01F has one speaker"):
        dump(corpus)
    assert not (corpus / "dump").exists()


@pytest.mark.parametrize("name", ["audit.txt", "folds", "figures", "log", "packed"])
def test_a_fold_named_as_a_folder_of_the_recipe_is_refused_before_the_audio_is_read(corpus, name):
    sessions = {u: s[:5] for u, s in read_table(corpus / "data/all/utt2spk").items()}
    table = {utt: session.replace("Ses01", name) for utt, session in sessions.items()}
    write_table(corpus / "data/all/utt2session", table)
    with pytest.raises(UserError, match=f"--protocol session: {name} is the name of a speaker or"):
        dump(corpus, protocol="session")
    assert not (corpus / "dump").exists()


def test_opensmile_that_is_missing_is_said_before_anything_is_written(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match="egemaps and compare: openSMILE is not installed here"):
        dump(corpus, feats_type="egemaps")
    assert not (corpus / "dump").exists()


def test_a_full_disk_while_copying_audio_is_one_line_and_leaves_no_half_ark(corpus):
    """A limit on the size of files (8 KiB) stands in for the end of the disk."""
    for wav in (corpus / "wav").iterdir():
        rewrite(wav, soundfile.read(wav, dtype="int32")[0], subtype="PCM_24")
    # No bytecode: Python before 3.12 would not notice that a .pyc was cut off as well.
    limit = "export PYTHONDONTWRITEBYTECODE=1; ulimit -f 8"
    done = launch("--data-dir", corpus / "data", "--dump-dir", corpus / "dump", before=limit)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {corpus}/dump/wav/wav.1.ark: cannot be written: ")
    assert done.stderr.count("\n") == 1  # nothing else, above all no traceback
    assert not list((corpus / "dump").rglob("*.ark*"))
    assert not list((corpus / "dump").rglob(MARKER))
    assert (dump(corpus) / MARKER).exists()


def test_kill_9_in_the_middle_leaves_nothing_that_looks_finished(corpus):
    """The process kills itself when the first ark is written and its scp is not."""
    rewrite(wav_of(corpus, "Ses01F_angry"), tone(300, 4800, 48000), 48000)
    program = (
        "import os, signal, sys\n"
        "import ser.data.features\n"
        "from pathlib import Path\n"
        "from ser.data.prepare import prepare_dump\n"
        "ser.data.features.write_table = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare_dump(Path(sys.argv[1]), Path(sys.argv[2]), 'tagged_class', 'raw', 'strict', 1)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, corpus / "data", corpus / "dump"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list((corpus / "dump").rglob(MARKER))
    assert (dump(corpus) / MARKER).exists()
    assert len(kaldiio.load_scp(str(corpus / "dump/wav.scp"))["Ses01F_angry"][1]) == 1600


def launch(*options, before=":"):
    """Run ser dump with ``options`` after the shell command ``before``."""
    script = [sys.executable, "-m", "ser", "dump", *options]
    return subprocess.run(
        ["bash", "-c", f'{before}; exec "$@"', "bash", *script],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_makes_the_same_dump(corpus):
    done = launch("--data-dir", corpus / "data", "--dump_dir", corpus / "dump", "--nj", "2")
    assert done.returncode == 0, done.stderr
    assert "Ses01F train 4 valid 2 test 2" in done.stdout
    audit = subprocess.run(
        [sys.executable, "-m", "ser", "audit", "--dump-dir", corpus / "dump"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert audit.stdout == (corpus / "dump/folds/strict/audit.txt").read_text()


def test_the_command_reports_a_users_mistake_in_one_line_and_status_1(corpus):
    wav_of(corpus).write_bytes(b"")
    done = launch("--data-dir", corpus / "data", "--dump-dir", corpus / "dump")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 8 utterances")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"), [([], "--data-dir"), (["--nonsense", "1"], "No such option: --nonsense")]
)
def test_the_command_refuses_wrong_usage_with_status_2(options, words):
    done = launch(*options)
    assert done.returncode == 2
    assert words in done.stderr
