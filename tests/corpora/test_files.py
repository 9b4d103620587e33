"""Corpora whose paths say everything: patterns that do not fit, and what is said then."""

import json
import shutil
from pathlib import Path

import pytest

from ser.corpora import prepare
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from tests.corpora.test_any_corpus import documented
from tests.corpora.test_egs import write_files
from tests.support import by_own_id

YAML = r"""name: rooms
reader: files
language: en
emotions: [angry, neutral]
label_map: {A: angry, N: neutral}
skip_labels: [L]
pattern: '(?P<speaker>[a-z]+)/(?P<text>t\d)(?P<emotion>[A-Z])\.wav'
columns: {id: '{speaker}_{text}_{emotion}'}
texts: {t1: Hello., t2: Bye.}
"""
FILES = [f"{s}/t{t}{e}.wav" for s in ("anna", "ben", "cora", "dirk") for t in "12" for e in "AN"]


@pytest.fixture
def run(tmp_path):
    """Stage 1 on FILES and others, with lines in place of those of YAML; returns data/rooms/all."""

    def stage_1(line="", files=(), given="corpus"):
        root = write_files(tmp_path / "corpus", [*FILES, *files])
        keys = {new.partition(":")[0] for new in line.splitlines()}
        kept = [old for old in YAML.splitlines() if old.partition(":")[0] not in keys]
        path = tmp_path / "egs/rooms/corpus.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*kept, line, ""]), encoding="utf-8")
        data, egs = tmp_path / "data", tmp_path / "egs"
        prepare.prepare("rooms", data, root.parent / given, egs=egs, nj=1)
        return data / "rooms/all"

    return stage_1


def test_the_documented_file_names_go_through_stage_1(run):
    data = run(documented("rooms"))
    assert len(read_table(data / "wav.scp")) == 16
    assert by_own_id(data / "text")["anna_t2N"] == "Well, thank you."


@pytest.mark.parametrize("given", ["corpus", ".", "corpus/anna"])
def test_the_folder_above_or_a_folder_inside_is_as_good(run, given):
    data = run(given=given)
    assert len(read_table(data / "wav.scp")) == 16
    assert read_table(data / "utt2emo")["anna_t1_neutral"] == "neutral"
    assert read_table(data / "text")["anna_t2_angry"] == "Bye."


def test_what_does_not_fit_is_counted_what_is_ignored_is_not_and_labels_may_be_skipped(run, capsys):
    others = ["anna/x.wav", "song/anna/t1A.wav", "ben/t1L.wav"]
    data = run("ignore: ^song/", others)
    assert len(read_table(data / "wav.scp")) == 16
    out = capsys.readouterr().out
    assert "left out: 1 files that the pattern does not fit, e.g. anna/x.wav" in out
    assert "left out: 1 utterances labelled L" in out


def test_a_second_copy_of_the_corpus_inside_it_is_left_out(run, tmp_path, capsys):
    files = shutil.copytree(write_files(tmp_path / "corpus", FILES), tmp_path / "copy")
    shutil.move(files, tmp_path / "corpus/rooms")
    assert len(read_table(run() / "wav.scp")) == 16
    assert "left out: 16 files that are copies of others, e.g. rooms/" in capsys.readouterr().out


def test_with_i_capitals_are_those_of_corpus_yaml_and_alternatives_make_an_id(run):
    data = run(
        r"pattern: '(?i)(?P<speaker>[a-z]+)/(t(?P<text>\d)|x(?P<own>\d+))(?P<emotion>a|n)\.wav'"
        "\nspeakers: {anna: f}\ntexts: {}"
        "\ncolumns: {id: '{speaker}-{text:03}-{emotion}|{speaker}-x{own}-{emotion}'}",
        ["ANNA/X12n.WAV"],
    )
    assert read_table(data / "utt2spk")["anna-x12-neutral"] == "anna"
    assert read_table(data / "utt2spk")["dirk-001-angry"] == "dirk"
    assert by_own_id(data / "utt2gender")["anna-x12-neutral"] == "f"


