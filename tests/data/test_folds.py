"""ser/data/folds.py: who is in which split, and an auditor that catches every kind of leak."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ser.data.audit import training_list
from ser.data.folds import (
    PROTOCOLS,
    assign,
    audit_folds,
    crossed,
    kfold,
    make_folds,
    require_training,
    sentence,
    sentence_groups,
)
from ser.data.tables import read_lines, read_table, write_lines, write_table
from ser.errors import UserError
from tests.support import ROOT

EGS = ROOT / "egs"
EMOTIONS = ("angry", "happy")


@pytest.fixture
def dump(tmp_path):
    """Tables of 3 sessions with a woman and a man each, who say one utterance per emotion."""
    spk2utt = {f"Ses0{n}{g}": [f"Ses0{n}{g}_{e}" for e in EMOTIONS] for n in "123" for g in "FM"}
    spk = {utt: speaker for speaker, utts in spk2utt.items() for utt in utts}
    write_table(tmp_path / "utt2spk", spk)
    write_table(tmp_path / "utt2session", {utt: utt[:5] for utt in spk})
    write_table(tmp_path / "utt2emo", {utt: utt.split("_")[1] for utt in spk})
    write_table(tmp_path / "utt2hash", {utt: f"sha-{utt}" for utt in spk})
    write_table(tmp_path / "utt2num_samples", {u: 1000 + i for i, u in enumerate(sorted(spk))})
    write_lines(tmp_path / "emotions", EMOTIONS)
    return tmp_path


def speakers(dump, protocol, fold):
    """Split -> its speakers, from the files."""
    utt2spk = read_table(dump / "utt2spk")
    return {
        split: {utt2spk[utt] for utt in read_lines(dump / "folds" / protocol / fold / split)}
        for split in ("train", "valid", "test")
        if (dump / "folds" / protocol / fold / split).exists()
    }


def test_strict_validates_on_the_other_speaker_of_the_test_session(dump):
    assert make_folds("strict", dump)
    assert read_lines(dump / "folds/strict/folds") == [
        "Ses01F", "Ses01M", "Ses02F", "Ses02M", "Ses03F", "Ses03M",
    ]  # fmt: skip
    assert speakers(dump, "strict", "Ses02F") == {
        "train": {"Ses01F", "Ses01M", "Ses03F", "Ses03M"},
        "valid": {"Ses02M"},
        "test": {"Ses02F"},
    }


def test_paper_trains_on_everyone_but_the_test_speaker(dump):
    make_folds("paper", dump)
    assert speakers(dump, "paper", "Ses03M") == {
        "train": {"Ses01F", "Ses01M", "Ses02F", "Ses02M", "Ses03F"},
        "test": {"Ses03M"},
    }


def test_session_leaves_both_speakers_of_a_session_out(dump):
    make_folds("session", dump)
    assert read_lines(dump / "folds/session/folds") == ["Ses01", "Ses02", "Ses03"]
    assert speakers(dump, "session", "Ses01") == {
        "train": {"Ses02F", "Ses02M", "Ses03F", "Ses03M"},
        "test": {"Ses01F", "Ses01M"},
    }


def test_prefix_folds_share_speakers_and_the_audit_names_them(tmp_path):
    # two dialogs of a session, named after who wore the markers; both speak in both
    utts = [f"Ses0{n}{g}_impro01_{s}00{i}" for n in "12" for g in "FM" for s in "FM" for i in "01"]
    write_table(tmp_path / "utt2spk", {u: u[:5] + u[-4] for u in utts})
    write_table(tmp_path / "utt2session", {u: u[:5] for u in utts})
    write_table(tmp_path / "utt2emo", {u: EMOTIONS[int(u[-1])] for u in utts})
    write_table(tmp_path / "utt2hash", {u: f"sha-{u}" for u in utts})
    write_table(tmp_path / "utt2num_samples", dict.fromkeys(utts, 1000))
    write_lines(tmp_path / "emotions", EMOTIONS)
    make_folds("prefix", tmp_path)
    assert read_lines(tmp_path / "folds/prefix/folds") == ["Ses01F", "Ses01M", "Ses02F", "Ses02M"]
    assert speakers(tmp_path, "prefix", "Ses01F") == {
        "train": {"Ses01F", "Ses01M", "Ses02F", "Ses02M"},
        "test": {"Ses01F", "Ses01M"},
    }
    audit = (tmp_path / "folds/prefix/audit.txt").read_text()
    assert audit.startswith("protocol prefix (LEAKY): 4 folds, 16 utterances\n")
    shared = "note: LEAKY: folds/prefix/Ses01F: train and test share the speaker Ses01F, Ses01M\n"
    assert shared in audit
    assert "checked: no utterance in two splits" in audit


def test_prefix_folds_of_a_corpus_without_dialogs_are_refused(dump):
    utt2spk = {utt.replace("_", ""): spk for utt, spk in read_table(dump / "utt2spk").items()}
    with pytest.raises(UserError, match="utterance Ses01Fangry names no dialog"):
        PROTOCOLS["prefix"](utt2spk, utt2spk)


# Two speakers: A is angry five times and happy twice, B angry once and happy four times.
CELLS = {("A", "angry"): 5, ("A", "happy"): 2, ("B", "angry"): 1, ("B", "happy"): 4}
UTT2SPK = {f"{s}_{e}{i}": s for (s, e), n in CELLS.items() for i in range(1, n + 1)}
UTT2EMO = {utt: utt[2:-1] for utt in UTT2SPK}


def test_kfold_deals_each_speakers_emotions_in_turn():
    # A's anger goes to 1 2 1 2 1, B's to 2, which has less anger. A's two happy ones go to 2, which
    # has fewer of A, then 1; B's four to 1, which has fewer of B, then 2 1 2.
    folds = kfold(UTT2SPK, UTT2EMO, 2)
    first = ["A_angry1", "A_angry3", "A_angry5", "A_happy2", "B_happy1", "B_happy3"]
    second = ["A_angry2", "A_angry4", "A_happy1", "B_angry1", "B_happy2", "B_happy4"]
    assert folds == {
        "fold1": {"train": second, "test": first},
        "fold2": {"train": first, "test": second},
    }


def test_kfold_does_not_depend_on_the_order_of_the_tables():
    backwards = [dict(reversed(table.items())) for table in (UTT2SPK, UTT2EMO)]
    assert kfold(*backwards, 3) == kfold(UTT2SPK, UTT2EMO, 3)


@pytest.mark.parametrize("k", [2, 3, 5, 7, 10])
@pytest.mark.parametrize("corpus", ["iemocap", "emodb"])
def test_kfold_is_even_in_every_emotion_and_nearly_so_in_every_speaker(corpus, k):
    cells = yaml.safe_load((EGS / corpus / "corpus.yaml").read_text())["counts"]["speaker"]
    utt2spk = {
        f"{s}_{e}_{i}": s for s, of in cells.items() for e, n in of.items() for i in range(n)
    }
    utt2emo = {utt: utt.split("_")[1] for utt in utt2spk}
    folds = kfold(utt2spk, utt2emo, k)
    tested = [splits["test"] for splits in folds.values()]
    assert sorted(utt for utts in tested for utt in utts) == sorted(utt2spk)
    for splits in folds.values():
        assert sorted(splits["train"] + splits["test"]) == sorted(utt2spk)

    def spread(key):
        counts = [Counter(map(key, utts)) for utts in tested]
        return max(max(c[x] for c in counts) - min(c[x] for c in counts) for x in map(key, utt2spk))

    assert spread(lambda utt: (utt2spk[utt], utt2emo[utt])) <= 1
    assert spread(utt2emo.get) <= 1
    assert spread(utt2spk.get) <= 2
    assert spread(lambda utt: "any") <= 2


def test_ten_and_more_parts_keep_their_order_among_names():
    utts = {f"u{i:02}": "A" for i in range(10)}
    assert list(kfold(utts, utts, 10)) == [*(f"fold0{i}" for i in range(1, 10)), "fold10"]


@pytest.mark.parametrize("k", [1, 7])
def test_kfold_needs_two_parts_and_no_more_than_the_smallest_class_has_utterances(k):
    expected = f"--protocol kfold --k {k}: .* angry, has 6 utterances; expected 2 to 6 folds"
    with pytest.raises(UserError, match=expected):
        kfold(UTT2SPK, UTT2EMO, k)
    assert len(kfold(UTT2SPK, UTT2EMO, 6)) == 6


def test_a_protocol_that_does_not_exist_is_named_with_those_that_do(dump):
    for name in ("kfold", "kfold05", "loso"):
        with pytest.raises(UserError, match=rf"--protocol {name}: .*kfold<k> \(such as kfold5\)"):
            assign(name, {}, {}, {}, {})
        with pytest.raises(UserError, match="no such protocol"):
            audit_folds(name, dump, dump)


def test_the_audit_of_kfold_says_that_every_fold_shares_speakers(dump):
    make_folds("kfold2", dump)
    assert read_lines(dump / "folds/kfold2/folds") == ["fold1", "fold2"]
    lines = read_lines(dump / "folds/kfold2/audit.txt")
    assert lines[0] == "protocol kfold2 (speaker-dependent): 2 folds, 12 utterances"
    assert lines[1].startswith("checked: no utterance or audio in two splits of a fold; every")
    assert lines[2:4] == ["fold1 train 6 test 6", "fold2 train 6 test 6"]
    shared = "Ses01F, Ses01M, Ses02F, Ses02M, Ses03F and 1 more"
    assert lines[4:] == [
        f"note: speaker-dependent: folds/kfold2/{fold}: train and test share the speaker {shared}"
        for fold in ("fold1", "fold2")
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lists_are_sorted_and_shapes_give_their_samples(dump, protocol):
    make_folds(protocol, dump)
    fold = dump / "folds" / protocol / read_lines(dump / "folds" / protocol / "folds")[0]
    samples = read_table(dump / "utt2num_samples")
    for split in ("train", "test"):
        utts = read_lines(fold / split)
        assert utts == sorted(utts)
        assert (fold / f"{split}.shape").read_text() == "".join(
            f"{utt} {samples[utt]}\n" for utt in utts
        )


def test_the_audit_states_what_was_checked_and_the_size_of_every_split(dump):
    make_folds("strict", dump)
    text = (dump / "folds/strict/audit.txt").read_text()
    assert "protocol strict: 6 folds, 12 utterances" in text
    assert "checked: no utterance, speaker or audio in two splits of a fold" in text
    assert "Ses02F train 8 valid 2 test 2" in text


def test_folds_of_unchanged_tables_are_made_once(dump):
    assert make_folds("strict", dump)
    assert not make_folds("strict", dump)
    write_table(dump / "utt2num_samples", dict.fromkeys(read_table(dump / "utt2spk"), 7))
    assert make_folds("strict", dump)
    assert "Ses01F_angry 7" in (dump / "folds/strict/Ses01F/test.shape").read_text()


def test_a_third_speaker_of_the_session_validates_too(dump):
    folds = PROTOCOLS["strict"](
        {"a1": "A", "b1": "B", "c1": "C", "d1": "D", "e1": "E"},
        {"a1": "s1", "b1": "s1", "c1": "s1", "d1": "s2", "e1": "s2"},
    )
    assert folds["B"] == {"train": ["d1", "e1"], "valid": ["a1", "c1"], "test": ["b1"]}


def test_strict_refuses_a_session_of_one_speaker(dump):
    sessions = read_table(dump / "utt2session")
    sessions |= {utt: "Ses09" for utt in sessions if utt.startswith("Ses03M")}
    write_table(dump / "utt2session", sessions)
    with pytest.raises(UserError, match=r"session Ses03 has one speaker \(Ses03F\).*paper"):
        make_folds("strict", dump)
    assert make_folds("paper", dump)


@pytest.mark.parametrize(
    ("protocol", "speakers", "cure"),
    [
        ("strict", "A", "kfold"),
        ("strict", "AB", "paper, which needs two speakers"),
        ("session", "AB", "paper"),
        ("paper", "A", "kfold"),
        ("crossed2", "AB", "paper"),
    ],
)
def test_too_few_speakers_are_refused_with_a_protocol_that_is_possible(protocol, speakers, cure):
    utt2spk = {f"{s}{i}": s for s in speakers for i in range(4)}
    constant = dict.fromkeys(utt2spk, "s")
    sentences = {utt: f"w{utt[1:]}" for utt in utt2spk}
    folds = assign(protocol, utt2spk, constant, constant, sentences)
    with pytest.raises(UserError, match=f"{protocol}: nobody is left to train .*--protocol {cure}"):
        require_training(protocol, folds, utt2spk)
    if cure != "kfold":
        require_training("paper", PROTOCOLS["paper"](utt2spk, constant), utt2spk)


@pytest.mark.parametrize("protocol", ["kfold2", "crossed2"])
def test_a_range_without_a_number_in_it_is_not_offered(protocol):
    one = {"A0": "x", "B0": "y"}
    same = dict.fromkeys(one, "same")
    with pytest.raises(UserError, match="use another --protocol$"):
        assign(protocol, one, same, one, same)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_corpus_of_one_session_or_speaker_leaves_nobody_to_train_on(dump, protocol):
    keep = "Ses01F" if protocol in ("paper", "prefix") else "Ses01"
    for name in ("utt2spk", "utt2session", "utt2emo", "utt2hash", "utt2num_samples"):
        table = read_table(dump / name)
        write_table(dump / name, {u: v for u, v in table.items() if u.startswith(keep)})
    with pytest.raises(UserError, match="train: empty"):
        make_folds(protocol, dump)
    assert not (dump / "folds" / protocol).exists()


def set_split(dump, split, utts, fold="Ses02F"):
    """Replace a split of a strict fold and its shape file by ``utts``."""
    samples = read_table(dump / "utt2num_samples")
    write_lines(dump / "folds/strict" / fold / split, sorted(utts))
    write_table(dump / "folds/strict" / fold / f"{split}.shape", {u: samples[u] for u in utts})


class TestTheAuditorRefuses:
    @pytest.fixture
    def made(self, dump):
        make_folds("strict", dump)
        return dump

    def refuses(self, dump, words, protocol="strict"):
        with pytest.raises(UserError, match=words):
            audit_folds(protocol, dump / "folds" / protocol, dump)

    def test_nothing_about_untouched_folds(self, made):
        assert len(audit_folds("strict", made / "folds/strict", made)) == 2 + 6

    def test_an_utterance_in_two_splits(self, made):
        train = read_lines(made / "folds/strict/Ses02F/train")
        set_split(made, "train", [*train, "Ses02F_angry"])
        self.refuses(made, "strict/Ses02F: train and test share utterances: Ses02F_angry")

    @pytest.mark.parametrize("split", ["valid", "test"])
    def test_a_speaker_in_two_splits_even_with_other_utterances(self, made, split):
        train = read_lines(made / "folds/strict/Ses02F/train")
        speaker = {"valid": "Ses02M", "test": "Ses02F"}[split]
        set_split(made, "train", [*train, f"{speaker}_angry"])
        set_split(made, split, [f"{speaker}_happy"])
        self.refuses(made, f"train and {split} share the speaker {speaker}")

    def test_validation_on_the_test_split(self, made):
        set_split(made, "valid", ["Ses02F_angry", "Ses02F_happy"])
        self.refuses(made, "strict/Ses02F: valid and test are the same utterances")

    def test_the_same_audio_in_two_splits(self, made):
        table = read_table(made / "utt2hash")
        write_table(made / "utt2hash", {**table, "Ses03M_angry": table["Ses01F_happy"]})
        self.refuses(made, "train and test share the same audio: Ses03M_angry = Ses01F_happy")

    def test_the_same_audio_in_two_parts_of_kfold(self, dump):
        make_folds("kfold2", dump)
        table = read_table(dump / "utt2hash")
        one, other = (read_lines(dump / f"folds/kfold2/fold1/{s}")[0] for s in ("train", "test"))
        write_table(dump / "utt2hash", {**table, one: table[other]})
        self.refuses(dump, f"train and test share the same audio: {one} = {other}", "kfold2")

    def test_an_utterance_in_two_splits_of_kfold(self, dump):
        make_folds("kfold2", dump)
        fold = dump / "folds/kfold2/fold1"
        (utt, *_), train = read_lines(fold / "test"), read_lines(fold / "train")
        write_lines(fold / "train", sorted([*train, utt]))
        self.refuses(dump, f"train and test share utterances: {utt}", "kfold2")

    def test_a_session_in_two_splits(self, dump):
        make_folds("session", dump)
        table = read_table(dump / "utt2session")
        write_table(dump / "utt2session", {**table, "Ses02M_angry": "Ses01"})
        self.refuses(dump, "session/Ses01: train and test share the session Ses01", "session")

    def test_an_utterance_that_no_fold_tests(self, made):
        set_split(made, "test", ["Ses02F_angry"])
        self.refuses(made, "in no test split: Ses02F_happy")

    def test_an_utterance_that_two_folds_test(self, made):
        shutil.copytree(made / "folds/strict/Ses02F", made / "folds/strict/again")
        names = read_lines(made / "folds/strict/folds")
        write_lines(made / "folds/strict/folds", [*names, "again"])
        self.refuses(made, "in more than one test split: Ses02F_angry, Ses02F_happy")

    @pytest.mark.parametrize("split", ["train", "valid", "test"])
    @pytest.mark.parametrize("how", ["empty", "missing"])
    def test_a_split_without_utterances(self, made, split, how):
        path = made / "folds/strict/Ses02F" / split
        path.unlink()
        if how == "empty":
            path.touch()
        self.refuses(made, f"strict/Ses02F/{split}: empty")

    def test_a_training_split_of_one_class(self, made):
        train = read_lines(made / "folds/strict/Ses02F/train")
        set_split(made, "train", [utt for utt in train if utt.endswith("angry")])
        self.refuses(made, "strict/Ses02F/train: no utterance is happy")

    def test_an_id_that_the_corpus_does_not_have(self, made):
        write_lines(made / "folds/strict/Ses02F/train", ["Ses99F_angry"])
        self.refuses(made, "strict/Ses02F: not utterances of .*: Ses99F_angry")

    def test_a_shape_file_of_other_utterances(self, made):
        fold = made / "folds/strict/Ses02F"
        shutil.copy(fold / "valid.shape", fold / "train.shape")
        self.refuses(made, "Ses02F/train.shape: does not agree")

    def test_a_validation_set_where_the_protocol_has_none(self, dump):
        make_folds("paper", dump)
        shutil.copy(dump / "folds/paper/Ses01F/test", dump / "folds/paper/Ses01F/valid")
        self.refuses(dump, "paper/Ses01F/valid: this protocol has no such split", "paper")

    def test_folds_that_were_never_made(self, dump):
        self.refuses(dump, "folds/paper: no folds; .*--stage 3 .*--protocol paper", "paper")

    def test_before_anything_is_left_behind(self, dump):
        table = read_table(dump / "utt2hash")
        write_table(dump / "utt2hash", {**table, "Ses03M_angry": table["Ses01F_happy"]})
        with pytest.raises(UserError, match="same audio"):
            make_folds("strict", dump)
        assert list((dump / "folds").iterdir()) == []


def test_repeated_audio_within_a_split_is_only_noted(dump):
    table = read_table(dump / "utt2hash")
    write_table(dump / "utt2hash", {**table, "Ses01F_angry": table["Ses01F_happy"]})
    make_folds("strict", dump)
    text = (dump / "folds/strict/audit.txt").read_text()
    assert "note: the same audio within a split: Ses01F_angry = Ses01F_happy" in text


def test_an_emotion_that_a_test_speaker_never_shows_is_only_noted(dump):
    emotions = read_table(dump / "utt2emo")
    write_table(dump / "utt2emo", {**emotions, "Ses01F_happy": "angry"})
    make_folds("paper", dump)
    text = (dump / "folds/paper/audit.txt").read_text()
    assert "note: folds/paper/Ses01F/test: no utterance is happy" in text


# Crossed folds, checked by brute force on corpora whose sentences repeat as in the real ones.


def repeated_sentences() -> list[dict[str, str]]:
    """Four speakers in two sessions say ten sentences each, of which six are the same for all."""
    spk, emo, said = {}, {}, {}
    for s, speaker in enumerate(("Ses01F", "Ses01M", "Ses02F", "Ses02M")):
        for i in range(10):
            utt = f"{speaker}_{i:02d}"
            spk[utt] = speaker
            emo[utt] = EMOTIONS[(i + s) % 2]
            said[utt] = f"line {i}" if i < 6 else f"own words {s} {i}"
    return [spk, {utt: utt[:5] for utt in spk}, emo, said]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_crossed_folds_hear_neither_speaker_nor_sentence_of_their_test(k):
    spk, session, emo, said = tables = repeated_sentences()
    folds = crossed(*tables, k)
    tested = Counter(u for splits in folds.values() for u in splits["test"])
    assert tested == dict.fromkeys(spk, 1)
    for fold, splits in folds.items():
        (speaker,) = {spk[u] for u in splits["test"]}
        assert fold.startswith(f"{speaker}_g")
        held_out = {said[u] for u in splits["test"]}
        for split in ("train", "valid"):
            assert splits[split]
            assert not {said[u] for u in splits[split]} & held_out
            for utt in splits[split]:
                assert (session[utt] == speaker[:5]) == (split == "valid")
                assert spk[utt] != speaker
    # whoever may be heard is: what strict trains on, but for the sentences of the group
    groups = sentence_groups(said, emo, k)
    for fold, splits in folds.items():
        group = int(fold.rpartition("_g")[2])
        may = [u for u in sorted(spk) if groups[said[u]] != group]
        assert splits["train"] == [u for u in may if session[u] != fold[:5]]
        assert splits["valid"] == [u for u in may if session[u] == fold[:5] and spk[u] != fold[:6]]


def test_sentences_are_dealt_by_how_often_they_are_said_and_in_which_emotion():
    # "a" is said three times angrily, "b" twice happily, "c" and "d" once angrily, "e" once happily
    said = dict(zip("123456789", "aaabbcdef", strict=True)) | {"8": "e", "9": "e2"}
    emo = dict(zip("123456789", ("angry",) * 3 + ("happy",) * 2 + ("angry",) * 2 + ("happy",) * 2,
                   strict=True))  # fmt: skip
    # a -> 1 (all empty); b -> 2 (no happy anywhere, group 2 is smaller); c -> 2 (no anger there);
    # d -> 2 (anger 1 against 3); e -> 1 (no happy there); e2 -> 1 (happy 1 against 2)
    assert sentence_groups(said, emo, 2) == {"a": 1, "b": 2, "c": 2, "d": 2, "e": 1, "e2": 1}
    backwards = [dict(reversed(table.items())) for table in (said, emo)]
    assert sentence_groups(*backwards, 2) == sentence_groups(said, emo, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Excuse me.", "excuse me"),
        ("excuse   ME!", "excuse me"),
        ("[LAUGHTER] Excuse me [BREATHING]", "excuse me"),
        ("I don't know", "i dont know"),
        ("I don\u2019t know", "i dont know"),
        ("Straße, łódź", "strasse łódź"),
        ("你好，吗？", "你好 吗"),
        ("[GARBAGE]", "<u1>"),
        ("...", "<u1>"),
        ("", "<u1>"),
    ],
)
def test_a_sentence_is_its_words(text, expected):
    assert sentence("u1", text) == expected


def write_crossed(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    spk, session, emo, said = repeated_sentences()
    for name, table in (("utt2spk", spk), ("utt2session", session), ("utt2emo", emo)):
        write_table(directory / name, table)
    write_table(directory / "utt2sentence", said)
    write_table(directory / "utt2hash", {utt: f"sha-{utt}" for utt in spk})
    write_table(directory / "utt2num_samples", dict.fromkeys(spk, 1000))
    write_lines(directory / "emotions", EMOTIONS)
    return directory


def test_the_audit_of_crossed_folds_says_what_it_checked(tmp_path):
    make_folds("crossed2", write_crossed(tmp_path))
    audit = (tmp_path / "folds/crossed2/audit.txt").read_text()
    assert audit.startswith("protocol crossed2: 8 folds, 40 utterances\n")
    assert "checked: no utterance, speaker, sentence or audio in two splits of a fold" in audit
    assert "sentences may be in both train and valid of a fold, never in test as well" in audit


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_audit_refuses_a_sentence_that_is_tested_and_was_heard(tmp_path, split):
    make_folds("crossed2", write_crossed(tmp_path))
    said, spk = read_table(tmp_path / "utt2sentence"), read_table(tmp_path / "utt2spk")
    fold = tmp_path / "folds/crossed2/Ses01F_g1"
    tested = {said[u] for u in read_lines(fold / "test")}
    speakers = {spk[u] for u in read_lines(fold / split)}
    leak = next(u for u in spk if said[u] in tested and spk[u] in speakers)
    utts = sorted([*read_lines(fold / split), leak])
    write_lines(fold / split, utts)
    write_table(fold / f"{split}.shape", dict.fromkeys(utts, 1000))
    message = f"Ses01F_g1: {split} and test share the sentence {said[leak]}"
    with pytest.raises(UserError, match=message):
        audit_folds("crossed2", tmp_path / "folds/crossed2", tmp_path)


@pytest.mark.parametrize(
    ("change", "k", "message"),
    [
        (lambda said: {u: f"<{u}>" for u in said}, 2, "has no transcripts; give them with --text"),
        (lambda said: dict.fromkeys(said, "yes"), 2, "has 1 different sentences; use another"),
        (lambda said: said, 99, "has 22 different sentences; expected 2 to 22 groups"),
        (lambda said: said, 1, "expected 2 to 22 groups"),
    ],
)
def test_sentences_that_cannot_be_left_out_are_named(change, k, message):
    *tables, said = repeated_sentences()
    with pytest.raises(UserError, match=message):
        crossed(*tables, change(said), k)


# Utterances without a majority of the raters.


def add_undecided(dump):
    """Each speaker's second utterance of a sentence that all say, and one that he alone does."""
    spk, session, emo, said = (
        read_table(dump / f"utt2{name}") for name in ("spk", "session", "emo", "sentence")
    )
    more = {}
    for speaker in sorted(set(spk.values())):
        more |= {f"{speaker}_x1": "line 0", f"{speaker}_x2": f"words of {speaker}"}
    for utt, words in more.items():
        speaker = utt.partition("_")[0]
        spk[utt], session[utt], emo[utt], said[utt] = speaker, speaker[:5], "happy", words
    for name, table in (("spk", spk), ("session", session), ("emo", emo), ("sentence", said)):
        write_table(dump / f"utt2{name}", table)
    write_table(dump / "utt2hash", {utt: f"sha-{utt}" for utt in spk})
    write_table(dump / "utt2num_samples", dict.fromkeys(spk, 1000))
    write_table(dump / "utt2undecided", dict.fromkeys(more, "3"))
    return more


