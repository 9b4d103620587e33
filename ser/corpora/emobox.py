"""Official folds in the layout of EmoBox (Ma et al., Interspeech 2024).

Its files are ``fold_<k>/<corpus>_<split>_fold_<k>.jsonl``, or ``fold_<k>/<split>.jsonl``. Each line
is a recording; the end of the path in its key ``wav`` identifies the utterance.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from ser.corpora.rows import resolve
from ser.corpora.table import read_records
from ser.data.audit import SPLITS
from ser.data.tables import Utterance
from ser.errors import UserError


def add_splits(folder: str | None, root: Path, utterances: Sequence[Utterance]) -> list[Utterance]:
    """Add the splits in ``folder`` (relative to ``root``), if given, to the utterances.

    Paths are compared by as many of their last parts as distinguish the utterances, ignoring
    suffix and case. The number of recordings in the folds that match no utterance is printed.

    Raises:
        UserError: No such folder, no folds in it, or folds of other recordings.
    """
    if folder is None:
        return list(utterances)
    where = resolve(folder, root if root.is_dir() else root.parent)
    folds = sorted(where.glob("fold_*"), key=lambda path: (len(path.name), path.name))
    files = [
        (fold, split, path)
        for fold in folds
        for split in SPLITS
        for path in (*fold.glob(f"*_{split}_{fold.name}.jsonl"), *fold.glob(f"{split}.jsonl"))
    ]
    if not files:
        raise UserError(
            f"official in corpus.yaml: {where}: no folds; expected files such as "
            "fold_1/emodb_train_fold_1.jsonl, as in EmoBox's data/<corpus>"
        )
    width = 1
    while len({_end(u.wav, width) for u in utterances}) < len(utterances) and width < 9:
        width += 1
    owner = {_end(u.wav, width): u.utt_id for u in utterances}
    splits: dict[str, list[str]] = defaultdict(list)
    others = set()
    for fold, split, path in files:
        for number, record in read_records(path):
            if "wav" not in record:
                raise UserError(f"{path}:{number}: no key wav; expected the path of a recording")
            utt = owner.get(_end(record["wav"], width))
            if utt is None:
                others.add(record["wav"])
            else:
                splits[utt].append(f"{fold.name}:{split}")
    if not splits:
        raise UserError(
            f"official in corpus.yaml: {where}: none of its {len(others)} recordings is an "
            f"utterance here, e.g. {min(others, default='-')}; found {utterances[0].wav}"
        )
    print(
        f"{where}: {len(folds)} folds of {len(splits)} of {len(utterances)} utterances; "
        f"{len(others)} other recordings in them"
    )
    return [replace(u, split=",".join(splits.get(u.utt_id, ()))) for u in utterances]


def _end(path: Path | str, width: int) -> tuple[str, ...]:
    """Last ``width`` parts of a path without its suffix."""
    return tuple(part.casefold() for part in PurePath(path).with_suffix("").parts[-width:])
