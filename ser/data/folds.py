"""Cross-validation protocols (train, valid and test splits), and the audit of the written folds.

A protocol is a function of utt2spk and utt2session that returns, for every fold, the
utterances of each split; ``kfold<k>`` takes utt2spk and utt2emo, ``crossed<k>`` these three
and utt2sentence, ``official`` utt2spk, utt2session and utt2split. Folds hold lists of ids
only; audio and text stay where they are.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ser.data.audit import SENTENCE, SPLITS, TRAIN_UNDECIDED, Audit
from ser.data.official import OFFICIAL, official, read_splits
from ser.data.tables import SPLIT_TABLE, UNDECIDED, read_lines, read_table, read_undecided
from ser.errors import UserError
from ser.files import atomic_dir
from ser.stage import file_digest, is_done, mark_done

Folds = dict[str, dict[str, list[str]]]  # fold -> split -> utterance ids in C order


def strict(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> Folds:
    """Leave one speaker out; the other speakers of the test speaker's session validate.

    The test speaker's dialogue partner shares the room and the topic and is therefore excluded
    from training as well: ten speakers in pairs give 8 train, 1 valid, 1 test. Raises UserError
    if a session has a single speaker, which leaves nobody for validation.
    """
    partners = defaultdict(set)  # session -> its speakers
    for utt, speaker in utt2spk.items():
        partners[utt2session[utt]].add(speaker)
    for session, speakers in sorted(partners.items()):
        if len(speakers) == 1 and len(set(utt2spk.values())) > 1:
            raise UserError(
                f"--protocol strict: session {session} has one speaker ({speakers.pop()}), so "
                "no other speaker of that session can validate; use --protocol paper or "
                "session, or pair speakers into sessions in the corpus.yaml"
            )
    folds = {}
    for test in sorted(set(utt2spk.values())):
        valid = set().union(*(who for who in partners.values() if test in who)) - {test}
        roles = {**dict.fromkeys(valid, "valid"), test: "test"}
        folds[test] = _split(utt2spk, lambda speaker, roles=roles: roles.get(speaker, "train"))
    return folds


def paper(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> Folds:
    """Leave one speaker out; train on all others, without a validation set."""
    return _leave_one_out(utt2spk)


def session(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> Folds:
    """Leave one session out; train on all others, without a validation set."""
    return _leave_one_out(utt2session)


def prefix(utt2spk: Mapping[str, str], utt2session: Mapping[str, str]) -> Folds:
    """LEAKY: take the prefix of the dialog's name for the speaker, as released code does.

    ``Ses01F_impro01_M000`` was spoken by Ses01M; its id begins with Ses01F because she wore the
    markers in that dialog. Folds by the part before the first ``_`` have both speakers of a
    session in training and test. Provided to measure the effect, never for results.
    Raises UserError if ids name no dialog.
    """
    own = {utt: utt.removeprefix(f"{speaker}-") for utt, speaker in utt2spk.items()}
    unnamed = next((utt for utt in sorted(utt2spk) if "_" not in own[utt]), None)
    if unnamed is not None:
        raise UserError(
            f"--protocol prefix: utterance {unnamed} names no dialog; this mistake can only be "
            "made on a corpus with IEMOCAP's names (iemocap, mini)"
        )
    return _leave_one_out({utt: name.split("_")[0] for utt, name in own.items()})


def kfold(utt2spk: Mapping[str, str], utt2emo: Mapping[str, str], k: int) -> Folds:
    """SPEAKER-DEPENDENT: k-fold split of the utterances, each tested once; train on all others.

    Stratified: the utterances of a speaker and emotion are assigned, in C order, each to the fold
    with the fewest of them, then of the emotion, then of the speaker, then of all.
    So two folds differ by at most one utterance in each speaker's share of each emotion and in
    each emotion, and by hardly more in each speaker (two, for k from 2 to 10 on IEMOCAP and
    EmoDB). Nothing is random: every seed, machine and order of the tables gives the same folds.

    Raises UserError if k is below 2, or above the size of the smallest class, which would then be
    missing from the test split of some fold.
    """
    sizes = Counter(utt2emo[utt] for utt in utt2spk)
    smallest = min(sorted(sizes), key=sizes.__getitem__)
    if not 2 <= k <= sizes[smallest]:
        most = sizes[smallest]
        cure = f"expected 2 to {most} folds: give another --k or --protocol"
        raise UserError(
            f"--protocol kfold --k {k}: every fold has to test each class, and the smallest, "
            f"{smallest}, has {most} utterances; {cure if most > 1 else 'use another --protocol'}"
        )
    counts = Counter()  # (fold, emotion or any, speaker or any) -> utterances
    tested = {}  # utterance -> fold
    for emotion, speaker, utt in sorted((utt2emo[utt], utt2spk[utt], utt) for utt in utt2spk):
        kinds = ((emotion, speaker), (emotion, None), (None, speaker), (None, None))
        tested[utt] = min(range(k), key=lambda i, kinds=kinds: [counts[(i, *c)] for c in kinds])
        counts.update((tested[utt], *kind) for kind in kinds)
    return _leave_one_out({utt: f"fold{i + 1:0{len(str(k))}d}" for utt, i in tested.items()})


def sentence(utt: str, text: str) -> str:
    """Normalise a transcript to its sentence in utt2sentence: same words, same sentence.

    Case, punctuation and tags such as [LAUGHTER] are ignored. An utterance without words is its
    own sentence.
    """
    text = re.sub(r"\[[^\]]*\]", " ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"[^\W_]+", re.sub("['\u2019\u02bc]", "", text))) or f"<{utt}>"


def sentence_groups(
    utt2sentence: Mapping[str, str], utt2emo: Mapping[str, str], k: int
) -> dict[str, int]:
    """Assign sentences to groups 1 to ``k``: sentence -> group.

    Sentences are taken by decreasing frequency, then in C order; each goes to the group with the
    fewest utterances of its emotions, then of all. So groups are of about equal size and have
    about the same share of each emotion. Nothing is random.

    Raises:
        UserError: k is below 2, or there are fewer sentences than groups.
    """
    emotions: dict[str, Counter[str]] = defaultdict(Counter)
    for utt, said in utt2sentence.items():
        emotions[said][utt2emo[utt]] += 1
    if not 2 <= k <= len(emotions):
        most = len(emotions)
        cure = f"expected 2 to {most} groups of them: give another --k or --protocol"
        raise UserError(
            f"--protocol crossed --k {k}: the corpus has {most} different sentences; "
            f"{cure if most > 1 else 'use another --protocol'}"
        )
    counts = [Counter() for _ in range(k)]
    groups = {}
    for said in sorted(emotions, key=lambda said: (-emotions[said].total(), said)):
        loads = [
            (sum(count[e] * n for e, n in emotions[said].items()), count.total())
            for count in counts
        ]
        group = min(range(k), key=loads.__getitem__)
        counts[group].update(emotions[said])
        groups[said] = group + 1
    return groups


def crossed(
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    utt2emo: Mapping[str, str],
    utt2sentence: Mapping[str, str],
    k: int,
) -> Folds:
    """Leave out a speaker and a group of sentences: k folds for each speaker, ``<speaker>_g<i>``.

    A fold tests the speaker's utterances of group i (``sentence_groups``). The training and
    validation speakers of ``strict`` are used on the other groups: neither the test speaker nor a
    test sentence, by this speaker or another, is seen in training. A speaker without utterances of
    a group has no fold for it, so that every utterance is tested once.

    Raises UserError like ``strict`` and ``sentence_groups``, and if no utterance has words.
    """
    if all(said.startswith("<") for said in utt2sentence.values()):
        raise UserError(
            "--protocol crossed: leaves out sentences, but this corpus has no transcripts; give "
            "them with --text FILE and run stages 1 to 3 again, or use --protocol strict"
        )
    groups = sentence_groups(utt2sentence, utt2emo, k)
    folds = {}
    for speaker, splits in strict(utt2spk, utt2session).items():
        for group in range(1, k + 1):
            tested = [u for u in splits["test"] if groups[utt2sentence[u]] == group]
            if not tested:
                continue
            others = {
                split: [u for u in splits.get(split, ()) if groups[utt2sentence[u]] != group]
                for split in ("train", "valid")
            }
            folds[f"{speaker}_g{group}"] = {**others, "test": tested}
    return folds


PROTOCOLS: dict[str, Callable[[Mapping[str, str], Mapping[str, str]], Folds]] = {
    "strict": strict,
    "paper": paper,
    "session": session,
    "prefix": prefix,
}
LEAKY = {"prefix": "train and test share speakers"}  # protocols that are mistakes, and why
SPEAKER_DEPENDENT = "speaker-dependent"
# What dump/<corpus>/folds/<protocol> and exp/<corpus>/<tag> hold beside the folds.
OWN_NAMES = ("audit.txt", "folds", "figures", "log", "packed")


def num_parts(protocol: str) -> int | None:
    """The k of a protocol named ``kfold<k>``, such as kfold5; None for any other."""
    return _number(protocol, "kfold")


def num_groups(protocol: str) -> int | None:
    """The k of a protocol named ``crossed<k>``, such as crossed3; None for any other."""
    return _number(protocol, "crossed")


def _number(protocol: str, name: str) -> int | None:
    match = re.fullmatch(rf"{name}([1-9][0-9]*)", protocol)
    return int(match[1]) if match else None


def expected_folds(spec: Any, protocol: str) -> int:
    """Number of folds that stage 3 will make of a corpus, from its corpus.yaml (``load_spec``).

    Too high a number does no harm, since a task without a fold ends at once; with too low a number
    a task trains several folds. So the result is 1 if corpus.yaml does not determine it.
    """
    parts = num_parts(protocol)
    if parts is not None:
        return parts
    if protocol == "session":
        return len(spec.sessions or spec.counts.session or [None])
    return len(spec.counts.speaker or [None]) * (num_groups(protocol) or 1)


def mean_over(protocol: str) -> str:
    """Unit over which WA and UA are averaged: ``folds``, or ``speakers`` for ``crossed``.

    A fold of ``crossed`` may be too small to have every emotion; a speaker's folds together have
    the test set of one fold of ``strict``.
    """
    return "folds" if num_groups(protocol) is None else "speakers"


def caveat(protocol: str) -> str:
    """Mark for results of ``protocol``: LEAKY, speaker-dependent, or "" for a sound protocol.

    In both cases a fold's test speakers are also in its training split, by mistake or by design;
    the scores then say nothing about unseen speakers.
    """
    if protocol in LEAKY:
        return "LEAKY"
    shared = num_parts(protocol) is not None or protocol == "official_shared"
    return SPEAKER_DEPENDENT if shared else ""


def require_protocol(protocol: str) -> None:
    """Raise UserError unless ``protocol`` is in PROTOCOLS or OFFICIAL, kfold<k> or crossed<k>."""
    known = protocol in PROTOCOLS or protocol in OFFICIAL
    if not known and not num_parts(protocol) and not num_groups(protocol):
        raise UserError(
            f"--protocol {protocol}: no such protocol; choose strict, paper, session, official, "
            "official_shared, crossed<k> (such as crossed3), kfold<k> (such as kfold5) or the "
            "leaky prefix"
        )


def assign(
    protocol: str,
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    utt2emo: Mapping[str, str],
    utt2sentence: Mapping[str, str],
    utt2split: Mapping[str, str] | None = None,
    undecided: Collection[str] = (),
) -> Folds:
    """Make the folds of ``protocol``; UserError if it is unknown or the corpus does not fit.

    ``undecided`` utterances do not change the splits of the decided ones. If there are any, each
    fold has a list TRAIN_UNDECIDED: the training utterances, plus the undecided ones of training
    speakers whose sentence, for crossed, is not tested.
    """
    require_protocol(protocol)
    if undecided:
        tables = (utt2spk, utt2session, utt2emo, utt2sentence)
        decided = [{u: t[u] for u in t if u not in undecided} for t in tables]
        folds = assign(protocol, *decided, utt2split)
        apart = num_groups(protocol) is not None
        for splits in folds.values():
            speakers = {utt2spk[u] for u in splits["train"]}
            tested = {utt2sentence[u] for u in splits["test"]} if apart else set()
            more = {u for u in undecided if utt2spk[u] in speakers}
            more -= {u for u in more if utt2sentence.get(u) in tested}
            splits[TRAIN_UNDECIDED] = sorted({*splits["train"], *more})
        return folds
    k = num_parts(protocol)
    if k is not None:
        return kfold(utt2spk, utt2emo, k)
    k = num_groups(protocol)
    if k is not None:
        return crossed(utt2spk, utt2session, utt2emo, utt2sentence, k)
    if protocol in OFFICIAL:
        return official(protocol, utt2spk, utt2session, utt2split or {})
    return PROTOCOLS[protocol](utt2spk, utt2session)


def require_training(protocol: str, folds: Folds, utt2spk: Mapping[str, str]) -> None:
    """Raise UserError if a fold has no training speakers, before any audio is read."""
    fold = next((name for name, splits in folds.items() if not splits.get("train")), None)
    if fold is None:
        return
    several = len(set(utt2spk.values())) > 1 and protocol != "paper"
    cure = "paper, which needs two speakers" if several else "kfold --k 5, of known speakers"
    raise UserError(
        f"--protocol {protocol}: nobody is left to train where {fold} is tested; use more "
        f"speakers, or --protocol {cure}"
    )


def require_names(protocol: str, folds: Iterable[str]) -> None:
    """Raise UserError for a fold whose folder would be one that this recipe uses otherwise."""
    for fold in folds:
        if fold in OWN_NAMES:
            raise UserError(
                f"--protocol {protocol}: {fold} is the name of a speaker or session, and so of a "
                "fold, but also of what the recipe writes beside the folds; rename it in the "
                "corpus and run stage 1 again, or use another --protocol"
            )


def _leave_one_out(utt2group: Mapping[str, str]) -> Folds:
    """A fold for each group, in C order, which tests it and trains on all others."""
    return {
        test: _split(utt2group, lambda group, test=test: "test" if group == test else "train")
        for test in sorted(set(utt2group.values()))
    }


def _split(utt2group: Mapping[str, str], role: Callable[[str], str]) -> dict[str, list[str]]:
    splits = defaultdict(list)
    for utt in sorted(utt2group):
        splits[role(utt2group[utt])].append(utt)
    return {split: splits[split] for split in SPLITS if splits[split]}


def make_folds(protocol: str, dump_dir: Path) -> bool:
    """Write and audit ``dump_dir/folds/<protocol>``; return False if it exists already.

    Reads utt2spk, utt2session, utt2emo, utt2hash, utt2num_samples and emotions of
    ``dump_dir``, utt2sentence for crossed, and utt2split for official, if it exists.
    Each fold directory gets a list and an ESPnet shape file (``utt
    num_samples``) per split. Raises UserError if the corpus does not fit the protocol or
    the audit fails; an existing directory is then left unchanged.
    """
    names = ["utt2spk", "utt2session", "utt2emo", "utt2hash", "utt2num_samples", "emotions"]
    names += ["utt2sentence"] if num_groups(protocol) else []
    splits = read_splits(dump_dir)
    names += [SPLIT_TABLE] if protocol in OFFICIAL and splits else []
    undecided = read_undecided(dump_dir)
    names += [UNDECIDED] if undecided else []
    settings = {"protocol": protocol, "tables": file_digest(*(dump_dir / n for n in names))}
    directory = dump_dir / "folds" / protocol
    if is_done(directory, settings):
        return False
    tables = (read_table(dump_dir / name) for name in ("utt2spk", "utt2session", "utt2emo"))
    sentences = read_table(dump_dir / "utt2sentence") if num_groups(protocol) else {}
    folds = assign(protocol, *tables, sentences, splits, undecided)
    num_samples = read_table(dump_dir / "utt2num_samples")
    with atomic_dir(directory) as temporary:
        _write(temporary / "folds", folds)
        for fold, splits in folds.items():
            (temporary / fold).mkdir()
            for split, utts in splits.items():
                _write(temporary / fold / split, utts)
                shape = (f"{utt} {num_samples[utt]}" for utt in utts)
                _write(temporary / fold / f"{split}.shape", shape)
        _write(temporary / "audit.txt", audit_folds(protocol, temporary, dump_dir))
        mark_done(temporary, settings)
    return True


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _without_validation(protocol: str) -> bool:
    return protocol in ("paper", "session", "prefix") or num_parts(protocol) is not None


def audit_folds(protocol: str, folds_dir: Path, dump_dir: Path) -> list[str]:
    """Read ``folds_dir`` back, check it against the tables of ``dump_dir``, and report.

    Errors: a split that is missing or empty; an utterance, a speaker or the same audio
    (utt2hash) in two splits of a fold; for the session protocol, a session in two splits; for
    crossed, a sentence in the test split and another; an utterance of the corpus in no test split
    (except for official folds) or in two; a training split that lacks an emotion; a shape file
    that disagrees with its list.

    Returns the lines of audit.txt: what was checked, the size of every split, and notes on
    what is allowed but worth knowing (the same audio twice within a split, an emotion absent
    from a test split). Raises UserError that names the offenders. Overlap between the splits of a
    LEAKY protocol, and speakers shared by the splits of kfold, are listed in these lines instead.
    """
    require_protocol(protocol)
    if not (folds_dir / "folds").exists():
        raise UserError(
            f"{folds_dir}: no folds; make them first: ./run.sh --stage 3 --stop-stage 3 "
            f"--protocol {protocol} with the same --corpus"
        )
    kinds = {"speaker": "utt2spk"}
    kinds |= {"session": "utt2session"} if protocol == "session" else {}
    kinds |= {SENTENCE: "utt2sentence"} if num_groups(protocol) else {}
    kinds |= {"audio": "utt2hash"}
    groups = {kind: read_table(dump_dir / name) for kind, name in kinds.items()}
    mark = caveat(protocol)
    may_share = {"LEAKY": groups, SPEAKER_DEPENDENT: ("speaker",)}.get(mark, ())
    audit = Audit(
        dump_dir,
        where=f"folds/{protocol}",
        splits=("train", "test") if _without_validation(protocol) else SPLITS,
        refused={kind: table for kind, table in groups.items() if kind not in may_share},
        noted={kind: groups[kind] for kind in may_share},
        mark=mark,
    )
    for fold in read_lines(folds_dir / "folds"):
        audit.check_fold(fold, folds_dir / fold)
    tested = "every utterance tested once"
    if protocol in OFFICIAL:
        tested = f"{len(audit.tested)} utterances tested, none twice"
    audit.check_coverage(groups["audio"], whole=protocol not in OFFICIAL)
    *others, last = ("utterance", *audit.refused)
    checked = f"{', '.join(others)} or {last}" if others else last
    if SENTENCE in audit.refused:
        audit.notes.insert(
            0, "sentences may be in both train and valid of a fold, never in test as well"
        )
    return [
        f"protocol {protocol}{f' ({mark})' if mark else ''}: {len(audit.sizes)} folds, "
        f"{len(audit.utt2emo)} utterances",
        f"checked: no {checked} in two splits of a fold; {tested}; "
        f"all {len(audit.emotions)} emotions in every training split; no empty split",
        *audit.sizes,
        *audit.notes_on_undecided(),
        *(f"note: {note}" for note in audit.notes),
    ]
