"""Corpora by a corpus.yaml alone: those of docs/corpora.md, and what is wrong with others."""

import csv
import gzip
import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from ser import provenance
from ser.corpora import ANY_CORPUS, prepare, rows
from ser.corpora.rows import as_id
from ser.data.folds import assign
from ser.data.manifest import write_manifests
from ser.data.prepare import prepare_dump
from ser.data.tables import read_lines, validate_data_dir
from ser.errors import UserError
from ser.files import write_once
from ser.lang.prepare import prepare_lang
from tests.support import ROOT, by_own_id

DOC = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
SPEAKERS = {"anna": "f", "ben": "m", "cora": "f", "dirk": "m"}
HEADER = ["wav", "emotion", "speaker", "gender", "text"]


def documented(name: str) -> str:
    """The corpus.yaml of this name in docs/corpora.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOC, flags=re.DOTALL)
    return next(text for text in blocks if text.startswith(f"# egs/{name}/corpus.yaml"))


def tone(seed: int, seconds: float = 0.1, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """(N, channels) of noise in -0.1 to 0.1, different for every seed."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.1, 0.1, (int(seconds * rate), channels))


def wav_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone(seed), 16000, "PCM_16", format="WAV")
    return stream.getvalue()


def utterances(labels=("anger", "calm")):
    """(file, label, speaker, gender, text) of two files for each speaker."""
    return [
        (f"{speaker}/{number:03d}.wav", label, speaker, gender, f"Hello {label}, again.")
        for speaker, gender in SPEAKERS.items()
        for number, label in enumerate(labels, start=1)
    ]


def write_table(folder: Path, records, header=HEADER, name="metadata.csv") -> Path:
    """The table, and a file for each of its rows."""
    for seed, record in enumerate(records):
        path = folder / record[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(seed))
    with open(folder / name, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *records])
    return folder


def egs(tmp_path, text: str) -> tuple[str, Path]:
    """(name, folder egs) with this corpus.yaml."""
    name = yaml.safe_load(text)["name"]
    path = tmp_path / "egs" / name / "corpus.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name, tmp_path / "egs"


def stage_1(tmp_path, text, corpus_dir, **options):
    """data/<name>/all of a corpus.yaml with this text."""
    name, folder = egs(tmp_path, text)
    prepare.prepare(name, tmp_path / "data", corpus_dir, egs=folder, **options)
    return tmp_path / "data" / name / "all"


def check_four_speakers(data: Path) -> None:
    assert validate_data_dir(data) == 8
    assert sorted(by_own_id(data / "utt2emo").values()) == ["angry"] * 4 + ["neutral"] * 4
    speakers = by_own_id(data / "utt2spk")
    genders = by_own_id(data / "utt2gender")
    assert {speakers[utt]: gender for utt, gender in genders.items()} == SPEAKERS
    assert set(by_own_id(data / "text").values()) == {"Hello anger, again.", "Hello calm, again."}
    sessions = {speakers[u]: s for u, s in by_own_id(data / "utt2session").items()}
    assert sessions == {"anna": "Ses01", "ben": "Ses01", "cora": "Ses02", "dirk": "Ses02"}
    assert read_lines(data / "emotions") == ["angry", "neutral"]


def test_named_columns_of_numbers_become_tables_and_others_are_refused(tmp_path):
    columns = "columns: {audio: wav, arousal: EmoAct, valence: EmoVal}"
    text = re.sub("(?m)^columns: .*$", columns, documented("calls"))
    records = [(*u, f"{i}.5", "") for i, u in enumerate(utterances())]
    header = [*HEADER, "EmoAct", "EmoVal"]
    data = stage_1(tmp_path, text, write_table(tmp_path / "in", records, header))
    assert sorted(by_own_id(data / "utt2arousal").values()) == [f"{i}.5" for i in range(8)]
    assert not (data / "utt2valence").exists()
    records[3] = (*records[3][:-2], "high", "")
    write_table(tmp_path / "in", records, header)
    with pytest.raises(UserError, match=r"metadata.csv:5: arousal 'high'; expected a number"):
        stage_1(tmp_path, text, tmp_path / "in")


# --- the examples of docs/corpora.md -------------------------------------------------------------


def test_the_documented_yamls_are_ten_lines_and_every_reader_has_one():
    texts = {name: documented(name) for name in ("rooms", "calls", "meetings", "acted")}
    assert all(len(text.splitlines()) <= 10 for text in texts.values())
    readers = [yaml.safe_load(text)["reader"] for text in texts.values()]
    assert tuple(readers) == ANY_CORPUS


