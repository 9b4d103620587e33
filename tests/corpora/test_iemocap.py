import errno
import shutil
from pathlib import Path

import pytest
import yaml

from ser import provenance
from ser.corpora import iemocap, prepare
from ser.data.tables import read_lines
from ser.errors import UserError
from tests.support import ROOT, by_own_id, fabricate

EGS = ROOT / "egs"


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return fabricate.write_iemocap(tmp_path_factory.mktemp("corpus") / "IEMOCAP_full_release")


@pytest.fixture
def root(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "IEMOCAP_full_release"))


@pytest.fixture
def egs(tmp_path):
    return fabricate.write_corpus_yaml(tmp_path / "egs")


@pytest.fixture
def stage1(tmp_path, root, egs):
    """Run stage 1 on the fabricated tree; returns data/iemocap/all."""

    def run(corpus_dir=root, **options):
        data = tmp_path / "data"
        prepare.prepare("iemocap", data, corpus_dir, egs=egs, **options)
        return data / "iemocap/all"

    return run


def _labels(root, dialog):
    return root / f"Session{dialog[4]}/dialog/EmoEvaluation/{dialog}.txt"


def _transcript(root, dialog):
    return root / f"Session{dialog[4]}/dialog/transcriptions/{dialog}.txt"


def _wav(root, utt):
    dialog = utt.rpartition("_")[0]
    return root / f"Session{dialog[4]}/sentences/wav/{dialog}/{utt}.wav"


