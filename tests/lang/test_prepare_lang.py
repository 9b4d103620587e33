"""Stage 2 as a whole: data/<corpus>/all -> lang and lang_<type>."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ser.errors import UserError
from ser.lang.prepare import prepare_lang
from ser.lang.units import TOKEN_TYPES, read_units
from ser.stage import mark_done
from tests.support import ROOT

TEXT = {
    "u1": "[LAUGHTER] Excuse me!",
    "u2": "No, no.",
    "u3": "[BREATHING]",
    "u4": "",
}
EMOTION = {"u1": "angry", "u2": "sad", "u3": "happy", "u4": "neutral"}


def write(path, lines):
    path.write_text("".join(f"{line}".rstrip() + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def data_dir(tmp_path):
    """What stage 1 leaves behind for stage 2."""
    source = tmp_path / "tiny" / "all"
    source.mkdir(parents=True)
    write(source / "text", (f"{utt} {text}" for utt, text in TEXT.items()))
    write(source / "utt2emo", (f"{utt} {emotion}" for utt, emotion in EMOTION.items()))
    write(source / "utt2dur", (f"{utt} 1.0000" for utt in TEXT))
    write(source / "emotions", ["angry", "happy", "sad", "neutral"])
    write(source / "language", ["en"])
    mark_done(source, {})
    return tmp_path / "tiny"


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_lang_holds_lexicon_phones_classes_and_tagged_units(data_dir):
    prepare_lang(data_dir, "tagged_class", 500)
    lang = data_dir / "lang"
    assert (lang / "lexicon.txt").read_text() == ("EXCUSE IH0 K S K Y UW1 S\nME M IY1\nNO N OW1\n")
    assert (lang / "lexicon.oov").read_text() == ""
    assert (lang / "text.words").read_text() == "u1 EXCUSE ME\nu2 NO NO\nu3\nu4\n"
    assert (lang / "text.phn").read_text() == (
        "u1 IH0 K S K Y UW1 S M IY1\nu2 N OW1 N OW1\nu3\nu4\n"
    )
    assert (lang / "text.units").read_text() == (
        "u1 V0 S0 F0 S0 L0 Vs0 F0 N0 Vs0\nu2 N2 Vs2 N2 Vs2\nu3\nu4\n"
    )
    classes = dict(line.split() for line in (lang / "phones_to_class.txt").read_text().splitlines())
    assert len(classes) == 84 and classes["OW1"] == "Vs" and classes["CH"] == "S"
    units = read_units(lang / "units.txt")
    assert len(units) == 25 and units[:3] == ["<blank>", "S0", "S1"] and units[24] == "Vs3"


def test_what_raters_disagree_on_has_no_tag_and_so_no_tagged_units(data_dir):
    write(data_dir / "all/utt2undecided", ["u2 3"])
    prepare_lang(data_dir, "tagged_class", 500)
    prepare_lang(data_dir, "class", 500)
    assert "\nu2\n" in (data_dir / "lang/text.units").read_text()
    assert "\nu2 N Vs N Vs\n" in (data_dir / "lang_class/text.units").read_text()


def test_the_summary_counts_words_tags_and_empty_targets(data_dir, capsys):
    prepare_lang(data_dir, "tagged_class", 500)
    printed = capsys.readouterr().out
    assert "words: 4 spoken, 3 different, pronounced by CMUdict" in printed
    assert "tags dropped: 2 (BREATHING 1, LAUGHTER 1)" in printed
    assert "units: 24 and the blank; 13 in 4 utterances, 3.2 a second" in printed
    assert "with an empty target: 2; with more units than 20-ms frames: 0" in printed
    assert (data_dir / "lang" / "summary.txt").read_text() in printed


def test_targets_that_do_not_fit_into_the_frames_are_counted(data_dir, capsys):
    # 0.105 s give 5 frames; "no no" needs 4, "excuse me" 9.
    write(data_dir / "all" / "utt2dur", (f"{utt} 0.1050" for utt in TEXT))
    prepare_lang(data_dir, "tagged_class", 500)
    assert "more units than 20-ms frames: 1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token_type", "u2", "size"),
    [
        ("class", "N Vs N Vs", 7),
        ("tagged_phone", "N_2 OW1_2 N_2 OW1_2", 1 + 9 * 4),
        ("phone", "N OW1 N OW1", 1 + 9),
        ("char", "N O | N O", 32),
        ("bpe", "▁NO ▁NO", 1 + 14),
    ],
)
def test_each_further_token_type_has_a_directory_of_its_own(data_dir, token_type, u2, size):
    prepare_lang(data_dir, token_type, 14)
    directory = data_dir / f"lang_{token_type}"
    lines = (directory / "text.units").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [f"u2 {u2}", "u3", "u4"]
    units = read_units(directory / "units.txt")
    assert len(units) == size
    assert set(" ".join(line.partition(" ")[2] for line in lines).split()) <= set(units)
    assert (data_dir / "lang" / ".done").is_file() and (directory / ".done").is_file()


def test_running_again_changes_nothing_and_says_so(data_dir, capsys):
    prepare_lang(data_dir, "char", 500)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    capsys.readouterr()
    prepare_lang(data_dir, "char", 500)
    assert capsys.readouterr().out.count("already done") == 2
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("text", "No, no.", "No, yes."),
        ("utt2emo", "u2 sad", "u2 angry"),
        ("emotions", "sad\nneutral", "neutral\nsad"),
    ],
)
def test_a_changed_input_is_noticed(data_dir, table, old, new):
    prepare_lang(data_dir, "tagged_class", 500)
    before = contents(data_dir / "lang")
    path = data_dir / "all" / table
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    prepare_lang(data_dir, "tagged_class", 500)
    assert contents(data_dir / "lang")[Path("text.units")] != before[Path("text.units")]


def test_another_bpe_size_is_noticed(data_dir):
    prepare_lang(data_dir, "bpe", 14)
    prepare_lang(data_dir, "bpe", 12)
    assert len(read_units(data_dir / "lang_bpe" / "units.txt")) == 13


def test_without_stage_1_the_stage_to_run_is_named(tmp_path):
    with pytest.raises(UserError, match="corpus tables not found .*--stage 1"):
        prepare_lang(tmp_path / "tiny", "tagged_class", 500)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_token_type_lists_those_that_exist(data_dir):
    with pytest.raises(UserError, match="--token-type words: no such type") as err:
        prepare_lang(data_dir, "words", 500)
    assert all(name in str(err.value) for name in TOKEN_TYPES)


@pytest.mark.parametrize("language", ["en", "cmn"])
@pytest.mark.parametrize("token_type", sorted(set(TOKEN_TYPES) - {"bpe"}))
def test_a_corpus_without_any_word_gets_empty_targets_and_hears_why(
    data_dir, token_type, language, capsys
):
    write(data_dir / "all" / "text", ["u1", "u2 [LAUGHTER]", "u3", "u4"])
    write(data_dir / "all" / "language", [language])
    for _ in range(2):  # the second time it is done already
        prepare_lang(data_dir, token_type, 500)
        printed = capsys.readouterr().out
        assert "no words in any of 4 utterances: systems with a phoneme or character" in printed
        assert "to give transcripts: ./run.sh --stage 1 --text FILE" in printed
    for name in ("lang", "lang" if token_type == "tagged_class" else f"lang_{token_type}"):
        assert (data_dir / name / "text.units").read_text() == "u1\nu2\nu3\nu4\n"
    assert len(read_units(data_dir / "lang" / "units.txt")) == 25
    assert (data_dir / "lang" / "text.words").read_text() == "u1\nu2\nu3\nu4\n"


def test_transcripts_that_come_later_are_noticed(data_dir):
    text = (data_dir / "all" / "text").read_text()
    write(data_dir / "all" / "text", TEXT)
    prepare_lang(data_dir, "tagged_class", 500)
    (data_dir / "all" / "text").write_text(text)
    prepare_lang(data_dir, "tagged_class", 500)
    assert "u2 N2 Vs2 N2 Vs2\n" in (data_dir / "lang" / "text.units").read_text()


def test_bpe_without_a_word_is_refused_with_the_cure(data_dir):
    write(data_dir / "all" / "text", TEXT)
    with pytest.raises(UserError, match="no words in any of 4 utterances, .* bpe .*--text FILE"):
        prepare_lang(data_dir, "bpe", 500)
    assert not (data_dir / "lang_bpe").exists()


def test_a_table_without_utterances_is_refused_and_nothing_is_written(data_dir):
    (data_dir / "all" / "text").write_text("")
    with pytest.raises(UserError, match="all/text: no utterances"):
        prepare_lang(data_dir, "tagged_class", 500)
    assert [path.name for path in data_dir.iterdir()] == ["all"]


def test_a_word_without_pronunciation_leaves_an_older_lang_as_it_was(data_dir):
    prepare_lang(data_dir, "tagged_class", 500)
    before = contents(data_dir / "lang")
    write(data_dir / "all" / "text", ["u1 日本", "u2 no", "u3", "u4"])
    with pytest.raises(UserError, match="all/text: utterance u1: the word '日本'"):
        prepare_lang(data_dir, "tagged_class", 500)
    assert contents(data_dir / "lang") == before


def test_a_full_disk_leaves_an_older_lang_as_it_was(data_dir, monkeypatch):
    prepare_lang(data_dir, "tagged_class", 500)
    before = contents(data_dir / "lang")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ser.lang.prepare.write_units", full)
    write(data_dir / "all" / "text", ["u1 yes", "u2 no", "u3", "u4"])
    with pytest.raises(OSError, match="No space"):
        prepare_lang(data_dir, "tagged_class", 500)
    assert contents(data_dir / "lang") == before
    assert sorted(path.name for path in data_dir.iterdir()) == ["all", "lang"]


def test_a_bpe_size_beyond_the_corpus_leaves_no_directory_behind(data_dir):
    with pytest.raises(UserError, match="--bpe-size 500: .*largest possible size is"):
        prepare_lang(data_dir, "bpe", 500)
    assert sorted(path.name for path in data_dir.iterdir()) == ["all", "lang"]


def test_a_label_outside_the_emotions_is_named(data_dir):
    (data_dir / "all" / "emotions").write_text("angry\nhappy\n")
    with pytest.raises(UserError, match="utt2emo: u2 is 'sad', expected one of angry, happy"):
        prepare_lang(data_dir, "tagged_class", 500)


def test_an_utterance_that_another_table_lacks_is_named(data_dir):
    (data_dir / "all" / "utt2dur").write_text("u1 1.0\n")
    with pytest.raises(UserError, match="all/utt2dur: u2 is missing"):
        prepare_lang(data_dir, "tagged_class", 500)


def test_german_goes_through_espeak(data_dir):
    write(data_dir / "all" / "text", ["u1 Der Lappen", "u2 Für heute!", "u3", "u4"])
    write(data_dir / "all" / "language", ["de"])
    prepare_lang(data_dir, "tagged_class", 500)
    lang = data_dir / "lang"
    assert (lang / "text.units").read_text() == (
        "u1 S0 V0 L0 L0 Vs0 S0 V0 N0\nu2 F2 Vs2 L2 F2 Vs2 S2 V2\nu3\nu4\n"
    )
    assert "HEUTE h ˈɔø t ə\n" in (lang / "lexicon.txt").read_text(encoding="utf-8")
    assert "ˈɔø Vs\n" in (lang / "phones_to_class.txt").read_text(encoding="utf-8")


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ser", "lang", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_the_command_makes_units(data_dir):
    done = launch("--data-dir", data_dir, "--token_type", "phone")
    assert done.returncode == 0, done.stderr
    assert "lang_phone: done" in done.stdout


def test_the_command_reports_an_error_in_one_line(tmp_path):
    done = launch("--data-dir", tmp_path / "nothing here")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--data-dir", "d", "--tokens", "phone"]])
def test_the_command_refuses_wrong_usage_with_status_2(arguments):
    assert launch(*arguments).returncode == 2


def test_the_help_lists_the_token_types():
    done = launch("--help")
    assert done.returncode == 0
    assert "--token-type" in done.stdout
    assert all(name in done.stdout for name in TOKEN_TYPES)