def test_the_documented_table_goes_through_stages_1_to_3(tmp_path, capsys):
    folder = write_table(tmp_path / "calls", utterances())
    data = stage_1(tmp_path, documented("calls"), folder)
    check_four_speakers(data)
    assert by_own_id(data / "wav.scp")["ben_002"] == str(folder / "ben/002.wav")
    prepare_lang(data.parent, "tagged_class", 500)
    dump = tmp_path / "dump"
    prepare_dump(data.parent, dump, "tagged_class", "raw", "strict", 1)
    assert read_lines(dump / "folds/strict/anna/valid") == ["ben_001", "ben_002"]
    assert len(read_lines(dump / "folds/strict/anna/train")) == 4
    capsys.readouterr()
    stage_1(tmp_path, documented("calls"), folder)
    assert "already done (8 utterances)" in capsys.readouterr().out


def manifests(folder: Path, name: str = "", seconds: float = 0.1) -> tuple[list, list]:
    """Recordings and supervisions of one file each, as lhotse writes them."""
    recordings, supervisions = [], []
    for seed, (file, label, speaker, gender, text) in enumerate(utterances()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(seed, seconds), 16000, "PCM_16")
        utt = file.replace("/", "-")
        emotion = {"anger": "angry", "calm": "neutral"}[label]
        recordings.append(
            {
                "id": f"rec {utt}",
                "sources": [{"type": "file", "channels": [0], "source": file}],
                "sampling_rate": 16000,
                "num_samples": int(seconds * 16000),
                "duration": seconds,
            }
        )
        supervisions.append(
            {
                "id": utt,
                "recording_id": f"rec {utt}",
                "start": 0.0,
                "duration": seconds,
                "channel": 0,
                "text": text,
                "speaker": speaker,
                "gender": gender,
                "custom": {"emotion": emotion},
            }
        )
    return recordings, supervisions


def write_jsonl_gz(path: Path, items) -> None:
    path.write_bytes(gzip.compress("".join(f"{json.dumps(i)}\n" for i in items).encode()))


def test_the_documented_lhotse_manifests_go_through_stage_1(tmp_path):
    recordings, supervisions = manifests(tmp_path / "m")
    write_jsonl_gz(tmp_path / "m/x_recordings_all.jsonl.gz", recordings)
    write_jsonl_gz(tmp_path / "m/x_supervisions_all.jsonl.gz", supervisions)
    data = stage_1(tmp_path, documented("meetings"), tmp_path / "m")
    check_four_speakers(data)
    assert by_own_id(data / "wav.scp")["anna-001.wav"] == str(tmp_path / "m/anna/001.wav")
    assert not (tmp_path / "data/meetings/audio").exists()  # nothing had to be cut out


def test_cuts_are_read_and_parts_and_channels_of_recordings_cut_out_once(tmp_path):
    recordings, supervisions = manifests(tmp_path / "m", seconds=0.5)
    stereo = tone(99, 0.5, channels=2)
    soundfile.write(tmp_path / "m/stereo.wav", stereo, 16000, "PCM_16")
    recordings[0]["sources"] = [{"type": "file", "channels": [0, 1], "source": "stereo.wav"}]
    supervisions[0] |= {"start": 0.1, "duration": 0.2, "channel": 1}
    cuts = [
        {"id": f"cut{i}", "type": "MonoCut", "start": 0.1 if i == 0 else 0.0, "channel": 0,
         "duration": 0.4, "supervisions": [said], "recording": recording}
        for i, (recording, said) in enumerate(zip(recordings, supervisions, strict=True))
    ]  # fmt: skip
    write_jsonl_gz(tmp_path / "m/cuts.jsonl.gz", cuts)
    text = re.sub(r"(?m)^(supervisions|recordings):.*\n", "", documented("meetings"))
    data = stage_1(tmp_path, text, tmp_path / "m")
    check_four_speakers(data)
    path = Path(by_own_id(data / "wav.scp")["anna-001.wav"])
    assert path == tmp_path / "data/meetings/audio/anna-001.wav.3200-6400.c1.wav"
    whole, _ = soundfile.read(tmp_path / "m/stereo.wav")
    np.testing.assert_array_equal(soundfile.read(path)[0], whole[3200:6400, 1])
    assert [p.name for p in path.parent.iterdir()] == [path.name]

    made = path.stat().st_ino
    (data / ".done").unlink()
    stage_1(tmp_path, text, tmp_path / "m")
    assert path.stat().st_ino == made
    soundfile.write(tmp_path / "m/stereo.wav", tone(98, 0.5, channels=2), 16000, "PCM_16")
    stage_1(tmp_path, text, tmp_path / "m")
    assert path.stat().st_ino != made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sources": [{"type": "url", "channels": [0], "source": "http://x"}]},
            "audio of type url",
        ),
        ({"transforms": [{"name": "Speed"}]}, "transforms; expected audio files as they are"),
        ({"sources": [{"type": "file", "channels": [3], "source": "a"}]}, r"no file with channels"),
        ({"id": "other"}, "recording 'rec anna-001.wav' is not in"),
        ({"duration": 0.05}, "from 0 to 0.1 s of a recording of 0.05 s"),
    ],
)
def test_lhotse_recordings_that_are_no_plain_files_are_refused(tmp_path, change, message):
    recordings, supervisions = manifests(tmp_path / "m")
    recordings[0] |= change
    write_jsonl_gz(tmp_path / "m/recordings.jsonl.gz", recordings)
    write_jsonl_gz(tmp_path / "m/supervisions.jsonl.gz", supervisions)
    with pytest.raises(UserError, match=rf"supervisions.jsonl.gz:1: .*{message}"):
        stage_1(tmp_path, documented("meetings"), tmp_path / "m")