def _replace(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def test_a_tree_with_every_oddity_is_read_in_full(stage1):
    data = stage1()
    assert len(by_own_id(data / "wav.scp")) == 136
    assert read_lines(data / "emotions") == ["angry", "happy", "sad", "neutral"]
    assert not (data / "partial").exists()


def test_the_speaker_is_the_session_and_the_last_letter(stage1):
    data = stage1()
    speakers, genders = by_own_id(data / "utt2spk"), by_own_id(data / "utt2gender")
    assert speakers["Ses01F_impro01_M001"] == "Ses01M"
    assert speakers["Ses01M_impro05a_F001"] == "Ses01F"
    assert genders["Ses01F_impro01_M001"] == "m"
    assert all(speakers[u] == u[:5] + u[-4] for u in speakers)
    assert len(set(speakers.values())) == 10


def test_the_label_is_the_third_field_and_not_the_raters_votes(stage1):
    emotions = by_own_id(stage1() / "utt2emo")
    assert emotions["Ses02F_impro01_F000"] == "neutral"
    assert emotions["Ses02F_impro01_F001"] == "happy"  # hap
    assert emotions["Ses02F_impro01_M001"] == "happy"  # exc
    assert emotions["Ses02F_impro01_M002"] == "angry"
    assert "Ses02F_impro01_F004" not in emotions  # xxx
    assert "Ses01F_impro01_F005" not in emotions  # sur


def test_values_are_the_fourth_field_and_raters_are_not_the_actors(stage1, root):
    path = _labels(root, "Ses01F_impro01")  # F000 M000 F001 M001 ...
    _replace(path, b"C-E3:\tNeutral; Anger;", b"C-E3:\tBored;")
    _replace(path, b"\thap\t[2.5000, 3.0000, 3.6667]", b"\thap\t[]")
    data = stage1()
    values = {name: by_own_id(data / f"utt2{name}") for name in ("valence", "arousal", "dominance")}
    assert [of["Ses01F_impro01_M000"] for of in values.values()] == ["2.5000", "2.0000", "3.6667"]
    raters = by_own_id(data / "utt2raters")
    assert set(raters) == set(by_own_id(data / "utt2emo"))
    assert set(by_own_id(data / "utt2emo")) - set(values["valence"]) == {"Ses01F_impro01_F001"}
    assert raters.pop("Ses01F_impro01_F000") == "neutral bor"
    assert set(raters.values()) == {"neutral neutral,angry"}


def test_utterances_without_a_majority_come_in_where_they_are_asked_for(stage1, root, capsys):
    path = _labels(root, "Ses01F_impro01")
    block = path.read_bytes().partition(b"Ses01F_impro01_F004\txxx")
    votes = block[2].replace(b"C-E2:\tNeutral;", b"C-E2:\tSurprise;", 1)
    votes = votes.replace(b"C-E3:\tNeutral; Anger;", b"C-E3:\tExcited;", 1)
    path.write_bytes(block[0] + block[1] + votes)
    plain = by_own_id(stage1() / "utt2emo")
    data = stage1(undecided=True)
    emotions, raters = by_own_id(data / "utt2emo"), by_own_id(data / "utt2raters")
    undecided = by_own_id(data / "utt2undecided")
    assert plain == {utt: emotions[utt] for utt in emotions.keys() - undecided.keys()}
    assert len(undecided) == 17 and set(undecided.values()) == {"2"}
    assert raters["Ses01F_impro01_F004"] == "sur happy"
    assert {utt: emotions[utt] for utt in undecided} == {
        **dict.fromkeys(undecided, "neutral"),
        "Ses01F_impro01_F004": "happy",
    }
    assert "undecided: 17 of the utterances left out" in capsys.readouterr().out
    assert "utt2undecided" not in {path.name for path in stage1().iterdir()}


def test_undecided_utterances_are_those_of_which_a_rater_names_an_emotion(stage1, root):
    for path in root.glob("Session*/dialog/EmoEvaluation/*.txt"):
        said = path.read_bytes().replace(b"Neutral;", b"Bored;").replace(b"Anger;", b"Bored;")
        path.write_bytes(said)
    with pytest.raises(UserError, match="--undecided: iemocap has no utterance without a majority"):
        stage1(undecided=True)


def test_a_dialog_whose_name_begins_like_anothers_keeps_its_own_utterances(stage1, root):
    _replace(
        _transcript(root, "Ses05M_script01_1"),
        b"[006.2901-008.2357]: Excuse me.",
        b"[006.2901-008.2357]: Short name.",
    )
    texts = by_own_id(stage1() / "text")
    assert texts["Ses05M_script01_1_F000"] == "Short name."
    assert texts["Ses05M_script01_1b_F000"] == "Excuse me."


def test_texts_keep_their_tags_and_tolerate_latin_1_and_crlf(stage1):
    texts = by_own_id(stage1() / "text", allow_empty=True)
    assert texts["Ses01F_impro01_M000"] == "[LAUGHTER]"
    assert texts["Ses01F_impro01_F003"] == "At the café."
    assert texts["Ses02M_impro05a_F000"] == "Excuse me."
    assert not any("\r" in text for text in texts.values())


def test_what_was_left_out_is_counted_and_the_table_printed(stage1, capsys):
    stage1()
    out = capsys.readouterr().out
    for line in (
        "left out: 17 utterances labelled xxx",
        "left out: 1 utterances labelled dis",
        "left out: 34 transcript lines of unlabelled turns",
        "left out: 34 transcript lines without an utterance id",
    ):
        assert line in out
    assert "Ses05M   m    Ses05        5      5    5        5   20" in out
    assert "all                       34     34   34       34  136" in out


@pytest.mark.parametrize("inside", ["Session1", "Session3/dialog/EmoEvaluation", "..", "."])
def test_a_folder_too_deep_or_too_shallow_is_mended_and_said(stage1, root, inside, capsys):
    assert (stage1(root / inside) / ".done").is_file()
    said = "using that" in capsys.readouterr().out
    assert said == (inside != ".")


def test_the_wrong_folder_is_an_error_that_shows_what_it_holds(stage1, tmp_path):
    other = tmp_path / "other"
    (other / "wav").mkdir(parents=True)
    with pytest.raises(UserError, match=r"--corpus-dir .*other: expected .*it holds wav"):
        stage1(other)
    with pytest.raises(UserError, match="no such folder"):
        stage1(tmp_path / "nowhere")


def test_two_corpora_in_one_folder_are_not_chosen_between(stage1, root, original):
    shutil.copytree(original, root.parent / "copy of IEMOCAP")
    with pytest.raises(UserError, match="several .* do: IEMOCAP_full_release, copy of IEMOCAP"):
        stage1(root.parent)


def test_folders_that_may_not_be_listed_are_passed_over(stage1, root, monkeypatch):
    closed = [root.parent / "lost+found", root.parent.parent]
    closed[0].mkdir()
    iterdir = Path.iterdir

    def refuse(path):
        if path in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert (stage1(root.parent) / ".done").is_file()


def test_without_corpus_dir_the_option_is_asked_for(stage1):
    with pytest.raises(UserError, match="--corpus-dir: needed for iemocap"):
        stage1(None)


def test_a_missing_label_file_is_named_with_the_counts_it_spoils(stage1, root, tmp_path):
    _labels(root, "Ses03M_impro05b").unlink()
    with pytest.raises(UserError) as err:
        stage1()
    message = str(err.value)
    assert "EmoEvaluation/Ses03M_impro05b.txt: missing (the dialog has 10 utterances)" in message
    assert "total: 128 found, 136 expected" in message
    assert "--allow-partial true" in message
    assert not (tmp_path / "data").exists()


def test_a_dialog_that_is_missing_in_all_places_is_named(stage1, root):
    _labels(root, "Ses05M_script01_1b").unlink()
    _transcript(root, "Ses05M_script01_1b").unlink()
    shutil.rmtree(_wav(root, "Ses05M_script01_1b_F000").parent)
    with pytest.raises(UserError) as err:
        stage1()
    message = str(err.value)
    assert "EmoEvaluation/Ses05M_script01_1b.txt: missing\n" in message
    assert "transcriptions/Ses05M_script01_1b.txt: missing\n" in message
    assert "sentences/wav/Ses05M_script01_1b: missing\n" in message


def test_a_missing_session_is_named(stage1, root):
    shutil.rmtree(root / "Session4")
    with pytest.raises(UserError, match="Session4: the whole folder is missing"):
        stage1()


def test_counts_name_session_speaker_and_class(root, egs):
    for utt in ("Ses02F_impro01_F000", "Ses02F_impro01_M003"):
        _wav(root, utt).unlink()
    spec = prepare.load_spec("iemocap", egs)
    reading = iemocap.read(root, spec, fabricate.EMOTIONS)
    assert set(prepare.check_counts(reading, spec, fabricate.EMOTIONS)) == {
        "total: 134 found, 136 expected",
        "emotion sad: 33 found, 34 expected",
        "emotion neutral: 33 found, 34 expected",
        "session Ses02: 22 found, 24 expected",
        "speaker Ses02F neutral: 2 found, 3 expected",
        "speaker Ses02M sad: 2 found, 3 expected",
        "wav Ses02: 28 found, 30 expected",
    }


def test_a_label_without_its_wav_is_named(stage1, root):
    _wav(root, "Ses02F_impro01_F000").unlink()
    with pytest.raises(UserError, match=r"Ses02F_impro01/Ses02F_impro01_F000\.wav: missing"):
        stage1()


def test_a_wav_without_its_label_is_named(stage1, root):
    path = _labels(root, "Ses02F_impro01")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(li for li in lines if b"Ses02F_impro01_M002" not in li))
    with pytest.raises(UserError, match=r"Ses02F_impro01\.txt: no label for Ses02F_impro01_M002"):
        stage1()


