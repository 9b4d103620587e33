"""Choose the system to release: the best of those scored on a corpus."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser.data.folds import caveat
from ser.errors import UserError
from ser.reporting.rows import Row, group_seeds, system_name
from ser.scoring.records import read_all_records, read_all_scores

PLACES = ("--corpus-dir", "--ssl")  # options of run.sh; in a record they are PATH/TO/<name>
PLACEHOLDER = "PATH/TO/"


@dataclass(frozen=True)
class Candidate:
    """A row of results: UA on validation speakers, mean over folds and seeds, as a fraction."""

    row: Row
    valid_ua: float

    def line(self) -> str:
        """Summary line: name, seeds, UA on validation and on test speakers."""
        seeds = self.row.joined("seed")
        return (
            f"{system_name(self.row.first)} (seed {seeds}): "
            f"valid UA {100 * self.valid_ua:.1f}, test UA {self.row.scored('ua')}"
        )


def rank(corpus: str, records: Path, exp_root: Path, protocol: str = "strict") -> list[Candidate]:
    """Rank the systems scored on ``corpus`` by ``protocol``, best UA on validation speakers first.

    Test speakers are not used for the choice, so that the score of the chosen system remains one
    for unseen speakers. Leaky, speaker-dependent and unfinished rows and sweep points are left out.
    Scores under ``exp_root`` replace records of the same experiment.

    Raises:
        UserError: None is left.
    """
    runs = [*read_all_records(records), *read_all_scores(exp_root, needed=False)]
    kept = {run[1]["corpus"] + "/" + run[1]["tag"]: run for run in runs}
    found = []
    for row in group_seeds([run for run in kept.values() if run[1]["corpus"] == corpus]):
        s = row.first
        values = [fold.get("valid_ua") for _, run in row.runs for fold in run["per_fold"].values()]
        unfit = s["leaky"] or caveat(s["protocol"]) or s["corpus_partial"] or s["folds"]["missing"]
        unfit = unfit or s.get("sweep") or s["protocol"] != protocol
        if not unfit and None not in values:
            found.append(Candidate(row, float(np.mean(values))))
    if not found:
        corpora = ", ".join(sorted({run[1]["corpus"] for run in kept.values()})) or "none"
        raise UserError(
            f"{corpus}: no system was scored on it by protocol {protocol} with validation speakers "
            f"(corpora in {records} and {exp_root}: {corpora}); train one first: ./run.sh --corpus "
            f"{corpus} --protocol {protocol}"
        )
    return sorted(found, key=lambda candidate: -candidate.valid_ua)


def release_command(best: Candidate, places: dict[str, str]) -> list[str]:
    """Arguments of run.sh that train ``best`` (if it is not there already) and pack it.

    Args:
        places: ``--corpus-dir`` and ``--ssl`` if they were given.

    Raises:
        UserError: A path that is neither in the record nor given.
    """
    _, *arguments = shlex.split(best.row.first["command"])
    for place in PLACES:
        if place not in arguments:
            continue
        at = arguments.index(place) + 1
        if place in places:
            arguments[at] = places[place]
        elif arguments[at].startswith(PLACEHOLDER):
            found = f"{place}: needed for this system, which had {arguments[at]}"
            raise UserError(f"{found}; give the place on this machine")
    return [*arguments, "--stop-stage", "7"]