def test_a_manifest_that_is_cut_short_is_named(tmp_path):
    recordings, supervisions = manifests(tmp_path / "m")
    write_jsonl_gz(tmp_path / "m/recordings.jsonl.gz", recordings)
    write_jsonl_gz(tmp_path / "m/supervisions.jsonl.gz", supervisions)
    path = tmp_path / "m/supervisions.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"supervisions.jsonl.gz: cannot be read"):
        stage_1(tmp_path, documented("meetings"), tmp_path / "m")


def test_what_ser_manifest_writes_is_read_back_with_the_same_folds(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    first = stage_1(tmp_path, documented("calls"), folder)
    out = write_manifests(first.parent, relative_to=folder)
    text = documented("meetings").replace("sessions:", f"audio_dir: {folder}\n#")
    text = text.replace("{emotion:", "{session: custom.session, emotion:")
    again = stage_1(tmp_path, text, out / "lhotse")
    for name in ("wav.scp", "text", "utt2spk", "utt2emo", "utt2gender", "utt2session", "utt2dur"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


def hugging_face(tmp_path, kind: str) -> Path:
    """The documented dataset, saved in one of the ways that the reader knows."""
    datasets = pytest.importorskip("datasets")
    table = utterances(("ang", "neu"))
    words = {"ang": "anger", "neu": "calm"}
    columns = {
        "audio": [{"bytes": wav_bytes(i), "path": "x.wav"} for i in range(len(table))],
        "label": [("ang", "neu").index(row[1]) for row in table],
        "speaker_id": [row[2] for row in table],
        "gender": [{"f": "Female", "m": "Male"}[row[3]] for row in table],
        "transcription": [f"Hello {words[row[1]]}, again." for row in table],
    }
    whole = datasets.Dataset.from_dict(columns)
    whole = whole.cast_column("audio", datasets.Audio(decode=False))
    whole = whole.cast_column("label", datasets.ClassLabel(names=["ang", "neu"]))
    parts = {"train": whole.select(range(6)), "test": whole.select(range(6, 8))}
    folder = tmp_path / "saved"
    if kind == "saved":
        datasets.DatasetDict(parts).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        for split, part in parts.items():
            part.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_the_documented_hugging_face_dataset_goes_through_stage_1(tmp_path, kind, monkeypatch):
    folder = hugging_face(tmp_path, kind)
    if kind == "parquet":  # its copy of the data goes elsewhere than into the home folder
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = stage_1(tmp_path, documented("acted"), folder)
    check_four_speakers(data)
    wavs = by_own_id(data / "wav.scp")
    assert sorted(wavs) == [
        *(f"test_{i:06d}" for i in (0, 1)),
        *(f"train_{i:06d}" for i in range(6)),
    ]
    assert wavs["test_000001"] == str(tmp_path / "data/acted/audio/test_000001.wav")
    assert Path(wavs["test_000001"]).read_bytes() == wav_bytes(7)
    only = documented("acted") + "splits: [train]\n"
    assert len(by_own_id(stage_1(tmp_path, only, folder) / "wav.scp")) == 6
    with pytest.raises(UserError, match="no split 'dev'; it has train, test|test, train"):
        stage_1(tmp_path, documented("acted") + "splits: [dev]\n", folder)


def test_an_audiofolder_is_read_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    table = [(f, lab, s, g, t.replace("ang,", "anger,").replace("neu,", "calm,"))
             for f, lab, s, g, t in utterances(("ang", "neu"))]  # fmt: skip
    header = ["file_name", "label", "speaker_id", "gender", "transcription"]
    folder = write_table(tmp_path / "folder/train", table, header).parent
    data = stage_1(tmp_path, documented("acted"), folder)
    check_four_speakers(data)
    assert "train_anna_001" in by_own_id(data / "wav.scp")


def test_a_hub_id_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = documented("acted").replace("# dataset:", "dataset:")
    with pytest.raises(UserError, match=r"owner/name: .*package datasets.*requirements-apps.txt"):
        stage_1(tmp_path, text, None)


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no network\nand much more")

    monkeypatch.setitem(sys.modules, "datasets", type(sys)("datasets"))
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset, raising=False)
    text = documented("acted").replace("# dataset:", "dataset:")
    with pytest.raises(UserError, match=r"owner/name: .*ConnectionError: no network\); check"):
        stage_1(tmp_path, text, None)


def test_audio_is_written_once_and_anew_when_it_differs(tmp_path):
    path = write_once(tmp_path / "audio/a.wav", b"one")
    made = path.stat().st_ino
    assert write_once(path, b"one").stat().st_ino == made
    assert write_once(path, b"two").read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.wav"]


# --- what can be wrong with a table --------------------------------------------------------------

PLAIN = """
name: calls
reader: table
language: en
emotions: [angry, neutral]
label_map: {anger: angry, calm: neutral}
"""


def run_table(tmp_path, records, text=PLAIN, header=HEADER, **options):
    folder = write_table(tmp_path / "calls", records, header)
    return stage_1(tmp_path, text, folder, **options)


def changed(row: int, column: str, value: str):
    records = [list(record) for record in utterances()]
    records[row][HEADER.index(column)] = value
    return records


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, "emotion", "joy", r":4: label 'joy' is not in label_map \(anger, calm\); add it there"),
        (2, "emotion", "", r":4: label '' is not in label_map"),
        (3, "speaker", " ", r":5: no speaker"),
        (1, "gender", "woman?", r":3: gender 'woman\?'; expected f or m"),
        (1, "gender", "m", r":3: gender 'm', but 'f' for the same speaker \(anna\) in .*:2"),
        (1, "wav", "anna/001.wav", r":3: the id anna_001 is also that of .*:2"),
        (1, "wav", "", r":3: no audio file in column 'wav'"),
    ],
)
def test_a_row_at_fault_is_named_by_its_line(tmp_path, row, column, value, message):
    records = changed(row, column, value)
    if not value and column == "wav":
        folder = write_table(tmp_path / "calls", utterances())
        with open(folder / "metadata.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([HEADER, *records])
        with pytest.raises(UserError, match=f"metadata.csv{message}"):
            stage_1(tmp_path, PLAIN, folder)
        return
    with pytest.raises(UserError, match=f"metadata.csv{message}"):
        run_table(tmp_path, records)
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_not_there_is_named_by_its_line(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    (folder / "ben/001.wav").unlink()
    line = r"(?s)metadata.csv:4: no such file: .*/calls/ben/001.wav.*put them there, .*get .*: ask"
    with pytest.raises(UserError, match=line):
        stage_1(tmp_path, PLAIN + "obtain: ask us", folder)
    with pytest.raises(UserError, match=r"no such file: .*/t.csv; .*/calls has metadata.csv: give"):
        stage_1(tmp_path, PLAIN + "table: t.csv", folder)


def test_a_file_that_is_no_audio_is_named(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    (folder / "ben/001.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"(?s)ben/001.wav: not an audio file.*ignore in"):
        stage_1(tmp_path, PLAIN, folder)
    assert not (tmp_path / "data/calls/all").exists()


def test_one_file_under_two_ids_is_refused(tmp_path):
    header = [*HEADER, "id"]
    records = [[*row, f"u{i}"] for i, row in enumerate(utterances())]
    records[1][0] = records[0][0]
    with pytest.raises(UserError, match=r":3: .*anna/001.wav is also in .*metadata.csv:2"):
        run_table(tmp_path, records, header=header)


def test_without_a_speaker_column_it_says_why_that_is_needed(tmp_path):
    header = ["wav", "emotion", "who", "gender", "text"]
    with pytest.raises(UserError, match=r"no column 'speaker' .* no speaker can be left out.*who"):
        run_table(tmp_path, utterances(), header=header)
    data = run_table(tmp_path, utterances(), PLAIN + "columns: {speaker: who}", header)
    assert set(by_own_id(data / "utt2spk").values()) == set(SPEAKERS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{emotion: feeling}", "no column 'feeling' for the emotion; it has wav, emotion, speaker"),
        ("{text: words}", "no column 'words' for the text"),
        (
            "{emotions: emotion}",
            "emotions: found 'emotions'; expected one of audio, emotion",
        ),
    ],
)
def test_a_column_that_is_not_there_lists_those_that_are(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        run_table(tmp_path, utterances(), f"{PLAIN}columns: {columns}")


def test_each_unknown_label_is_named_once(tmp_path):
    records = [(f, "fury" if e == "anger" else "joy", *rest) for f, e, *rest in utterances()]
    with pytest.raises(UserError, match=r"(?s):2: label 'fury'.*: 4\).*:3: label 'joy'.*: 4\)"):
        run_table(tmp_path, records)


def test_an_unknown_speaker_may_have_two_genders(tmp_path):
    records = changed(0, "speaker", "Unknown")
    records[-1][HEADER.index("speaker")] = "Unknown"
    data = run_table(tmp_path, records)
    assert by_own_id(data / "utt2gender")["anna_001"] == "u"


def test_a_column_that_means_something_else_is_left_unread(tmp_path):
    header = ["wav", "emotion", "speaker", "session", "id"]
    rows = [(f, label, s, f"{f} in May", s) for f, label, s, _, _ in utterances()]
    data = run_table(tmp_path, rows, PLAIN + "columns: {session: null, id: null}", header)
    assert by_own_id(data / "utt2session")["anna_001"] == "Ses01"
    with pytest.raises(UserError, match="no column None for the speaker"):
        run_table(tmp_path, rows, PLAIN + "columns: {speaker: null}", header)


def test_labels_are_left_out_only_if_corpus_yaml_says_so(tmp_path, capsys):
    records = changed(0, "emotion", "unclear")
    data = run_table(tmp_path, records, PLAIN + "skip_labels: [unclear]")
    assert len(by_own_id(data / "utt2emo")) == 7
    out = capsys.readouterr().out
    assert "left out: 1 utterances labelled unclear" in out and "counts: {total: 7}" in out


def test_a_class_that_nobody_says_stops_it_whatever_is_allowed(tmp_path):
    text = PLAIN.replace("neutral]", "neutral, sad]").replace(
        "calm: neutral", "calm: neutral, s: sad"
    )
    for allowed in (False, True):
        with pytest.raises(
            UserError, match=r"calls.*: no utterance is sad; .* leave the class out"
        ):
            run_table(tmp_path, utterances(), text, allow_partial=allowed)
    assert not (tmp_path / "data").exists()


def test_counts_that_do_not_hold_stop_it_and_go_unchecked_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match="total: 8 found, 9 expected"):
        run_table(tmp_path, utterances(), PLAIN + "counts: {total: 9}")
    data = run_table(tmp_path, utterances(), PLAIN + "counts: {total: 9}", allow_partial=True)
    assert read_lines(data / "partial")[0] == "total: 8 found, 9 expected"


def test_labels_that_are_the_emotions_need_no_label_map(tmp_path):
    text = re.sub("(?m)^label_map.*", "", PLAIN)
    data = run_table(tmp_path, utterances(("angry", "neutral")), text)
    assert len(by_own_id(data / "utt2emo")) == 8


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, ["Ses01"]),
        (2, ["Ses01", "Ses01"]),
        (5, ["Ses01", "Ses01", "Ses02", "Ses02", "Ses02"]),
        (6, ["Ses01", "Ses01", "Ses02", "Ses02", "Ses03", "Ses03"]),
    ],
)
def test_speakers_are_paired_in_sorted_order(tmp_path, number, expected):
    names = [f"s{i}" for i in range(number)]
    records = [
        (f"{s}{label}.wav", label, s, "", "")
        for s in reversed(names)
        for label in ("anger", "calm")
    ]
    data = run_table(tmp_path, records)
    speakers, sessions = by_own_id(data / "utt2spk"), by_own_id(data / "utt2session")
    assert [{speakers[u]: s for u, s in sessions.items()}[name] for name in names] == expected
    assert set(by_own_id(data / "utt2gender").values()) == {"u"}
    if number > 1:  # somebody validates in every fold
        folds = assign("strict", speakers, sessions, by_own_id(data / "utt2emo"), {})
        assert all(fold.get("valid") for fold in folds.values())