def test_several_wavs_that_one_dialog_lacks_are_one_line(stage1, root):
    for utt in ("Ses02F_impro01_F000", "Ses02F_impro01_M003"):
        _wav(root, utt).unlink()
    with pytest.raises(UserError) as err:
        stage1()
    some = "2 of 10 wav files are missing: Ses02F_impro01_F000, Ses02F_impro01_M003\n"
    assert f"sentences/wav/Ses02F_impro01: {some}" in str(err.value)


def test_many_short_dialogs_of_one_place_are_one_line(stage1, root, monkeypatch):
    monkeypatch.setattr(iemocap, "NAMES_SHOWN", 2)
    shutil.rmtree(root / "Session3/sentences")
    for wav in root.glob("Session2/sentences/wav/*/*_F004.wav"):
        wav.unlink()
    partial = read_lines(stage1(allow_partial=True) / "partial")
    assert partial[:2] == [
        f"{root}/Session2/sentences/wav: 3 of 3 dialogs are incomplete (3 utterances): "
        "Ses02F_impro01, Ses02F_script01_3 and 1 more",
        f"{root}/Session3/sentences/wav: 3 of 3 dialogs are missing (30 utterances): "
        "Ses03F_impro01, Ses03F_script01_3 and 1 more",
    ]


def test_a_copy_with_only_the_wavs_of_the_classes_is_said_to_have_them_all(stage1, root):
    whole = "not affected: the labels and wav files of all 136 utterances in angry, happy, sad, "
    for wav in root.glob("Session*/sentences/wav/*/*_[FM]004.wav"):  # xxx and fru
        wav.unlink()
    with pytest.raises(UserError, match=whole):
        stage1()
    assert whole + "neutral" in read_lines(stage1(allow_partial=True) / "partial")
    _wav(root, "Ses02F_impro01_F000").unlink()
    with pytest.raises(UserError) as err:
        stage1()
    assert "not affected" not in str(err.value)


