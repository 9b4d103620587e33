"""What the HTML report of an experiment is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ser.errors import UserError
from ser.reporting.figures import History, final_layer_weights, has_low_level, read_histories
from ser.scoring.records import SCORE_FIRST, read_scores
from ser.scoring.text import mark
from ser.training.experiment import Experiment, open_experiment, read_run

ERROR_COLUMNS = ["utt_id", "ref", "hyp", "confidence", "p_ref", "wav"]


@dataclass(frozen=True)
class WrongDecision:
    """A line of errors.tsv; ``sure`` and ``missed`` are what hypothesis and reference got."""

    utt_id: str
    ref: str
    hyp: str
    sure: float
    missed: float
    wav: str


@dataclass
class Material:
    """One experiment; what stages 4 and 5 left in its directory, or did not."""

    exp_dir: Path
    dump_dir: Path
    data_dir: Path
    scores: dict[str, Any]

    @property
    def name(self) -> str:
        """The tag."""
        return self.scores["tag"]

    @property
    def title(self) -> str:
        """The tag with its marks, to stand by whatever is shown of the experiment."""
        marks = [mark(self.scores), "PARTIAL" if self.scores["partial"] else ""]
        return self.name + "".join(f" ({text})" for text in marks if text)

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.yaml; empty where only the scores were copied."""
        return read_run(self.exp_dir) if (self.exp_dir / "run.yaml").is_file() else {}

    @property
    def heads(self) -> list[str] | None:
        """The auxiliary heads that were trained; None where nothing tells."""
        settings = self.run.get("settings") or {}
        if not self.run or "data" not in settings and "aux_conf" not in settings:
            return None
        conf = settings.get("aux_conf") or {}
        return [name for name, head in conf.items() if (head or {}).get("weight", 1.0)]

    @property
    def kind(self) -> str | None:
        """Single or multi-task, in words."""
        if self.heads is None:
            return None
        return f"multi-task: emotion + {', '.join(self.heads)}" if self.heads else "single task"

    @cached_property
    def histories(self) -> dict[str, History]:
        """history.json of the scored folds that have one."""
        return read_histories(self.exp_dir, self.scores["folds"]["scored"])

    def layer_weights(self) -> dict[str, list[float]]:
        """Fusion weights after training, by fold; empty without a fusion."""
        found = {fold: final_layer_weights(h) for fold, h in self.histories.items()}
        found = {fold: weights for fold, weights in found.items() if weights}
        return found if len({len(w) for w in found.values()}) == 1 else {}

    def layer_names(self, count: int) -> list[str]:
        """What the ``count`` weights of the fusion belong to, from the input up."""
        low = has_low_level(self.exp_dir, self.layer_weights())
        return [("low-level" if low and i == 0 else f"layer {i + (not low)}") for i in range(count)]

    @cached_property
    def errors(self) -> list[WrongDecision]:
        """The wrong decisions, the most confident first.

        Raises:
            UserError: errors.tsv is absent, malformed, or not of these scores.
        """
        path = self.exp_dir / "errors.tsv"
        cure = "write it again: ./run.sh --stage 5 --stop-stage 5 with the same options"
        if not path.is_file():
            raise UserError(f"{path.name}: no such file in the experiment; {cure}")
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if lines[0].split("\t") != ERROR_COLUMNS:
            raise UserError(f"{path.name}:1: expected {' '.join(ERROR_COLUMNS)}; {cure}")
        found = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                utt_id, ref, hyp, sure, missed, wav = line.split("\t")
                found.append(WrongDecision(utt_id, ref, hyp, float(sure), float(missed), wav))
            except ValueError:
                raise UserError(f"{path.name}:{number}: malformed; {cure}") from None
        counts = self.scores["confusion"]["counts"]
        wrong = sum(n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j)
        if len(found) != wrong:
            raise UserError(
                f"{path.name}: {len(found)} wrong decisions, scores.json has {wrong}; {cure}"
            )
        return found

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment with its data; UserError where these are not, or not the same ones."""
        return open_experiment(self.exp_dir, self.dump_dir)


def read_material(
    exp_dir: Path, dump_dir: Path | None = None, data_dir: Path | None = None
) -> Material:
    """The experiment in ``exp_dir``; its data are looked for beside ``exp/`` unless named.

    Raises:
        UserError: it has no scores.json, or one that cannot be believed.
    """
    path = exp_dir / "scores.json"
    if not path.is_file():
        what = "no such directory" if not exp_dir.is_dir() else "not scored"
        raise UserError(f"{path}: {what}; {SCORE_FIRST}, or give exp/<corpus>/<tag>")
    scores = read_scores(path)
    root = exp_dir.resolve().parents[2]
    return Material(
        exp_dir=exp_dir,
        dump_dir=dump_dir or root / "dump" / scores["corpus"],
        data_dir=data_dir or root / "data" / scores["corpus"],
        scores=scores,
    )


def same_tests(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two scores.json are of the same utterances in the same folds."""
    if first["test_sha256"] != second["test_sha256"] or first["labels"] != second["labels"]:
        return False
    layouts = [
        [(e["fold"], e["speaker"], e["ref"]) for e in s["speakers"]] for s in (first, second)
    ]
    return layouts[0] == layouts[1]
