"""Three decisions from one model: its emotion head, its CTC head, and both together.

Every unit of an emotion-tagged inventory carries the emotion, so the auxiliary phoneme head can
predict it as well, in two ways:

- *mass*: the posterior of all units with an emotion's tag, summed over frames and normalised over
  the emotions, q(e) = sum_t sum_{u tagged e} p(u | t) / sum_t sum_{u not blank} p(u | t);
- *transcript*: with a transcript, the CTC likelihood of its phoneme classes under each tag,
  q(e) = p(units tagged e | frames) / sum_e' p(units tagged e' | frames): all alignments are summed,
  and the emotions have equal priors. It uses the words, which are not available for a user's
  recording; without words, or with more units than frames allow, it is the mass.

Fusion with the emotion head is log-linear, log q = (1 - w) log p_head + w log q_ctc, normalised.
A fold's w is the value among 0, 0.05, ..., 1 with the lowest cross-entropy on that fold's
validation speakers; a protocol without them has no fusion.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser.errors import UserError
from ser.files import atomic_write
from ser.lang.units import ctc_min_frames

FILE_NAME = "decisions.jsonl"
SOURCES = ("head", "mass", "transcript")
WEIGHTS = tuple(i / 20 for i in range(21))
FLOOR = 1e-30  # added to probabilities before taking the logarithm


@dataclass(frozen=True)
class Evidence:
    """Log-probabilities of the C emotions for one utterance, by source."""

    utt_id: str
    split: str  # valid or test
    ref: int  # class index
    logp: dict[str, tuple[float, ...]]  # by SOURCES


def unit_tags(units: Sequence[str], num_emotions: int) -> np.ndarray | None:
    """The emotion index of each unit (V,), -1 for the blank; None if units carry no tags."""
    tags = np.array([-1] + [int(u[-1]) if u[-1:].isdigit() else num_emotions for u in units[1:]])
    stems = [{u[:-1] for u, tag in zip(units, tags, strict=True) if tag == e}
             for e in range(num_emotions)]  # fmt: skip
    complete = len(stems[0]) > 0 and all(stem == stems[0] for stem in stems)
    return tags if complete and tags.max() < num_emotions else None


def tag_mass(log_probs: np.ndarray, tags: np.ndarray, num_emotions: int) -> np.ndarray:
    """(T, V) log-posteriors of the units -> (C,) log-probabilities of the emotions."""
    frames = np.exp(log_probs.astype(np.float64)).sum(axis=0)  # (V,)
    mass = np.array([frames[tags == e].sum() for e in range(num_emotions)]) + FLOOR
    return np.log(mass / mass.sum())


def transcript_targets(text: Sequence[str], units: Sequence[str], num_emotions: int) -> np.ndarray:
    """Ids of an utterance's units under each tag, (C, U); the tags in ``text`` are ignored."""
    index = {unit: i for i, unit in enumerate(units)}
    return np.array([[index[f"{unit[:-1]}{e}"] for unit in text] for e in range(num_emotions)])