def test_sessions_and_genders_may_stand_in_the_yaml_or_in_a_column(tmp_path):
    bare = [(f, lab, s, "", "") for f, lab, s, _, _ in utterances()]
    text = PLAIN + "sessions: {A: [anna, dirk], B: [ben, cora]}\nspeakers: {anna: f, ben: m}"
    data = run_table(tmp_path, bare, text)
    assert by_own_id(data / "utt2session")["dirk_001"] == "A"
    genders = by_own_id(data / "utt2gender")
    assert [genders[f"{s}_001"] for s in SPEAKERS] == ["f", "m", "u", "u"]
    with pytest.raises(UserError, match="speaker cora: in no session of corpus.yaml"):
        run_table(tmp_path, bare, PLAIN + "sessions: {A: [anna, dirk], B: [ben]}")
    header = ["wav", "emotion", "speaker", "session", "text"]
    rooms = [(f, lab, s, f"room {s < 'c'}", "") for f, lab, s, _, _ in utterances()]
    data = run_table(tmp_path, rooms, header=header)
    assert by_own_id(data / "utt2session")["ben_001"] == "room_True"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "wav,emotion\na,b,c\n", r"t.csv:2: 3 cells, but 2 columns"),
        ("t.csv", "wav,wav\na,b\n", r"t.csv:1: two columns have the same name"),
        ("t.csv", "wav,emotion\n", r"t.csv: no rows"),
        ("t.csv", 'wav,emotion\n"a,b\n', r"t.csv:2: not valid CSV"),
        ("t.jsonl", '{"wav": 1}\n{"wav"\n', r"t.jsonl:2: not JSON"),
        ("t.jsonl", "[1]\n", r"t.jsonl:1: expected a JSON object"),
        ("t.txt", "x", r"expected one table \(.csv, .tsv, .jsonl\), found none"),
    ],
)
def test_a_table_that_is_none_is_named_with_the_line(tmp_path, name, text, message):
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        stage_1(tmp_path, PLAIN, folder)