def test_a_copy_without_audio_is_refused_even_if_it_may_be_partial(stage1, root, tmp_path):
    for wavs in root.glob("Session*/sentences"):
        shutil.rmtree(wavs)
    with pytest.raises(UserError) as err:
        stage1(allow_partial=True)
    assert "Session1/sentences/wav/Ses01F_impro01: missing" in str(err.value)
    assert str(err.value).endswith("\n  copy what is missing")
    assert not (tmp_path / "data").exists()


def test_a_missing_transcript_file_or_line_is_named(stage1, root):
    _transcript(root, "Ses02F_impro01").unlink()
    _replace(_transcript(root, "Ses04M_impro08"), b"Ses04M_impro08_F000 [", b"F: [")
    with pytest.raises(UserError) as err:
        stage1()
    assert "transcriptions/Ses02F_impro01.txt: missing" in str(err.value)
    assert "Ses04M_impro08.txt: no line for Ses04M_impro08_F000" in str(err.value)


def test_allow_partial_goes_on_without_them_and_records_each(stage1, root, capsys):
    _wav(root, "Ses02F_impro01_F000").unlink()
    _transcript(root, "Ses03F_impro01").unlink()
    data = stage1(allow_partial=True)
    partial = "\n".join(read_lines(data / "partial"))
    assert "Ses02F_impro01_F000.wav: missing" in partial
    assert "speaker Ses02F neutral: 2 found, 3 expected" in partial
    assert "warning: total: 135 found, 136 expected" in capsys.readouterr().out
    texts = by_own_id(data / "text", allow_empty=True)
    assert len(texts) == 135 and texts["Ses03F_impro01_F000"] == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"_F000\tneu", b"_F000\tjoy", r"txt:3: unknown label 'joy'; known: \['ang'"),
        (b"Ses02F_impro01_F000\t", b"Ses02F impro01_F000\t", "txt:3: 'Ses02F impro01_F000' is not"),
        (
            b"Ses02F_impro01_F000\t",
            b"Ses02F_impro02_F000\t",
            "not an utterance id of dialog Ses02F",
        ),
        (b"Ses02F_impro01_F001\t", b"Ses02F_impro01_F000\t", "_F000 stands a second time, first: "),
        (b"\tSes02F_impro01_F000\t", b" Ses02F_impro01_F000 ", "txt:3: .*expected '.start - end"),
    ],
)
def test_a_spoilt_label_line_is_named(stage1, root, tmp_path, old, new, message):
    _replace(_labels(root, "Ses02F_impro01"), old, new)
    with pytest.raises(UserError, match=message):
        stage1(allow_partial=True)
    assert not (tmp_path / "data").exists()


def test_a_transcript_that_says_two_things_of_one_utterance_is_refused(stage1, root):
    path = _transcript(root, "Ses02F_impro01")
    path.write_bytes(path.read_bytes() + b"Ses02F_impro01_F000 [001.0-002.0]: Other.\r\n")
    with pytest.raises(UserError, match="Ses02F_impro01_F000 stands a second time"):
        stage1()


def test_a_wav_with_a_blank_in_its_name_or_in_another_dialog_is_refused(stage1, root):
    good = _wav(root, "Ses02F_impro01_F000")
    shutil.copy(good, good.with_name("Ses02F_impro01_F000 copy.wav"))
    shutil.copy(good, _wav(root, "Ses04M_impro08_F000").with_name(good.name))
    longer = _wav(root, "Ses05M_script01_1b_F000")
    shutil.copy(longer, _wav(root, "Ses05M_script01_1_F000").with_name(longer.name))
    with pytest.raises(UserError) as err:
        stage1()
    assert "_1b_F000.wav: not an utterance of dialog Ses05M_script01_1\n" in str(err.value)
    assert "Ses02F_impro01_F000 copy.wav: not an utterance of dialog" in str(err.value)
    assert "Ses02F_impro01_F000.wav: not an utterance of dialog Ses04M_impro08" in str(err.value)
    assert "again, or move what does not belong there elsewhere" in str(err.value)


def test_a_dialog_in_another_sessions_folder_is_refused(stage1, root):
    path = _labels(root, "Ses02F_impro01")
    path.rename(root / "Session3/dialog/EmoEvaluation" / path.name)
    with pytest.raises(UserError, match="a dialog of Ses02 in the folder of Ses03"):
        stage1()


