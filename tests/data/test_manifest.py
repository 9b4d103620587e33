"""What ``ser manifest`` writes: worked by hand, and read by lhotse where that is installed."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser.cli import app
from ser.data.folds import assign, sentence
from ser.data.manifest import protocol_name, write_manifests
from ser.data.tables import Utterance, write_data_dir, write_table
from ser.errors import UserError

# id: emotion, speaker, gender, session, words, sample rate, channels; 0.1 s each
ROWS = {
    "anna1": ("angry", "anna", "f", "Ses01", "Was nun?", 16000, 1),
    "anna2": ("sad", "anna", "f", "Ses01", "Nein.", 16000, 1),
    "ben1": ("angry", "ben", "m", "Ses01", "", 8000, 2),
    "ben2": ("sad", "ben", "m", "Ses01", "Nein.", 16000, 1),
    "cora1": ("angry", "cora", "u", "Ses02", "Käse!", 16000, 1),
    "cora2": ("sad", "cora", "u", "Ses02", "Nein.", 16000, 1),
    "dirk1": ("angry", "dirk", "m", "Ses02", "Was nun?", 16000, 1),
    "dirk2": ("sad", "dirk", "m", "Ses02", "Nein.", 16000, 1),
}


@pytest.fixture
def corpus(tmp_path):
    """data/toy of ROWS, whose audio lies in tmp_path/audio."""
    records = []
    for number, (utt, row) in enumerate(ROWS.items(), start=1):
        emotion, speaker, gender, session, text, rate, channels = row
        wav = tmp_path / "audio" / speaker / f"{utt}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.1 * np.sin(np.arange(rate // 10) * number / 20)
        soundfile.write(wav, np.stack([wave] * channels, axis=1), rate, subtype="PCM_16")
        records.append(Utterance(utt, wav, text, speaker, emotion, gender, session, 0.1))
    directory = tmp_path / "data/toy"
    write_data_dir(directory / "all", records, ["angry", "sad"], "de", {})
    return directory


def _lines(path: Path) -> list[dict]:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in data.decode("utf-8").splitlines()]


def _call(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["ser", "manifest", *map(str, argv)])
    try:
        app.main()
    except SystemExit as stop:
        if stop.code:
            raise


def test_a_recording_and_its_supervision_hold_what_the_tables_and_the_header_say(corpus, tmp_path):
    out = write_manifests(corpus, form="lhotse") / "lhotse"
    recordings, supervisions = (
        {row["id"]: row for row in _lines(out / f"{name}.jsonl.gz")}
        for name in ("recordings", "supervisions")
    )
    assert recordings.keys() == supervisions.keys() == ROWS.keys()
    assert recordings["ben1"] == {
        "id": "ben1",
        "sources": [
            {"type": "file", "channels": [0, 1], "source": f"{tmp_path}/audio/ben/ben1.wav"}
        ],
        "sampling_rate": 8000,
        "num_samples": 800,
        "duration": 0.1,
        "channel_ids": [0, 1],
    }
    assert supervisions["anna1"] == {
        "id": "anna1",
        "recording_id": "anna1",
        "start": 0.0,
        "duration": 0.1,
        "channel": 0,
        "language": "de",
        "speaker": "anna",
        "text": "Was nun?",
        "gender": "f",
        "custom": {"emotion": "angry", "session": "Ses01"},
    }
    assert "text" not in supervisions["ben1"] and supervisions["ben1"]["channel"] == [0, 1]
    assert "gender" not in supervisions["cora1"] and supervisions["cora1"]["text"] == "Käse!"


def test_a_fold_has_the_cuts_of_each_split_with_recording_and_supervision(corpus):
    out = write_manifests(corpus, form="lhotse") / "lhotse"
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["anna", "ben", "cora", "dirk"]
    split = {
        name: [cut["id"] for cut in _lines(out / f"anna/cuts_{name}.jsonl.gz")]
        for name in ("train", "valid", "test")
    }
    assert split == {
        "train": ["cora1", "cora2", "dirk1", "dirk2"],
        "valid": ["ben1", "ben2"],
        "test": ["anna1", "anna2"],
    }
    mono, multi = (_lines(out / f"anna/cuts_{name}.jsonl.gz")[0] for name in ("test", "valid"))
    assert (mono["type"], mono["channel"]) == ("MonoCut", 0)
    assert (multi["type"], multi["channel"]) == ("MultiCut", [0, 1])
    assert mono["recording"] == _lines(out / "recordings.jsonl.gz")[0]
    assert mono["supervisions"] == _lines(out / "supervisions.jsonl.gz")[:1]


def test_emobox_gets_its_keys_its_file_names_and_a_label_map(corpus, tmp_path):
    home = write_manifests(corpus, form="emobox") / "emobox/toy"
    rows = _lines(home / "toy.jsonl")
    assert [row["key"] for row in rows] == list(ROWS)
    assert rows[2] == {
        "key": "ben1",
        "dataset": "toy",
        "wav": f"{tmp_path}/audio/ben/ben1.wav",
        "type": "raw",
        "sample_rate": 8000,
        "num_frame": 800,
        "task": "category",
        "length": 0.1,
        "emo": "angry",
        "channel": 2,
        "speaker": "ben",
        "gender": "m",
    }
    assert "gender" not in rows[4]
    assert json.loads((home / "label_map.json").read_text()) == {"angry": "angry", "sad": "sad"}
    assert (home / "folds.tsv").read_text() == (
        "fold_1\tanna\nfold_2\tben\nfold_3\tcora\nfold_4\tdirk\n"
    )
    third = {
        split: [row["key"] for row in _lines(home / f"fold_3/toy_{split}_fold_3.jsonl")]
        for split in ("train", "valid", "test")
    }
    assert third == {
        "train": ["anna1", "anna2", "ben1", "ben2"],
        "valid": ["dirk1", "dirk2"],
        "test": ["cora1", "cora2"],
    }
    assert _lines(home / "fold_3/toy_test_fold_3.jsonl") == rows[4:6]


def test_utterances_without_a_label_are_left_out(corpus, tmp_path):
    write_table(corpus / "all/utt2undecided", {"anna2": "3"})
    output = write_manifests(corpus, form="emobox")
    keys = {r["key"] for path in output.rglob("*.jsonl") for r in _lines(path)}
    assert keys == ROWS.keys() - {"anna2"}


@pytest.mark.parametrize("protocol", ["strict", "paper", "session", "kfold2", "crossed2"])
def test_folds_are_those_of_stage_3(corpus, protocol):
    out = write_manifests(corpus, protocol=protocol) / "lhotse"
    tables = [{u: row[i] for u, row in ROWS.items()} for i in (1, 3, 0)]
    said = {u: sentence(u, row[4]) for u, row in ROWS.items()}
    expected = assign(protocol, *tables, said)
    found = {
        fold.name: {path.name[5:-9]: [cut["id"] for cut in _lines(path)] for path in fold.iterdir()}
        for fold in out.iterdir()
        if fold.is_dir()
    }
    assert found == expected


def test_paths_can_be_as_seen_from_a_folder_that_holds_all_audio(corpus, tmp_path):
    out = write_manifests(corpus, relative_to=tmp_path / "audio")
    recording = _lines(out / "lhotse/recordings.jsonl.gz")[0]
    assert recording["sources"][0]["source"] == "anna/anna1.wav"
    assert _lines(out / "emobox/toy/toy.jsonl")[0]["wav"] == "anna/anna1.wav"
    with pytest.raises(UserError, match="--relative-to .*ben: .*anna/anna1.wav is not in it"):
        write_manifests(corpus, relative_to=tmp_path / "audio/ben")


def test_manifests_are_replaced_as_a_whole_and_other_folders_refused(corpus, tmp_path, monkeypatch):
    out = write_manifests(corpus, output=tmp_path / "out")
    (out / "lhotse/left over").write_text("")
    write_manifests(corpus, output=out, form="emobox")
    assert sorted(p.name for p in out.iterdir()) == [".done", "emobox"]
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ser.data.manifest._write_lhotse", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_manifests(corpus, output=out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/draft").write_text("x")
    with pytest.raises(UserError, match="--output .*thesis: a folder with other things in it"):
        write_manifests(corpus, output=tmp_path / "thesis")
    with pytest.raises(UserError, match="--output .*draft: not a folder"):
        write_manifests(corpus, output=tmp_path / "thesis/draft")
    assert (tmp_path / "thesis/draft").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write_manifests(corpus, output=tmp_path / "empty")


def test_the_same_corpus_gives_the_same_bytes(corpus, tmp_path):
    one, two = (write_manifests(corpus, output=tmp_path / name) for name in "12")
    files = [p.relative_to(one) for p in sorted(one.rglob("*")) if p.is_file()]
    assert len(files) == 2 + 4 * 3 + 3 + 4 * 3 + 1
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    stamp = (one / "lhotse/recordings.jsonl.gz").read_bytes()[4:8]  # of gzip's header
    assert stamp == bytes(4)


def test_the_command_writes_beside_the_corpus_and_says_what(corpus, monkeypatch, capsys):
    (corpus / "all/partial").write_text("total: 8 found, 9 expected\n")
    _call(monkeypatch, corpus, "--protocol", "kfold", "--k", 2)
    out = capsys.readouterr().out
    assert f"{corpus}/manifests/kfold2: lhotse and emobox, 8 utterances, 2 folds" in out
    assert "kfold2 (speaker-dependent)" in out and "the corpus is not complete" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "kfold"], "--protocol kfold needs a number of folds"),
        (["--k", "3"], "--k 3: is for --protocol kfold"),
        (["--protocol", "kfold", "--k", "9"], "the smallest, angry, has 4 utterances"),
    ],
)
def test_a_protocol_that_does_not_fit_is_one_line(corpus, monkeypatch, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        _call(monkeypatch, corpus, *options)
    err = capsys.readouterr().err
    assert stop.value.code == 1 and message in err and err.count("\n") == 1
    assert not (corpus / "manifests").exists()


def test_without_stage_1_the_stage_is_named(tmp_path):
    with pytest.raises(UserError, match="data/no/all: the corpus tables not found.*--stage 1"):
        write_manifests(tmp_path / "data/no")


def test_audio_that_cannot_be_read_is_named_and_nothing_written(corpus, tmp_path):
    (tmp_path / "audio/ben/ben1.wav").write_bytes(b"no audio at all")
    with pytest.raises(UserError, match="ben1.wav: not an audio file"):
        write_manifests(corpus)
    assert not (corpus / "manifests").exists()


def test_kfold_is_named_with_its_number_of_folds():
    assert protocol_name("kfold", 5) == "kfold5" and protocol_name("paper", None) == "paper"


@pytest.mark.parametrize("relative", [False, True])
def test_lhotse_reads_what_it_says_and_hears_the_audio(corpus, tmp_path, relative):
    lhotse = pytest.importorskip("lhotse")
    audio = tmp_path / "audio"
    out = write_manifests(corpus, relative_to=audio if relative else None) / "lhotse"
    recordings = lhotse.RecordingSet.from_file(out / "recordings.jsonl.gz")
    supervisions = lhotse.SupervisionSet.from_file(out / "supervisions.jsonl.gz")
    cuts = lhotse.CutSet.from_file(out / "anna/cuts_valid.jsonl.gz")
    if relative:
        recordings = recordings.with_path_prefix(audio)
        cuts = cuts.with_recording_path_prefix(audio)
    recordings, supervisions, cuts = (s.to_eager() for s in (recordings, supervisions, cuts))
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    lhotse.validate(cuts, read_data=True)
    assert [cut.id for cut in cuts] == ["ben1", "ben2"]
    assert cuts["ben1"].load_audio().shape == (2, 800)
    said = cuts["ben2"].supervisions[0]
    assert (said.emotion, said.speaker, said.gender, said.language, said.text) == (
        *("sad", "ben", "m", "de", "Nein."),
    )
    heard = recordings["cora1"].load_audio()[0]
    np.testing.assert_array_equal(
        heard, soundfile.read(audio / "cora/cora1.wav", dtype="float32")[0]
    )