@pytest.mark.parametrize(
    ("line", "files", "message"),
    [
        (r"pattern: '(?P<speaker>[a-z]+)/(.wav'", (), r"yaml:\d+: pattern: not a regular expr"),
        ("ignore: '['", (), r"yaml:\d+: ignore: not a regular expression: unterminated"),
        ("pattern:", (), r"yaml:\d+: pattern: missing keys: pattern, a regular"),
        (r"pattern: '(?P<emotion>[A-Z])\.wav'", (), r"pattern: has no group \(\?P<speaker>"),
        (r"pattern: '(?P<speaker>\w+)\.wav'", (), r"pattern: has no group \(\?P<emotion>"),
        ("texts: {t1: Hello.}", (), r"anna/t2A.wav: text 't2' is not in texts"),
        ("columns: {id: '{speakr}'}", (), "no column '{speakr}' for the id; it has speaker, text"),
        ("", ["anna/t1X.wav"], r"anna/t1X.wav: label 'X' is not in label_map \(A, N\)"),
        ("", ["x/anna/t1A.wav"], "x/anna/t1A.wav: the id anna_t1_angry is also that of .*/corpus"),
        (
            r"pattern: '(?P<speaker>\d+)(?P<emotion>a)'",
            (),
            r"(?s)none of its 16 audio files fits the pattern .*; found anna/t1A.wav, "
            r"anna/t1N.wav, anna/t2A.wav: give the folder",
        ),
        (
            "columns: {}",
            (),
            r"ben/t1A.wav: the id t1A is also that of .*anna/t1A.wav; tell them apart: columns:",
        ),
        ("ignore: wav", (), r"no audio \(.*\) in it, besides.* found 16 .wav, 1 .txt: give"),
        ("official: folds", (), "official in corpus.yaml: .*/corpus/folds: no folds; expected"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence_with_its_key_or_file(run, line, files, message):
    with pytest.raises(UserError, match=message):
        run(line, files)


def write_emobox(folder: Path, folds: dict[str, dict[str, list[str]]]) -> None:
    for fold, splits in folds.items():
        (folder / fold).mkdir(parents=True)
        for split, files in splits.items():
            lines = [json.dumps({"key": "k", "wav": f"downloads/rooms/{f}"}) + "\n" for f in files]
            (folder / fold / f"rooms_{split}_{fold}.jsonl").write_text("".join(lines))


def test_folds_of_emobox_are_found_by_the_ends_of_paths(run, tmp_path, capsys):
    of = {s: [f for f in FILES if f.startswith(s)] for s in ("anna", "ben", "cora", "dirk")}
    write_emobox(
        tmp_path / "box",
        {
            "fold_1": {"train": [*of["ben"], *of["cora"]], "test": [*of["anna"], "other/t1A.wav"]},
            "fold_10": {"train": of["anna"], "test": [f.upper() for f in of["ben"]]},
        },
    )
    data = run(f"official: {tmp_path}/box")
    assert "2 folds of 12 of 16 utterances; 1 other recordings in them" in capsys.readouterr().out
    splits = read_table(data / "utt2split")
    assert splits["anna_t1_angry"] == "fold_1:test,fold_10:train"
    assert splits["cora_t1_angry"] == "fold_1:train"
    assert not any(utt.startswith("dirk") for utt in splits)
    assert len(read_lines(data / "emotions")) == 2
    (tmp_path / "box/fold_1/rooms_test_fold_1.jsonl").write_text("{}\n")
    (data / ".done").unlink()
    with pytest.raises(UserError, match="rooms_test_fold_1.jsonl:1: no key wav"):
        run(f"official: {tmp_path}/box")
    write_emobox(tmp_path / "odd", {"fold_1": {"train": ["y/z.wav"]}})
    with pytest.raises(UserError, match="none of its 1 recordings is an utterance here, e.g. down"):
        run(f"official: {tmp_path}/odd")