def test_a_table_in_another_encoding_is_named_with_the_line(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    (folder / "metadata.csv").write_bytes("wav,text\na,b\na,K\xe4se\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata.csv:3: not UTF-8"):
        stage_1(tmp_path, PLAIN, folder)


@pytest.mark.parametrize("kind", ["semicolon", "bar", "tsv", "jsonl", "bom", "backslash"])
def test_other_kinds_of_tables_hold_the_same(tmp_path, kind):
    folder = write_table(tmp_path / "calls", utterances())
    path = folder / "metadata.csv"
    records = [dict(zip(HEADER, row, strict=True)) for row in utterances()]
    if kind == "jsonl":
        path.unlink()
        lines = [json.dumps(r) for r in records]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    elif kind == "bom":
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    elif kind == "backslash":
        path.write_bytes(path.read_bytes().replace(b"/", b"\\"))
    else:
        path.unlink()
        name = "t.tsv" if kind == "tsv" else "t.csv"
        mark = {"semicolon": ";", "bar": "|", "tsv": "\t"}[kind]
        with open(folder / name, "w", newline="") as stream:
            csv.writer(stream, delimiter=mark).writerows([HEADER, *(r.values() for r in records)])
    check_four_speakers(stage_1(tmp_path, PLAIN, folder))


def test_the_place_may_stand_in_the_yaml_and_then_not_in_the_command(tmp_path):
    write_table(tmp_path / "calls", utterances())
    data = stage_1(tmp_path, PLAIN + "corpus_dir: ../../calls", None)
    assert len(by_own_id(data / "wav.scp")) == 8
    marker = json.loads((data / ".done").read_text())
    assert "--corpus-dir" not in provenance._corpus_options("calls", marker, tmp_path / "data")
    with pytest.raises(UserError, match="corpus_dir in the corpus.yaml of calls: .*/nowhere"):
        stage_1(tmp_path, PLAIN + "corpus_dir: nowhere", None)
    with pytest.raises(UserError, match="--corpus-dir: needed for calls"):
        stage_1(tmp_path, PLAIN, None)


def test_the_table_itself_may_be_given_and_changes_are_noticed(tmp_path, capsys):
    folder = write_table(tmp_path / "calls", utterances())
    stage_1(tmp_path, PLAIN, folder / "metadata.csv")
    (folder / "ben/001.wav").write_bytes(wav_bytes(77) + b"\0\0")
    capsys.readouterr()
    stage_1(tmp_path, PLAIN, folder / "metadata.csv")
    assert "already done" not in capsys.readouterr().out


def test_ids_have_no_blanks_or_slashes_and_two_speakers_never_become_one(tmp_path):
    assert as_id(" a b/c ") == as_id("a, b/c") == "a_b_c"  # --folds takes commas for blanks
    records = changed(0, "speaker", "anna b")
    records[1][2] = "anna_b"
    with pytest.raises(UserError, match=r"(?s)'anna b' .*; speaker 'anna_b' .*same_speakers"):
        run_table(tmp_path, records)
    assert rows.FIELDS[:3] == rows.REQUIRED


# --- names of people -----------------------------------------------------------------------------

ALIKE = [
    ("03", "3"),
    ("anna", "Anna"),
    ("Zo\u00eb", "Zoe\u0308"),
    ("Stra\u00dfe", "STRASSE"),
    ("anna", "anna\u200b"),
    ("anna b", "annab"),
    ("sp03", "sp_3"),
    ("sp-3", "sp3"),
    ("Dr. Roe", "dr roe"),
    ("5", "#5"),
    ("7", "7.0"),
    ("\uff21nna", "anna"),
]


def two_names(one: str, other: str):
    """(file, label, speaker, gender, text): anna has ``one`` of the names and ben the other."""
    new = {"anna": one, "ben": other}
    return [(f, label, new.get(s, s), "", "") for f, label, s, _, _ in utterances()]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_may_be_one_person_stop_until_corpus_yaml_says_which(tmp_path, one, other):
    records = two_names(one, other)
    if rows.normalized(one) == rows.normalized(other):  # one name in two forms of Unicode
        data = run_table(tmp_path, records)
        assert len(set(by_own_id(data / "utt2spk").values())) == 3
        return
    with pytest.raises(UserError, match=r"(?s)metadata.csv:\d.*; speaker .*same_speakers: \[\["):
        run_table(tmp_path, records)
    names = json.dumps([[one, other]])
    data = run_table(tmp_path, records, f"{PLAIN}same_speakers: {names}")
    speakers = by_own_id(data / "utt2spk")
    assert speakers["anna_001"] == speakers["ben_001"] == as_id(one)
    data = run_table(tmp_path, records, f"{PLAIN}distinct_speakers: {names}")
    assert len(set(by_own_id(data / "utt2spk").values())) == 4


@pytest.mark.parametrize(
    ("one", "other"), [("1_11", "11_1"), ("s1", "s11"), ("10", "100"), ("1.5", "15"), ("?", "*")]
)
def test_names_of_different_people_are_left_alone(tmp_path, one, other):
    data = run_table(tmp_path, two_names(one, other))
    assert len(set(by_own_id(data / "utt2spk").values())) == 4


@pytest.mark.parametrize("name", ["nan", "NaN", "", "  ", ".", "..", "../"])
def test_what_is_no_name_is_no_speaker(tmp_path, name):
    with pytest.raises(UserError, match=r"metadata.csv:2: (no speaker|speaker '\.)"):
        run_table(tmp_path, two_names(name, "ben"))


def test_half_a_character_is_named_by_its_line(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    (folder / "metadata.csv").unlink()
    rows_ = [dict(zip(HEADER, record, strict=True)) for record in utterances()]
    rows_[2]["text"] = "Well \ud83d"  # JSON can say it, a table of Kaldi cannot
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_))
    with pytest.raises(UserError, match=r"t.jsonl:3: half a character"):
        stage_1(tmp_path, PLAIN, folder)


