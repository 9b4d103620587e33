"""Transcripts that the user gives with --text."""

from pathlib import Path

import pytest

from ser.corpora import Reading, prepare
from ser.corpora.texts import add_texts
from ser.data.tables import Utterance, read_table
from ser.errors import UserError
from ser.provenance import run_command
from tests.support.fabricate import write_corpus_yaml as write_iemocap_yaml
from tests.support.fabricate import write_iemocap
from tests.support.fabricate_casia import SENTENCES, write_beeps, write_corpus_yaml


def _utterance(utt_id, sentence="", text="its own words"):
    return Utterance(utt_id, Path(f"/{utt_id}.wav"), text, "s1", "sad", "f", "Ses01", 1.0, sentence)


READING = Reading(
    [_utterance("s1_sad_201", "201"), _utterance("s1_sad_202", "202"), _utterance("s1_sad_free1")],
    left_out={"s1_fear_201"},
)


@pytest.fixture
def words(tmp_path):
    """What add_texts makes of a file with these bytes: words by utterance."""

    def read(content):
        path = tmp_path / "sentences.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return {u.utt_id: u.text for u in add_texts(path, READING)}

    return read


def test_lines_of_ids_give_words_and_who_has_no_line_has_none(words, capsys):
    found = words("s1_sad_free1 我走了\ns1_sad_202 你 好\n")
    assert found == {"s1_sad_201": "", "s1_sad_202": "你 好", "s1_sad_free1": "我走了"}
    printed = capsys.readouterr().out
    assert "sentences.txt: words for 2 of 3 utterances; the other 1 count as without" in printed


def test_lines_of_sentences_hold_for_all_their_utterances_and_an_id_goes_before(words):
    found = words("201 就是下雨也去\n202 天气真好\ns1_sad_202 天气\n")
    assert found == {"s1_sad_201": "就是下雨也去", "s1_sad_202": "天气", "s1_sad_free1": ""}


def test_a_line_without_words_takes_the_words_of_the_sentence_away(words):
    assert words("201 就\n202 去\ns1_sad_202\n")["s1_sad_202"] == ""


def test_files_from_windows_blank_lines_and_wide_blanks_are_read(words):
    found = words("\ufeff201\t就是\r\n\r\n\ufeff202\u3000今天 天气\r\n")  # two files joined
    assert found["s1_sad_201"] == "就是"
    assert found["s1_sad_202"] == "今天 天气"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_ends_and_marked_encodings_are_read(words, encoding, end):
    found = words(f"201 就是{end}202 今天{end}".encode(encoding))
    assert (found["s1_sad_201"], found["s1_sad_202"]) == ("就是", "今天")


def test_lines_of_recordings_that_this_copy_lacks_are_counted(words, capsys):
    assert words("201 a\n\n205 b\n206 c\n")["s1_sad_201"] == "a"
    printed = capsys.readouterr().out
    assert "left out: 2 lines of --text, e.g. " in printed
    assert "sentences.txt:3: no utterance of the corpus is called '205'" in printed