def test_unreadable_wavs_are_listed_together_and_nothing_is_written(stage1, root, tmp_path):
    for index, utt in enumerate(["F000", "F001", "F002", "F003", "M000", "M001", "M002"]):
        path = _wav(root, f"Ses01F_impro01_{utt}")
        path.write_bytes([b"", b"not audio at all", path.read_bytes()[:3000]][index % 3])
    with pytest.raises(UserError) as err:
        stage1()
    message = str(err.value)
    assert "7 of 136 files cannot be used" in message
    assert "Ses01F_impro01_F000.wav: empty" in message
    assert "Ses01F_impro01_F002.wav: truncated" in message
    assert "and 2 more" in message
    assert not (tmp_path / "data/iemocap/all").exists()


def test_paths_with_blanks_quotes_and_other_letters_work(tmp_path, egs, original):
    corpus = Path(shutil.copytree(original, tmp_path / 'Zoë\'s "best" 語料'))
    prepare.prepare("iemocap", tmp_path / "da ta", corpus, egs=egs)
    wavs = by_own_id(tmp_path / "da ta/iemocap/all/wav.scp")
    assert wavs["Ses01F_impro01_F000"] == str(_wav(corpus, "Ses01F_impro01_F000"))


def test_a_second_run_does_nothing_until_the_corpus_or_an_option_changes(stage1, root, capsys):
    def is_skipped(**options):
        stage1(**options)
        return "already done (136 utterances)" in capsys.readouterr().out

    assert not is_skipped()
    assert is_skipped()
    assert not is_skipped(allow_partial=True)
    assert is_skipped(allow_partial=True)
    _replace(_labels(root, "Ses02F_impro01"), b"F000\tneu", b"F000\tfru")
    assert not is_skipped(allow_partial=True)
    data = root.parent / "data/iemocap/all"
    assert "Ses02F_impro01_F000" not in by_own_id(data / "utt2emo")


def test_label_files_may_have_crlf_too(stage1, root):
    path = _labels(root, "Ses02F_impro01")
    path.write_bytes(path.read_bytes().replace(b"\t[2.5000, 2.5000, 2.5000]\n", b"\r\n"))
    assert by_own_id(stage1() / "utt2emo")["Ses02F_impro01_F000"] == "neutral"


def test_carriage_returns_alone_end_lines_too(stage1, root):
    before = by_own_id(stage1() / "text")
    for session in root.glob("Session2/dialog/*"):
        for path in session.glob("Ses*.txt"):
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r"))
    assert by_own_id(stage1() / "text") == before


def test_blanks_around_the_fields_of_a_label_line_do_not_matter(stage1, root):
    _replace(_labels(root, "Ses02F_impro01"), b"_F000\tneu\t", b"_F000  \t neu \t")
    assert by_own_id(stage1() / "utt2emo")["Ses02F_impro01_F000"] == "neutral"


def test_a_byte_order_mark_does_not_hide_the_first_line(stage1, root):
    path = _transcript(root, "Ses02F_script01_3")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert by_own_id(stage1() / "text")["Ses02F_script01_3_F000"] == "Excuse me."


def test_suffixes_may_be_in_capitals(stage1, root):
    wav, labels = _wav(root, "Ses02F_impro01_F000"), _labels(root, "Ses02F_impro01")
    wav.rename(wav.with_suffix(".WAV"))
    labels.rename(labels.with_suffix(".TXT"))
    wavs = by_own_id(stage1() / "wav.scp")
    assert len(wavs) == 136 and wavs["Ses02F_impro01_F000"] == str(wav.with_suffix(".WAV"))


def test_what_is_not_named_like_a_dialog_is_not_read(stage1, root):
    labels, texts, wav = (
        _labels(root, "Ses02F_impro01"),
        _transcript(root, "Ses02F_impro01"),
        _wav(root, "Ses02F_impro01_F000"),
    )
    for path in (labels, texts):
        shutil.copy(path, path.with_name("Ses02F_impro01 copy.txt"))
        path.with_name("notes.txt").write_text("[1.0 - 2.0] to be checked\n")
    for name in ("denoised", "Ses02F_impro01.old"):
        (wav.parents[1] / name).mkdir()
        shutil.copy(wav, wav.parents[1] / name / "Ses02F_impro01_F000 denoised.wav")
    (wav.parents[1] / "Thumbs.db").write_bytes(fabricate.RESOURCE_FORK)
    data = stage1()
    assert len(by_own_id(data / "wav.scp")) == 136
    assert not (data / "partial").exists()