def test_nan_is_no_transcript(tmp_path):
    data = run_table(tmp_path, changed(0, "text", "nan"))
    texts = by_own_id(data / "text", allow_empty=True)
    assert texts["anna_001"] == "" and texts["anna_002"] == "Hello calm, again."


@pytest.mark.parametrize(
    "line",
    [
        "speakers: {anna: f, bne: m}",
        "sessions: {A: [anna, ben], B: [cora, dirk, bne]}",
        "counts: {speaker: {bne: {angry: 1, neutral: 1}}}",
        "same_speakers: [[ben, bne]]",
        "distinct_speakers: [[ben, bne]]",
    ],
)
def test_people_who_are_not_in_the_corpus_are_named(tmp_path, line):
    message = r"no row is of speaker 'bne'; did you mean ben\?"
    with pytest.raises(UserError, match=f"{line.partition(':')[0]}.*{message}"):
        run_table(tmp_path, utterances(), f"{PLAIN}{line}")


# --- where things are ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["tabs", "sep", "quoted sep", "blank last line", "BOM and sep", "blank first line"]
)
def test_tables_of_spreadsheets_are_read(tmp_path, kind):
    folder = write_table(tmp_path / "calls", utterances())
    path = folder / "metadata.csv"
    mark = {"tabs": "\t", "blank last line": ","}.get(kind, ";")
    stream = io.StringIO()
    csv.writer(stream, delimiter=mark).writerows([HEADER, *utterances()])
    before = {"sep": "sep=;\r\n", "quoted sep": '"sep=;"\n', "BOM and sep": "\ufeffsep=;\n"}
    before["blank first line"] = "\r\n"
    after = "  \n,,,,\n \n" if kind == "blank last line" else ""
    path.write_text(before.get(kind, "") + stream.getvalue() + after, encoding="utf-8", newline="")
    check_four_speakers(stage_1(tmp_path, PLAIN, folder))