def transcript_logp(log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    """CTC log-likelihood of the rows of ``targets`` (C, U), normalised over them: (C,).

    ``log_probs`` is (T, V) with the blank at 0. None if the targets are empty or too long to be
    aligned with the frames.
    """
    import torch

    num_emotions, length = targets.shape[0], targets.shape[1] if targets.ndim == 2 else 0
    if length == 0 or len(log_probs) < ctc_min_frames(targets[0].tolist()):
        return None
    frames = torch.from_numpy(log_probs.astype(np.float64))  # (T, V)
    nll = torch.nn.functional.ctc_loss(
        frames[:, None].expand(-1, num_emotions, -1),
        torch.from_numpy(targets),
        torch.full((num_emotions,), len(log_probs)),
        torch.full((num_emotions,), length),
        blank=0,
        reduction="none",
    )  # (C,)
    return (-nll).log_softmax(dim=0).numpy()


def gather(
    utt_id: str,
    split: str,
    ref: int,
    head: np.ndarray,
    log_probs: np.ndarray,
    units: Sequence[str],
    text: Sequence[str],
) -> Evidence:
    """Collect all evidence on one utterance.

    Args:
        head: (C,) log-probabilities of the emotion head.
        log_probs: (T, V) log-probabilities of the CTC head, true frames only.
        units: Its inventory, with tags (see unit_tags).
        text: The utterance's reference units; their tags are ignored.
    """
    tags = unit_tags(units, len(head))
    mass = tag_mass(log_probs, tags, len(head))
    spoken = None
    if text:
        spoken = transcript_logp(log_probs, transcript_targets(text, units, len(head)))
    logp = {"head": head, "mass": mass, "transcript": mass if spoken is None else spoken}
    return Evidence(utt_id, split, ref, {k: tuple(map(float, v)) for k, v in logp.items()})


def fuse(head: np.ndarray, ctc: np.ndarray, weight: float) -> np.ndarray:
    """Combine (N, C) log-probabilities of both log-linearly and normalise: (N, C)."""
    mixed = (1 - weight) * head + weight * ctc
    return mixed - np.logaddexp.reduce(mixed, axis=1, keepdims=True)


def choose_weight(head: np.ndarray, ctc: np.ndarray, refs: np.ndarray) -> float:
    """Weight of ``ctc`` with the lowest cross-entropy on ``refs`` (N,); the smallest on ties."""

    def cross_entropy(weight: float) -> float:
        return -fuse(head, ctc, weight)[np.arange(len(refs)), refs].mean()

    return min(WEIGHTS, key=lambda weight: (round(cross_entropy(weight), 12), weight))


def decide(
    evidence: Sequence[Evidence],
) -> tuple[dict[str, dict[str, int]], dict[str, float | None]]:
    """Compute the decisions of one fold, and the weights of its fusions.

    Returns:
        The class index of every test utterance by name of the decision (``head``, ``mass``,
        ``transcript`` and, with validation evidence, ``head+mass``, ``head+transcript``); and
        the weight of each fusion.
    """
    test = [e for e in evidence if e.split == "test"]
    valid = [e for e in evidence if e.split == "valid"]
    decisions = {
        source: {e.utt_id: int(np.argmax(e.logp[source])) for e in test} for source in SOURCES
    }
    weights: dict[str, float | None] = {}
    if valid:
        refs = np.array([e.ref for e in valid])
        for source in SOURCES[1:]:
            name = f"head+{source}"
            weights[name] = choose_weight(_stack(valid, "head"), _stack(valid, source), refs)
            fused = fuse(_stack(test, "head"), _stack(test, source), weights[name])
            decisions[name] = {
                e.utt_id: int(row.argmax()) for e, row in zip(test, fused, strict=True)
            }
    return decisions, weights


def _stack(evidence: Sequence[Evidence], source: str) -> np.ndarray:
    return np.array([e.logp[source] for e in evidence])  # (N, C)


def write_evidence(path: Path | str, labels: Sequence[str], evidence: Sequence[Evidence]) -> None:
    """Write JSON lines, the first naming the emotions, atomically."""
    with atomic_write(path) as stream:
        print(json.dumps({"emotions": list(labels)}), file=stream)
        for e in evidence:
            logp = {source: [round(value, 5) for value in e.logp[source]] for source in SOURCES}
            row = {"utt_id": e.utt_id, "split": e.split, "ref": labels[e.ref], **logp}
            print(json.dumps(row), file=stream)


def read_evidence(
    path: Path | str, labels: Sequence[str], expected: Mapping[str, str]
) -> list[Evidence]:
    """Read back and check a fold's evidence.

    Args:
        labels: The corpus's emotions, in order.
        expected: The fold's test utterances and their reference emotions.

    Raises:
        UserError: naming the file and line, if it is not what ``write_evidence`` wrote for
            these emotions and test utterances.
    """
    path = Path(path)
    cure = "infer this fold again: remove it and predictions.tsv, then ./run.sh --stage 5"
    found, tested = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if number == 1:
                if row["emotions"] != list(labels):
                    raise ValueError(f"emotions {row['emotions']}, the corpus has {list(labels)}")
                continue
            logp = {source: tuple(map(float, row[source])) for source in SOURCES}
            if any(len(v) != len(labels) or not np.isfinite(v).all() for v in logp.values()):
                raise ValueError(f"expected {len(labels)} numbers from each of {SOURCES}")
            evidence = Evidence(row["utt_id"], row["split"], labels.index(row["ref"]), logp)
            if evidence.split == "test":
                if expected.get(evidence.utt_id) != row["ref"] or evidence.utt_id in tested:
                    raise ValueError(f"{evidence.utt_id}: not a test utterance, repeated or other")
                tested.add(evidence.utt_id)
        except (ValueError, KeyError, TypeError) as err:
            raise UserError(f"{path}:{number}: {err}; {cure}") from None
        found.append(evidence)
    missing = sorted(expected.keys() - tested)
    if missing:
        raise UserError(f"{path}: {len(missing)} test utterances are missing, the first "
                        f"{missing[0]}; {cure}")  # fmt: skip
    return found
