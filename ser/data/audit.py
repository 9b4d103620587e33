"""Checks on folds as written; ``data.folds.audit_folds`` chooses them by protocol."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from ser.data.tables import read_lines, read_table, read_undecided
from ser.errors import UserError, join_problems, some

SPLITS = ("train", "valid", "test")
TRAIN_UNDECIDED = "train_undecided"  # the training split plus utterances without a majority label
SENTENCE = "sentence"
Groups = Mapping[str, Mapping[str, str]]  # kind (speaker, sentence ...) -> utterance -> its group


def training_list(fold_dir: Path, soft: bool) -> Path:
    """Path of a fold's training list; ``soft``: for training on the raters' votes, not labels."""
    undecided = fold_dir / TRAIN_UNDECIDED
    return undecided if soft and undecided.exists() else fold_dir / "train"


@dataclass
class Audit:
    """Checks of one protocol's folds, and their findings so far."""

    dump_dir: Path
    where: str  # prefix of messages
    splits: tuple[str, ...]  # required in every fold
    refused: Groups  # must not be shared by two splits of a fold
    noted: Groups  # may be shared, but is noted with ``mark``
    mark: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    tested: Counter[str] = field(default_factory=Counter)

    def __post_init__(self):
        self.utt2emo = read_table(self.dump_dir / "utt2emo")
        self.num_samples = read_table(self.dump_dir / "utt2num_samples")
        self.emotions = read_lines(self.dump_dir / "emotions")
        self.undecided = read_undecided(self.dump_dir)

    def check_fold(self, fold: str, directory: Path) -> None:
        """Check the lists and shape files in a fold's ``directory``."""
        splits = {split: _read_split(directory / split) for split in self.splits}
        where = f"{self.where}/{fold}"
        unknown = sorted({utt for utts in splits.values() for utt in utts} - self.utt2emo.keys())
        if unknown:
            self.problems.append(f"{where}: not utterances of {self.dump_dir}: {some(unknown)}")
            return
        with_undecided = _read_split(directory / TRAIN_UNDECIDED)
        lists = splits | ({TRAIN_UNDECIDED: with_undecided} if self.undecided else {})
        self.problems += _wrong_lists(where, directory, lists, self.num_samples)
        self.problems += _shared(where, splits, self.refused)
        if self.undecided:
            self._check_undecided(where, splits, with_undecided)
        if self.noted:
            self.notes += [f"{self.mark}: {line}" for line in _shared(where, splits, self.noted)]
        for split, utts in splits.items():
            absent = set(self.emotions) - {self.utt2emo[utt] for utt in utts}
            names = " or ".join(sorted(absent, key=self.emotions.index))
            if absent and utts:
                found = self.problems if split == "train" else self.notes
                found.append(f"{where}/{split}: no utterance is {names}")
        self.tested.update(set(splits["test"]))
        self.sizes.append(f"{fold} " + " ".join(f"{s} {len(splits[s])}" for s in self.splits))

    def _check_undecided(
        self, where: str, splits: Mapping[str, list[str]], training: list[str]
    ) -> None:
        """Check that only ``training`` has undecided utterances, and that it shares nothing."""
        others = {split: utts for split, utts in splits.items() if split != "train"}
        self.problems += _shared(where, {TRAIN_UNDECIDED: training, **others}, self.refused)
        decided = {utt for utts in splits.values() for utt in utts}
        if found := sorted(decided & self.undecided):
            self.problems.append(f"{where}: raters disagree on {some(found)}")
        if set(training) - self.undecided != set(splits["train"]):
            self.problems.append(f"{where}/{TRAIN_UNDECIDED}: expected all of train in it")

    def notes_on_undecided(self) -> list[str]:
        """Lines of audit.txt about utterances without a majority."""
        if not self.undecided:
            return []
        return [
            f"note: {len(self.undecided)} utterances have no majority: they train where targets "
            f"are soft ({TRAIN_UNDECIDED}), and are never tested"
        ]

    def check_coverage(self, utt2hash: Mapping[str, str], whole: bool = True) -> None:
        """Check after all folds that each utterance is tested once; unless ``whole``, at most once.

        Raises:
            UserError: Names all problems found.
        """
        untested = sorted(self.utt2emo.keys() - self.tested.keys() - self.undecided)
        if untested and whole:
            self.problems.append(f"{self.where}: in no test split: {some(untested)}")
        repeated = sorted(utt for utt, count in self.tested.items() if count > 1)
        if repeated:
            self.problems.append(f"{self.where}: in more than one test split: {some(repeated)}")
        if self.problems:
            raise UserError(
                join_problems(
                    self.problems,
                    "nothing may be trained on these folds; fix data/ (stage 1: a repeated "
                    "recording, a wrong speaker) or choose another --protocol, then run stage 3",
                )
            )
        self.notes += _same_audio(utt2hash)


def _read_split(path: Path) -> list[str]:
    return read_lines(path) if path.exists() else []


def _wrong_lists(
    where: str, directory: Path, splits: Mapping[str, list[str]], num_samples: Mapping[str, str]
) -> list[str]:
    """Errors in the files themselves: missing, empty, out of order, repeated, wrong shape."""
    problems = []
    extra = sorted(s for s in SPLITS if s not in splits and (directory / s).exists())
    if extra:
        problems.append(f"{where}/{extra[0]}: this protocol has no such split")
    for split, utts in splits.items():
        if not utts:
            problems.append(f"{where}/{split}: empty; the fold needs utterances there")
            continue
        if utts != sorted(set(utts)):
            problems.append(f"{where}/{split}: not in C order, or a repeated utterance")
        shapes = directory / f"{split}.shape"
        expected = {utt: num_samples[utt] for utt in utts}
        if not shapes.exists() or read_table(shapes) != expected:
            problems.append(f"{where}/{split}.shape: does not agree with {split}")
    return problems


def _shared(
    where: str, splits: Mapping[str, list[str]], groups: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Report what two splits of one fold share but must not."""
    problems = []
    for first, second in combinations(splits, 2):
        pair = f"{where}: {first} and {second}"
        if splits[first] and set(splits[first]) == set(splits[second]):
            problems.append(f"{pair} are the same utterances")
            continue
        both = sorted(set(splits[first]) & set(splits[second]))
        if both:
            problems.append(f"{pair} share utterances: {some(both)}")
        for kind, utt2group in groups.items():
            if kind == SENTENCE and second != "test":  # training sentences may be in valid
                continue
            left, right = ({utt2group[u]: u for u in splits[s]} for s in (first, second))
            common = sorted(left.keys() & right.keys())
            if common and kind == "audio":
                pairs = [f"{left[h]} = {right[h]}" for h in common]
                problems.append(f"{pair} share the same audio: {some(pairs)}")
            elif common:
                problems.append(f"{pair} share the {kind} {some(common)}")
    return problems


def _same_audio(utt2hash: Mapping[str, str]) -> list[str]:
    same = defaultdict(list)
    for utt, value in utt2hash.items():
        same[value].append(utt)
    repeated = [" = ".join(utts) for utts in same.values() if len(utts) > 1]
    return [f"the same audio within a split: {some(repeated)}"] if repeated else []
