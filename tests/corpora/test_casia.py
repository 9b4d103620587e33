"""CASIA by its corpus.yaml, and stages 1 to 3 on a fabricated one with and without transcripts."""

from pathlib import Path

import pytest

from ser.corpora import files, prepare
from ser.data.folds import audit_folds
from ser.data.prepare import prepare_dump
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.lang.prepare import prepare_lang
from ser.lang.units import read_units
from ser.provenance import EGS
from tests.support.fabricate_casia import (
    EMOTIONS,
    FREE_EMOTIONS,
    FREE_SPEAKERS,
    SENTENCES,
    SPEAKERS,
    write_beeps,
    write_corpus_yaml,
    write_speech,
)

SPEC = prepare.load_spec("casia")


@pytest.fixture
def egs(tmp_path):
    """A corpus.yaml of two sentences."""
    return write_corpus_yaml(tmp_path / "egs")


@pytest.fixture
def corpus(tmp_path):
    return write_beeps(tmp_path / "CASIA", SENTENCES)


def _prepare(tmp_path, corpus_dir, **options):
    prepare.prepare("casia", tmp_path / "data", corpus_dir, **options)
    return tmp_path / "data/casia/all"


def _counted(root):
    """(number of utterances, the edition in words, differences from its counts)."""
    reading = _read(root)
    spec, edition = prepare.choose_edition(SPEC, reading.utterances)
    differences = prepare.check_counts(reading, spec, SPEC.emotions)
    return len(reading.utterances), edition, differences


def _read(root, emotions=SPEC.emotions):
    return files.Reader(SPEC, EGS, root).read(root, SPEC, emotions)


def test_the_corpus_is_found_from_within(tmp_path, corpus, egs, monkeypatch):
    monkeypatch.chdir(corpus / "liuchanhg/angry")
    for inside in (".", "..", "../.."):
        data = _prepare(tmp_path, Path(inside), egs=egs)
        assert len(read_table(data / "utt2spk")) == 4 * 6 * len(SENTENCES)


def test_folders_and_file_names_give_id_speaker_emotion_and_pseudo_session(tmp_path, corpus, egs):
    data = _prepare(tmp_path, corpus, egs=egs)
    utt = "ZhaoZuoxiang_surprise_202"
    assert read_table(data / "wav.scp")[utt] == str(corpus / "ZhaoZuoxiang/surprise/202.wav")
    assert read_table(data / "utt2spk")[utt] == "ZhaoZuoxiang"
    assert read_table(data / "utt2emo")[utt] == "surprise"
    assert read_table(data / "utt2gender")[utt] == "m"
    assert read_table(data / "utt2session")[utt] == "Ses02"
    assert read_table(data / "text", allow_empty=True)[utt] == ""
    assert len(read_table(data / "wav.scp")) == 48
    assert read_lines(data / "language") == ["cmn"]
    assert read_lines(data / "emotions") == ["angry", "happy", "sad", "neutral", "fear", "surprise"]


def test_the_public_subset_is_1200_files(tmp_path, capsys):
    data = _prepare(tmp_path, write_beeps(tmp_path / "CASIA", range(201, 251)))
    assert len(read_table(data / "wav.scp")) == 1200
    assert not (data / "partial").exists()
    printed = capsys.readouterr().out
    assert "liuchanhg     f    Ses01       50     50   50       50    50        50   300" in printed
    assert "states no counts" not in printed  # it has editions


def test_the_full_corpus_is_9600_files_in_two_parts_with_numbers_of_their_own(tmp_path):
    root = tmp_path / "CASIA"
    write_beeps(root / "相同文本300", range(1, 301))
    write_beeps(root / "不同文本100", range(1, 101), FREE_SPEAKERS, FREE_EMOTIONS)
    assert files.Reader(SPEC, EGS, root).find(tmp_path) == root
    assert _counted(root) == (9600, " as edition 'full'", [])
    by_id = {u.utt_id: u for u in _read(root).utterances}
    common, free = by_id["zhaoquanyin_neutral_007"], by_id["zhaoquanyin_neutral_free007"]
    assert common.wav == root / "相同文本300/zhaoquanyin/neutral/007.wav"
    assert free.wav == root / "不同文本100/Quanyin.Zhao/normal/007.wav"
    # The free sentence 007 of another emotion has other words.
    assert (common.sentence, free.sentence) == ("007", "")


