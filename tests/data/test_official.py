"""ser/data/official.py: the splits that come with a corpus, and who validates where none does."""

import pytest

from ser.data.folds import audit_folds, caveat, make_folds
from ser.data.official import official
from ser.data.tables import read_lines, write_lines, write_table
from ser.errors import UserError

# Five speakers in three sessions, who say two utterances each.
SESSIONS = {"a": "S1", "b": "S1", "c": "S2", "d": "S2", "e": "S3"}
UTT2SPK = {f"{speaker}{i}": speaker for speaker in SESSIONS for i in "12"}
UTT2SESSION = {utt: SESSIONS[speaker] for utt, speaker in UTT2SPK.items()}


def split(train, test, valid="", unused=""):
    sets = {"train": train, "valid": valid, "test": test, "unused": unused}
    return {f"{speaker}{i}": name for name, who in sets.items() for speaker in who for i in "12"}


def folds(utt2split, protocol="official"):
    return official(protocol, UTT2SPK, UTT2SESSION, utt2split)


def write_dump(directory, utt2split):
    write_table(directory / "utt2spk", UTT2SPK)
    write_table(directory / "utt2session", UTT2SESSION)
    write_table(directory / "utt2emo", {utt: ("angry", "sad")[utt[1] == "2"] for utt in UTT2SPK})
    write_table(directory / "utt2hash", {utt: f"sha-{utt}" for utt in UTT2SPK})
    write_table(directory / "utt2num_samples", dict.fromkeys(UTT2SPK, 800))
    write_table(directory / "utt2split", utt2split)
    write_lines(directory / "emotions", ["angry", "sad"])
    return directory


def test_a_split_with_a_validation_set_is_taken_as_it_is():
    found = folds(split(train="ab", valid="c", test="d", unused="e"))
    assert found == {
        "test": {"train": ["a1", "a2", "b1", "b2"], "valid": ["c1", "c2"], "test": ["d1", "d2"]}
    }


@pytest.mark.parametrize(
    ("train", "test", "valid"),
    [
        ("abde", "c", "d"),  # d, who shares the session of c
        ("abe", "cd", "e"),  # after S2 comes S3
        ("abcd", "e", "ab"),  # after S3 comes S1
        ("ab", "c", "a"),  # all training is one session, so one of its speakers
    ],
)
def test_without_one_whole_sessions_beside_or_after_the_tested_one_validate(train, test, valid):
    (found,) = folds(split(train, test)).values()
    assert {u[0] for u in found["valid"]} == set(valid)
    assert {u[0] for u in found["train"]} == set(train) - set(valid)
    assert {u[0] for u in found["test"]} == set(test)


def test_sessions_validate_until_they_have_a_tenth_of_the_training_utterances():
    sizes = {"a": 2, "b": 3, "c": 40, "d": 5}  # of 50: a and b, since 2 is fewer than 5
    spk = {f"{s}{i:02d}": s for s, n in sizes.items() for i in range(n)}
    found = official("official", {**spk, "t": "t"}, {**spk, "t": "t"},
                     {**dict.fromkeys(spk, "train"), "t": "test"})  # fmt: skip
    assert {spk[u] for u in found["test"]["valid"]} == {"a", "b"}


def test_several_folds_are_read_in_the_order_of_their_numbers():
    utt2split = {utt: "fold_10:test,fold_9:train" for utt in ("a1", "a2")}
    utt2split |= {utt: "fold_9:test,fold_10:train" for utt in ("c1", "c2")}
    utt2split |= {utt: "fold_9:valid,fold_10:valid" for utt in ("e1", "e2")}
    assert [*folds(utt2split)] == ["fold_9", "fold_10"]
    assert folds(utt2split)["fold_10"] == {
        "train": ["c1", "c2"], "valid": ["e1", "e2"], "test": ["a1", "a2"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("utt2split", "message"),
    [
        ({}, "this corpus has no official split; name one in corpus.yaml"),
        ({"a1": "dev"}, r"a1 is in 'dev', expected train, .*split_map: \{dev: valid\}"),
        (split("a", "b"), "test: only a trains, so that nobody can validate"),
        (
            {**split("ab", "c"), "a1": "test"},
            r"test and train share 1 speakers \(a\).*--protocol official_shared runs it, marked",
        ),
    ],
)
def test_a_split_that_cannot_be_used_says_why(utt2split, message):
    with pytest.raises(UserError, match=rf"--protocol official: .*{message}"):
        folds(utt2split)


def test_the_audit_names_the_speakers_of_a_shared_split_and_marks_the_protocol(tmp_path):
    shared = {**split("ab", "c", valid="d"), "a2": "test"}
    make_folds("official_shared", write_dump(tmp_path, shared))
    lines = read_lines(tmp_path / "folds/official_shared/audit.txt")
    assert lines[0] == "protocol official_shared (speaker-dependent): 1 folds, 10 utterances"
    assert "3 utterances tested, none twice" in lines[1]
    assert lines[2] == "test train 3 valid 2 test 3"
    assert lines[3] == (
        "note: speaker-dependent: folds/official_shared/test: train and test share the speaker a"
    )
    assert caveat("official_shared") == caveat("kfold5") == "speaker-dependent"
    assert caveat("official") == ""


def test_folds_follow_utt2split_and_the_audit_still_refuses_a_speaker_in_two_sets(tmp_path):
    dump = write_dump(tmp_path, split("ab", "cd"))
    assert make_folds("official", dump)
    assert not make_folds("official", dump)
    write_table(dump / "utt2split", split("ab", "c"))
    assert make_folds("official", dump)
    assert read_lines(dump / "folds/official/test/test") == ["c1", "c2"]
    assert "speaker or audio in two splits" in (dump / "folds/official/audit.txt").read_text()
    write_table(dump / "utt2spk", {**UTT2SPK, "c1": "a"})
    with pytest.raises(UserError, match="share the speaker a"):
        audit_folds("official", dump / "folds/official", dump)