def test_some_emotions_can_be_chosen_in_any_class_order(stage1):
    data = stage1(emotions="sad,angry")
    assert read_lines(data / "emotions") == ["sad", "angry"]
    assert len(by_own_id(data / "utt2emo")) == 68
    with pytest.raises(UserError, match=r"--emotions sad,joy: iemocap has"):
        stage1(emotions="sad,joy")


def test_the_real_counts_agree_with_one_another():
    spec = yaml.safe_load((EGS / "iemocap/corpus.yaml").read_text(encoding="utf-8"))
    counts = spec["counts"]
    table = counts["speaker"]
    assert sum(sum(row.values()) for row in table.values()) == counts["total"] == 5531
    for emotion, number in counts["emotion"].items():
        assert sum(row[emotion] for row in table.values()) == number
    for session, number in counts["session"].items():
        rows = [row for speaker, row in table.items() if speaker.startswith(session)]
        assert len(rows) == 2 and sum(sum(row.values()) for row in rows) == number
    assert sum(counts["wav"].values()) == sum(counts["label"].values()) == 10039
    for emotion, number in counts["emotion"].items():
        labels = [label for label, name in spec["label_map"].items() if name == emotion]
        assert sum(counts["label"][label] for label in labels) == number
    assert set(counts["label"]) == {*spec["label_map"], *spec["skip_labels"]}
    assert sum(map(len, spec["dialogs"].values())) == counts["dialog"]["all"] == 151
    assert set(spec["dialogs"]) == set(counts["speaker"])


def test_counts_that_contradict_the_table_are_found_on_loading(egs):
    path = egs / "iemocap/corpus.yaml"
    path.write_text(path.read_text().replace("total: 136", "total: 137"))
    with pytest.raises(UserError, match="counts.total: is 137, but counts.speaker sums to 136"):
        prepare.load_spec("iemocap", egs)


PART = """
name: part
based_on: iemocap
part: {ids: "*_impro*", total: TOTAL}
"""


@pytest.fixture
def part(tmp_path, root, egs):
    """Stage 1 of the improvised dialogs, of which TOTAL are said to be there."""

    def run(total=76, text=PART, **options):
        (egs / "part").mkdir(exist_ok=True)
        (egs / "part/corpus.yaml").write_text(text.replace("TOTAL", str(total)))
        prepare.prepare("part", tmp_path / "data", root, egs=egs, **options)
        return by_own_id(tmp_path / "data/part/all/utt2spk")

    return run


def test_a_part_of_a_corpus_is_a_corpus(part, stage1, capsys):
    whole = by_own_id(stage1() / "utt2spk")
    expected = {utt: speaker for utt, speaker in whole.items() if "_impro" in utt}
    assert 0 < len(expected) < len(whole)
    assert part(len(expected)) == expected
    assert f"part: {len(expected)} of 136 utterances, *_impro*" in capsys.readouterr().out


def test_the_whole_corpus_behind_a_part_is_checked(part, root):
    _wav(root, "Ses02F_script01_3_M000").unlink()
    with pytest.raises(UserError, match="not the whole corpus .*part/corpus.yaml describes"):
        part()
    part(1, allow_partial=True)  # says so, and does not insist on the number


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TOTAL", "5", r"part: \d+ utterances are called \*_impro\*, 5 expected"),
        ("_impro", "_impr0", r"part: 0 utterances are called \*_impr0\*"),
        ('ids: "*_impro*", ', "", "missing keys: part.ids"),
        ("based_on: iemocap", "based_on: part", "based_on: names the corpus itself"),
        ("based_on: iemocap", "based_on: other", "--corpus other: there is no .*; corpora that"),
    ],
)
def test_a_part_that_cannot_be_taken_is_refused(part, old, new, message):
    with pytest.raises(UserError, match=message):
        part(text=PART.replace(old, new))


def test_the_improvised_dialogs_are_those_of_iemocap():
    spec = prepare.load_spec("iemocap_improvised")
    assert spec.counts == prepare.load_spec("iemocap").counts
    assert spec.part.total == 2943  # as published
    corpus = {"name": "iemocap_improvised", "emotions": spec.emotions}
    assert "--emotions" not in provenance._corpus_options(corpus["name"], corpus, None)