def test_a_full_corpus_numbered_from_1_to_400_is_read_as_well(tmp_path):
    root = write_beeps(tmp_path / "CASIA", range(1, 401), ["wangzhe"], ["sad"])
    number, edition, problems = _counted(root)
    assert (number, edition) == (400, " as edition 'full'")
    assert "speaker wangzhe sad" not in str(problems)
    sentences = {u.utt_id: u.sentence for u in _read(root, ["sad"]).utterances}
    assert sentences["wangzhe_sad_300"] == "300"
    assert sentences["wangzhe_sad_301"] == ""  # from here on it is one of this emotion alone


def test_the_common_sentences_of_the_full_corpus_alone_are_short(tmp_path):
    root = write_beeps(tmp_path / "相同文本300", range(1, 301), ["wangzhe"], ["sad"])
    number, edition, problems = _counted(root)
    assert (number, edition) == (300, " as edition 'full'")
    assert "speaker wangzhe sad: 300 found, 400 expected" in problems


def test_short_folders_are_named_and_a_partial_corpus_is_recorded(tmp_path, corpus, egs):
    (corpus / "wangzhe/sad/202.wav").unlink()
    for path in (corpus / "liuchanhg/fear").iterdir():
        path.unlink()
    with pytest.raises(UserError) as caught:
        _prepare(tmp_path, corpus, egs=egs)
    message = str(caught.value)
    assert "egs/casia/corpus.yaml describes as edition 'subset'" in message
    assert "speaker wangzhe sad: 1 found, 2 expected" in message
    assert "speaker liuchanhg fear: 0 found, 2 expected" in message
    assert "--allow-partial true" in message
    assert not (tmp_path / "data").exists()
    data = _prepare(tmp_path, corpus, egs=egs, allow_partial=True)
    assert len(read_table(data / "wav.scp")) == 45
    assert "speaker wangzhe sad: 1 found, 2 expected" in read_lines(data / "partial")


def test_a_file_too_many_does_not_make_another_edition(tmp_path):
    root = write_beeps(tmp_path / "CASIA", range(201, 251))
    (root / "wangzhe/sad/251.wav").write_bytes((root / "wangzhe/sad/250.wav").read_bytes())
    assert _counted(root) == (
        1201,
        " as edition 'subset'",
        [
            "total: 1201 found, 1200 expected",
            "session Ses01: 601 found, 600 expected",
            "emotion sad: 201 found, 200 expected",
            "speaker wangzhe sad: 51 found, 50 expected",
        ],
    )


@pytest.mark.parametrize(
    "given", ["CASIA", ".", "CASIA/wangzhe", "CASIA/wangzhe/sad"], ids=lambda given: given
)
def test_the_folder_above_or_inside_is_mended_and_said(tmp_path, corpus, egs, given, capsys):
    data = _prepare(tmp_path, tmp_path / given, egs=egs)
    assert len(read_table(data / "wav.scp")) == 48
    said = f"the corpus lies in {corpus}; using that" in capsys.readouterr().out
    assert said == (given != "CASIA")


def test_other_capitals_further_levels_and_leftovers_do_no_harm(tmp_path, egs):
    root = write_beeps(
        tmp_path / "x/CASIA/wav",
        SENTENCES,
        [name.swapcase() for name in SPEAKERS],
        [name.capitalize() for name in EMOTIONS],
    )
    folder = root / "LIUCHANHG/Angry"
    (folder / "201.wav").rename(folder / "201.WAV")
    (folder / "._201.wav").write_bytes(b"\0\5\x16\7")
    (folder / "Thumbs.db").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    fork = tmp_path / "x/__MACOSX/wangzhe/sad"
    fork.mkdir(parents=True)
    (fork / "201.wav").write_bytes(b"\0\5\x16\7")
    data = _prepare(tmp_path, tmp_path / "x", egs=egs)
    wavs = read_table(data / "wav.scp")
    assert len(wavs) == 48
    assert wavs["liuchanhg_angry_201"] == str(folder / "201.WAV")


def test_the_wrong_folder_is_an_error(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"no audio \(.*\) in it; found no files: give"):
        _prepare(tmp_path, tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zhaoyan/sad/201.wav", "left out: 1 files that the pattern does not fit, e.g. {}"),
        ("wangzhe/sad/a.wav", "left out: 1 files that the pattern does not fit, e.g. {}"),
        ("wangzhe/bored/001.wav", "{}: label 'bored' is not in label_map"),
        ("x.y/sad/001.wav", "speaker x.y: in no session of corpus.yaml"),
    ],
)
def test_a_wav_file_elsewhere_is_counted_or_refused(tmp_path, corpus, egs, name, message, capsys):
    path = corpus / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    try:
        assert len(read_table(_prepare(tmp_path, corpus, egs=egs) / "wav.scp")) == 48
        found = capsys.readouterr().out
    except UserError as err:
        found = str(err)
    assert message.format(name) in found