@pytest.mark.parametrize("where", ["beside the table", "in the corpus"])
def test_audio_dir_is_a_folder_of_the_corpus_and_is_named_where_it_is_not(tmp_path, where):
    records = [(r[0].replace("/", ""), *r[1:]) for r in utterances()]
    folder = write_table(tmp_path / "calls/samples", records).parent
    inside = folder if where == "beside the table" else folder / "meta"
    inside.mkdir(exist_ok=True)
    (folder / "samples/metadata.csv").rename(inside / "data.csv")
    table = (inside / "data.csv").relative_to(folder)
    (tmp_path / "egs/calls/samples").mkdir(parents=True)
    text = f"{PLAIN}table: {table}\naudio_dir: samples"
    check_four_speakers(stage_1(tmp_path, text, folder))
    with pytest.raises(UserError, match=f"audio_dir .*: no such folder: {folder}.*/sample"):
        stage_1(tmp_path, text.replace("samples", "sample"), folder)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_a_file_whose_name_is_in_another_form_of_unicode_is_found(tmp_path, on_disk):
    table, disk = (
        [(unicodedata.normalize(form, f"Zo\u00eb/K\u00e4se {r[0]}"), *r[1:]) for r in utterances()]
        for form in ({"NFC": "NFD", "NFD": "NFC"}[on_disk], on_disk)
    )
    folder = write_table(tmp_path / "calls", disk)
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *table])
    data = stage_1(tmp_path, PLAIN, folder)
    check_four_speakers(data)
    assert "Zo\u00eb_K\u00e4se_anna_001" in by_own_id(data / "wav.scp")