@pytest.mark.parametrize("protocol", ["strict", "paper", "session", "kfold2", "crossed2"])
def test_undecided_utterances_train_with_their_speaker_and_are_never_tested(tmp_path, protocol):
    plain, dump = write_crossed(tmp_path / "plain"), write_crossed(tmp_path / "more")
    more = add_undecided(dump)
    make_folds(protocol, plain)
    make_folds(protocol, dump)
    spk, said = read_table(dump / "utt2spk"), read_table(dump / "utt2sentence")
    directory = Path("folds") / protocol
    for fold in read_lines(dump / directory / "folds"):
        lists = {path.name: read_lines(path) for path in (dump / directory / fold).iterdir()}
        for split in {"train", "valid", "test"} & set(lists):
            assert lists[split] == read_lines(plain / directory / fold / split)
        speakers = {spk[utt] for utt in lists["train"]}
        expected = {utt for utt in more if spk[utt] in speakers}
        if protocol == "crossed2":
            expected -= {utt for utt in more if said[utt] in {said[u] for u in lists["test"]}}
        assert expected and set(lists["train_undecided"]) == expected | set(lists["train"])
        shapes = [f"{utt} 1000" for utt in lists["train_undecided"]]
        assert lists["train_undecided.shape"] == shapes
    audit = (dump / directory / "audit.txt").read_text()
    assert "note: 8 utterances have no majority: they train where targets are soft" in audit
    assert "no majority" not in (plain / directory / "audit.txt").read_text()


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("test", "Ses01F_x1", "strict/Ses01F: raters disagree on Ses01F_x1"),
        ("train_undecided", "Ses01M_x1", "train_undecided and valid share the speaker Ses01M"),
        ("train_undecided", None, "train_undecided: expected all of train in it"),
    ],
)
def test_the_audit_refuses_undecided_utterances_elsewhere(tmp_path, name, extra, message):
    dump = write_crossed(tmp_path)
    add_undecided(dump)
    make_folds("strict", dump)
    fold = dump / "folds/strict/Ses01F"
    utts = sorted([*read_lines(fold / name), extra] if extra else read_lines(fold / name)[1:])
    write_lines(fold / name, utts)
    write_table(fold / f"{name}.shape", dict.fromkeys(utts, 1000))
    with pytest.raises(UserError, match=message):
        audit_folds("strict", dump / "folds/strict", dump)


def test_soft_targets_train_on_undecided_utterances_too_where_there_are_some(tmp_path):
    assert training_list(tmp_path, soft=True) == tmp_path / "train"
    (tmp_path / "train_undecided").touch()
    assert training_list(tmp_path, soft=True) == tmp_path / "train_undecided"
    assert training_list(tmp_path, soft=False) == tmp_path / "train"


def test_a_speaker_who_says_nothing_of_a_group_has_no_fold_for_it():
    spk, session, emo, said = repeated_sentences()
    mine = [u for u in spk if spk[u] == "Ses01F"]
    for utt in mine[1:]:
        for table in (spk, session, emo, said):
            del table[utt]
    folds = crossed(spk, session, emo, said, 2)
    assert sum(fold.startswith("Ses01F") for fold in folds) == 1
    assert Counter(u for s in folds.values() for u in s["test"]) == dict.fromkeys(spk, 1)
