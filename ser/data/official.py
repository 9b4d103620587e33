"""Official folds of a corpus, in utt2split: the protocols official and official_shared.

A line of utt2split is ``<utterance> train`` (or valid, test, unused) or, for several folds,
``<utterance> fold_1:train,fold_2:test``. It is written by stage 1 or by the user.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from ser.data.audit import SPLITS
from ser.data.tables import SPLIT_TABLE, read_table
from ser.errors import UserError

OFFICIAL = ("official", "official_shared")  # protocols


def read_splits(directory: Path) -> dict[str, str]:
    """Read the official split in ``directory`` from utt2split; empty if there is none."""
    path = directory / SPLIT_TABLE
    return read_table(path) if path.exists() else {}


def official(
    protocol: str,
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
    utt2split: Mapping[str, str],
) -> dict[str, dict[str, list[str]]]:
    """Folds that come with the corpus; a single one is called ``test``.

    If they have no validation set, sessions of the training set are held out (``_hold_out``).
    Utterances in no split are left out. ``official_shared`` is SPEAKER-DEPENDENT: for splits that
    share speakers between training and test, which ``official`` rejects.

    Returns:
        Fold -> split -> utterance ids in C order.

    Raises UserError for a corpus without an official split, an invalid value, speakers in two
    splits of ``official``, and a training set without speakers to hold out for validation.
    """
    if not utt2split:
        raise UserError(
            f"--protocol {protocol}: this corpus has no official split; name one in corpus.yaml "
            "(columns: {split: ...} or official: FOLDER) and run stages 1 to 3 again"
        )
    folds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for utt in sorted(utt2split):
        for value in utt2split[utt].split(","):
            fold, _, split = value.rpartition(":")
            if split in SPLITS:
                folds[fold or "test"][split].append(utt)
            elif split != "unused":
                raise UserError(
                    f"--protocol {protocol}: utt2split: {utt} is in {split!r}, expected train, "
                    "valid, test or unused; say in corpus.yaml which it is, e.g. split_map: "
                    f"{{{split}: valid}}, and run stages 1 to 3 again"
                )
    for fold, splits in folds.items():
        for one, other in combinations(sorted(splits), 2):
            shared = {utt2spk[u] for u in splits[one]} & {utt2spk[u] for u in splits[other]}
            if shared and protocol == "official":
                raise UserError(
                    f"--protocol official: fold {fold}: {one} and {other} share {len(shared)} "
                    f"speakers ({', '.join(sorted(shared)[:5])}), so scores on this split say "
                    "nothing about new speakers; --protocol official_shared runs it, marked "
                    "speaker-dependent"
                )
        if "valid" not in splits and splits["train"]:
            _hold_out(f"--protocol {protocol}: fold {fold}", splits, utt2spk, utt2session)
    order = sorted(folds, key=lambda name: (len(name), name))
    return {fold: {s: folds[fold][s] for s in SPLITS if folds[fold][s]} for fold in order}


def _hold_out(
    where: str,
    splits: dict[str, list[str]],
    utt2spk: Mapping[str, str],
    utt2session: Mapping[str, str],
) -> None:
    """Move a tenth of the training utterances to ``valid``, by whole sessions.

    Sessions are moved in C order, starting with the first test speaker's, until there are enough;
    speakers are moved instead if the training set is a single session.
    """
    groups = utt2session
    if len({groups[u] for u in splits["train"]}) == 1:
        groups = utt2spk
    sizes = Counter(groups[u] for u in splits["train"])
    tested = min((groups[u] for u in splits["test"]), default="")
    held: set[str] = set()
    for name in sorted(sizes, key=lambda name: (name < tested, name)):
        if 10 * sum(sizes[h] for h in held) < sizes.total():
            held.add(name)
    if len(held) == len(sizes):
        raise UserError(f"{where}: only {', '.join(held)} trains, so that nobody can validate")
    splits["valid"] = [u for u in splits["train"] if groups[u] in held]
    splits["train"] = [u for u in splits["train"] if groups[u] not in held]