def test_what_systems_and_programs_leave_beside_a_table_is_none(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    for name in ("._metadata.csv", "~$metadata.csv"):
        (folder / name).write_bytes(b"\0\5")
    check_four_speakers(stage_1(tmp_path, PLAIN, folder))


def test_a_column_without_a_name_is_nothing(tmp_path):
    """That is the index of pandas; columns of valence and so on have to be named."""
    folder = write_table(tmp_path / "calls", utterances())
    records = [["", *HEADER], *([str(i), *u] for i, u in enumerate(utterances()))]
    with open(folder / "metadata.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(records)
    data = stage_1(tmp_path, PLAIN, folder)
    assert not {"utt2valence", "utt2arousal", "utt2dominance"} & {p.name for p in data.iterdir()}


@pytest.mark.parametrize("text", ["one\u2028two", "one\x85two", "one\x0ctwo"])
def test_only_line_ends_end_a_row(tmp_path, text):
    data = run_table(tmp_path, changed(0, "text", text))
    assert by_own_id(data / "text")["anna_001"] == "one two"


def test_blanks_may_stand_before_a_quoted_cell(tmp_path):
    folder = write_table(tmp_path / "calls", utterances())
    rows_ = [HEADER, *utterances()]
    text = "".join(", ".join(f'"{cell}"' for cell in row) + "\n" for row in rows_)
    (folder / "metadata.csv").write_text(text)
    check_four_speakers(stage_1(tmp_path, PLAIN, folder))


def test_one_file_under_two_paths_is_refused(tmp_path):
    records = [list(record) for record in utterances()]
    records[1][0] = "other/001.wav"
    folder = write_table(tmp_path / "calls", records)
    (folder / "other/001.wav").unlink()
    (folder / "other/001.wav").symlink_to(folder / "anna/001.wav")
    with pytest.raises(UserError, match=r":3: .*other/001.wav is also in .*metadata.csv:2"):
        stage_1(tmp_path, PLAIN, folder)