def test_two_corpora_in_one_folder_are_refused(tmp_path, egs):
    for name in ("a", "b"):
        write_beeps(tmp_path / "x" / name / "CASIA", SENTENCES)
    (other,) = (tmp_path / "x/b").glob("**/*Zuoxiang/angry/201.wav")
    other.write_bytes(other.read_bytes() + b"another")
    copy = "x/b/CASIA/.*201.wav: the id ZhaoZuoxiang_angry_201 is also that of .*x/a/CASIA"
    with pytest.raises(UserError, match=copy):
        _prepare(tmp_path, tmp_path / "x", egs=egs, allow_partial=True)


def test_four_emotions_leave_two_out_and_say_so(tmp_path, corpus, egs, capsys):
    data = _prepare(tmp_path, corpus, egs=egs, emotions="4")
    assert read_lines(data / "emotions") == ["angry", "happy", "sad", "neutral"]
    assert len(read_table(data / "wav.scp")) == 32
    assert "left out: 8 utterances labelled fear" in capsys.readouterr().out


def test_every_pseudo_session_is_one_woman_and_one_man():
    pairs = [[SPEC.speakers[s] for s in members] for members in SPEC.sessions.values()]
    assert pairs == [["f", "m"]] * 2
    assert {s for members in SPEC.sessions.values() for s in members} == set(SPEAKERS)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech") / "CASIA")


def _stages(tmp_path, corpus_dir, text=None):
    """Stages 1 to 3, with the folds of both protocols; returns data/casia and dump/casia."""
    data, dump = tmp_path / "data/casia", tmp_path / "dump/casia"
    egs = write_corpus_yaml(tmp_path / "egs")
    prepare.prepare("casia", tmp_path / "data", corpus_dir, text=text, egs=egs)
    prepare_lang(data, "tagged_class", 500)
    for protocol in ("strict", "paper"):
        prepare_dump(data, dump, "tagged_class", "raw", protocol, 1)
    return data, dump


def test_without_transcripts_stages_1_to_3_give_empty_targets(tmp_path, speech, capsys):
    data, dump = _stages(tmp_path, speech)
    assert "no words in any of 48 utterances: systems with a phoneme" in capsys.readouterr().out
    targets = read_table(dump / "text", allow_empty=True)
    assert len(targets) == 48 and not any(targets.values())
    assert len(read_units(dump / "units.txt")) == 1 + 6 * 6  # six classes, six emotions


def test_with_transcripts_the_targets_are_the_classes_of_mandarin_phonemes(tmp_path, speech):
    text = tmp_path / "sentences.txt"
    text.write_text("".join(f"{n} {words}\n" for n, words in SENTENCES.items()), encoding="utf-8")
    data, dump = _stages(tmp_path, speech, text)
    targets = read_table(dump / "text")
    # jiu4 shi4 xia4 yu3 ye3 qu4, in anger (0) and surprise (5)
    classes = ["S", "Vs", "F", "Vs", "F", "Vs", "L", "Vs", "L", "Vs", "S", "Vs"]
    for number, emotion in ((0, "angry"), (5, "surprise")):
        for speaker in SPEAKERS:
            found = targets[f"{speaker}_{emotion}_201"]
            assert found == " ".join(f"{name}{number}" for name in classes)
    assert read_table(data / "lang/text.words")["wangzhe_sad_202"] == SENTENCES[202]


def test_the_folds_of_both_protocols_hold_every_speaker_out(tmp_path, speech):
    _, dump = _stages(tmp_path, speech)
    partner = {"liuchanhg": "wangzhe", "zhaoquanyin": "ZhaoZuoxiang"}
    partner |= {man: woman for woman, man in partner.items()}
    for protocol in ("strict", "paper"):
        folds = dump / "folds" / protocol
        assert sorted(read_lines(folds / "folds")) == sorted(SPEAKERS)
        assert audit_folds(protocol, folds, dump)
        for test in SPEAKERS:
            assert {u.split("_")[0] for u in read_lines(folds / test / "test")} == {test}
            trained = {u.split("_")[0] for u in read_lines(folds / test / "train")}
            if protocol == "strict":
                valid = {u.split("_")[0] for u in read_lines(folds / test / "valid")}
                assert valid == {partner[test]}
                assert trained == set(SPEAKERS) - {test, partner[test]}
            else:
                assert trained == set(SPEAKERS) - {test}