def test_lines_of_utterances_that_the_chosen_emotions_leave_out_are_no_mistake(words):
    assert words("201 就\ns1_fear_201 就\n")["s1_sad_201"] == "就"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("204 a\n\n205 b\n", r"sentences.txt:3: no utterance of the corpus is called '205'"),
        ("201 a\n201 b\n", r"sentences.txt:2: 201 stands here a second time"),
        ("s1_sad_21 a\n", r"'s1_sad_201 \.\.\.', or '<sentence> words', e.g. '201 \.\.\.'"),
        (
            "201 a\n202 就".encode("gb18030"),
            r"sentences.txt:2: not UTF-8; .*iconv -f CP1252 .or GB18030",
        ),
        ("201 a\n".encode("utf-16-le"), r"sentences.txt: holds zero bytes.*iconv -f UTF-16LE"),
        ("201 a\n".encode("utf-16") + b"\n", r"sentences.txt:2: not UTF-8"),
        ("\n \n", r"sentences.txt: the file is empty; expected lines '<utterance id> words'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(words, content, message):
    with pytest.raises(UserError, match=message):
        words(content)


@pytest.fixture
def stage_1(tmp_path):
    """Stage 1 on a fabricated CASIA of two sentences; returns what its text holds."""
    egs = write_corpus_yaml(tmp_path / "egs")
    corpus = write_beeps(tmp_path / "CASIA", SENTENCES)

    def run(text):
        prepare.prepare("casia", tmp_path / "data", corpus, egs=egs, text=text)
        return read_table(tmp_path / "data/casia/all/text", allow_empty=True)

    return run


def test_stage_1_runs_again_when_the_file_changes_comes_or_goes(tmp_path, stage_1, capsys):
    path = tmp_path / "sentences.txt"
    path.write_text("201 就\n", encoding="utf-8")
    assert not any(stage_1(None).values())
    assert stage_1(path)["wangzhe_sad_201"] == "就"
    path.write_text("201 也\n", encoding="utf-8")
    assert stage_1(path)["wangzhe_sad_201"] == "也"
    capsys.readouterr()
    stage_1(path)
    assert "already done" in capsys.readouterr().out
    assert not any(stage_1(None).values())


def test_a_wrong_file_leaves_the_tables_as_they_were(tmp_path, stage_1):
    path = tmp_path / "sentences.txt"
    path.write_text("201 就\n", encoding="utf-8")
    stage_1(path)
    path.write_text("999 就\n", encoding="utf-8")
    with pytest.raises(UserError, match="no utterance of the corpus is called '999'"):
        stage_1(path)
    with pytest.raises(UserError, match="--text .*: no such file"):
        stage_1(tmp_path / "absent.txt")
    found = read_table(tmp_path / "data/casia/all/text", allow_empty=True)
    assert found["wangzhe_sad_201"] == "就"


def test_other_transcripts_than_those_of_stage_1_are_noticed(tmp_path, stage_1):
    path = tmp_path / "sentences.txt"
    path.write_text("201 就\n", encoding="utf-8")
    data = tmp_path / "data"
    prepare.require_same_options("casia", data, text=path)  # no stage 1 yet
    stage_1(path)
    prepare.require_same_options("casia", data, text=path)
    prepare.require_same_options("casia", data)
    path.write_text("201 也\n", encoding="utf-8")
    with pytest.raises(UserError, match="--text .*: .*casia/all was made with other transcripts"):
        prepare.require_same_options("casia", data, text=path)


def test_the_words_of_a_corpus_that_has_some_are_replaced(tmp_path):
    egs = write_iemocap_yaml(tmp_path / "egs")
    root = write_iemocap(tmp_path / "IEMOCAP", seconds=0.05)
    path = tmp_path / "words.txt"
    # The second one is labelled xxx, the third in an emotion that is left out.
    path.write_text("Ses01F_impro01_F000 Hello.\nSes01F_impro01_F004 x\nSes01F_impro01_F005 y\n")
    prepare.prepare("iemocap", tmp_path / "data", root, egs=egs, text=path)
    text = read_table(tmp_path / "data/iemocap/all/text", allow_empty=True)
    assert text.pop("Ses01F_impro01_F000") == "Hello."
    assert len(text) == 135 and not any(text.values())


def test_the_command_of_a_result_names_the_file():
    run = {"corpus": "casia", "config": "conf/a.yaml", "protocol": "strict", "seed": 1}
    marker = {"corpus_dir": "/private/CASIA", "text": "/private/sentences.txt", "text_digest": "1"}
    assert run_command(run, marker) == (
        "./run.sh --corpus casia --corpus-dir PATH/TO/CASIA --text PATH/TO/sentences.txt "
        "--config conf/a.yaml --protocol strict --seed 1"
    )
