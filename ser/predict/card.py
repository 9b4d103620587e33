"""Model card: measured scores, evaluation protocol, test speakers, and out-of-scope uses.

A card is made once from scores.json and shipped with the model: as ``card`` in config.json for
programs, as README.md with a Hugging Face metadata block for users and the hub.
"""

import functools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ser.console import percent
from ser.corpora.spec import load_spec
from ser.data.folds import SPEAKER_DEPENDENT, caveat, mean_over, num_groups
from ser.errors import UserError
from ser.predict.inputs import Trained
from ser.provenance import EGS
from ser.scoring.records import SCORE_FIRST, read_scores
from ser.scoring.text import interval, partial_notes

# Kind of speech that the scores were measured on; second half of a sentence.
SPEECH = {
    "iemocap": "ten actors in English dialogues, in part from a script, recorded in a laboratory",
    "iemocap_improvised": "ten actors who improvise English dialogues in a laboratory",
    "emodb": "ten actors who speak ten German sentences in a laboratory",
    "casia": "four actors who speak the same Mandarin sentences with every emotion in a studio",
    "mini": "synthetic voices whose emotions are settings of a synthesiser: this model is there to "
    "try the recipe and says nothing about people",
}
PROTOCOLS = {
    "strict": "one speaker is left out, another one chooses the epoch, all others train",
    "paper": "one speaker is left out, all others train, the last epoch is tested",
    "session": "one session is left out, the others train, the last epoch is tested",
    "official": "the corpus' own split, in which no speaker is in two sets",
    "official_shared": "the corpus' own split, whose sets share speakers",
    "prefix": "dialogues are divided by their names, so that train and test share speakers",
    "crossed": "one speaker and one of {} groups of sentences are left out, another speaker chooses"
    " the epoch, all others train on the other sentences",
    "kfold": "every utterance is tested once, its speaker is known",
}
OVERVIEW = """\
Emotions from speech at {rate} Hz: {emotions}. System `{system}`{encoder}, trained on `{corpus}`
(language: {language}) with the recipe's `./run.sh`.
"""
ADAPTERS = (
    "A fold holds what was trained: low-rank adapters (LoRA), fusion and heads. The encoder, the "
    "same for all, is {name} ({size})."
)
GRAPHS = "\nBeside them their ONNX graphs, which `ser predict` runs without PyTorch.\n"
USE = """\
## Use

With the recipe's environment, from its directory (`DIR` is this folder, or its zip):

```sh
python -m ser predict recording.wav --model DIR
```

```python
from ser.predict.classifier import SpeechEmotion

model = SpeechEmotion.from_pretrained("DIR")  # the mean of all folds; folds={fold!r} asks one
result = model("recording.wav")               # or model(samples, sampling_rate)
print(result.emotion, result.probabilities)   # of {emotions}
for segment in result.segments:               # where it changes
    print(segment.start, segment.end, segment.probabilities)
```
"""
LIMITS = (
    "Measured on {speech}. Emotions of everyday life are weaker, mixed and rarely labelled alike "
    "by two listeners; scores on them will be lower.",
    "{speakers} speakers are few: the intervals above say how far the score of others may be, if "
    "they were recorded and speak alike.",
    "One language ({language}). How another one's speakers sound when angry was never learnt.",
    "The answer is always one of {count} emotions, also for laughter, noise or silence, and its "
    "probability is no measure of how strongly somebody feels.",
    "Not for decisions about people: not for hiring, schooling, policing, insurance, health or the "
    "watching of staff or customers. What a voice sounds like is not what a person feels.",
)


def card_of_experiment(exp_dir: Path) -> dict[str, Any]:
    """Make the card of exp/<corpus>/<tag>; it says so if stage 5 has not scored it."""
    path, mark = exp_dir / "scores.json", f"not scored; {SCORE_FIRST}"
    try:
        if path.is_file():
            return make_card(read_scores(path))
    except UserError as err:
        mark = f"scores unknown: {err}"
    corpus = exp_dir.resolve().parent.name
    marked = {"synthetic": is_synthetic(corpus), "marks": [mark], "scores": None}
    return {"corpus": corpus, **marked}


def make_card(scores: Mapping[str, Any], trained: Trained | None = None) -> dict[str, Any]:
    """Make the card of the experiment with ``scores``, the contents of a scores.json.

    ``trained`` describes the corpus's utterances, if measured.
    Scores are fractions from 0 to 1, as in scores.json; ``marks`` are caveats that must be shown
    with them.
    """
    summary = scores["summary"]
    names = ("wa", "ua", "wa_pooled", "ua_pooled")
    numbers = {name: summary[name] for name in names}
    numbers |= {f"{name}_ci": summary.get(f"{name}_ci") for name in names}
    return {
        "corpus": scores["corpus"],
        "language": _language(scores["corpus"]),
        "synthetic": is_synthetic(scores["corpus"]),
        "input": None if trained is None else trained.model_dump(),
        "system": scores["system"],
        "tag": scores["tag"],
        "ssl": scores["ssl"],
        "protocol": scores["protocol"],
        "seed": scores["seed"],
        "scores": {
            **numbers,
            "recall": {label: row["recall"] for label, row in scores["per_class"].items()},
            "utterances": summary["n"],
            "speakers": scores["interval"]["speakers"],
            "folds": len(scores["folds"]["scored"]),
            "interval": scores["interval"]["method"],
        },
        "marks": make_marks(scores),
        "command": scores["command"],
        "commit": scores["commit"],
        "date": scores["date"],
        "versions": scores["versions"],
    }


def make_marks(scores: Mapping[str, Any]) -> list[str]:
    """Reasons why the scores are too good, not comparable or incomplete; empty if sound."""
    marks = [f"LEAKY: {why}" for why in scores["leaky"]]
    if caveat(scores["protocol"]) == SPEAKER_DEPENDENT:
        marks.append(
            f"{SPEAKER_DEPENDENT}: every fold's speakers were trained on as well, so the "
            "scores say nothing about other speakers"
        )
    return marks + [f"PARTIAL: {note}" for note in partial_notes(scores)]


def format_card(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Format README.md of a packed model.

    Args:
        config: The contents of its config.json.
        sizes: Size in bytes of each weight file.
    """
    card, emotions = config["card"], config["emotions"]
    scores, folds, protocol = card["scores"], list(config["folds"]), card["protocol"]
    overview = OVERVIEW.format(
        rate=config["sampling_rate"],
        emotions=", ".join(emotions),
        system=card["system"],
        encoder=f" on `{card['ssl']}`" if card["ssl"] else "",
        corpus=card["corpus"],
        language=card["language"],
    )
    encoder = config.get("encoder")  # that all folds share, if they are adapters of it
    parts = [_metadata(config), f"# {config['name']}\n", _wrap(overview)]
    if card["marks"]:
        parts.append("\n".join(f"> **{_wrap(mark)}**\n>" for mark in card["marks"])[:-1])
    parts += [
        "## Scores\n",
        _wrap(
            f"Protocol `{protocol}`: {describe_protocol(protocol)}. {scores['folds']} folds, "
            f"{scores['speakers']} speakers, {scores['utterances']} utterances, seed "
            f"{card['seed']}."
        ),
        _score_table(scores, protocol),
        _wrap(f"Interval: {scores['interval']}. Recall of each emotion, all folds together:"),
        ", ".join(f"{label} {percent(recall)}" for label, recall in scores["recall"].items())
        + ".\n",
        "They were made by\n",
        f"```sh\n{card['command']}\n```\n",
        f"at commit `{card['commit']}` ({card['date']}).\n",
        "## What is in here\n",
        _wrap(_contents(folds, scores["folds"], protocol)),
        _wrap(ADAPTERS.format(name=encoder, size=format_size(sizes[encoder]))) if encoder else None,
        "| Fold | Weights | Size |\n| --- | --- | --- |",
        *(
            f"| {fold} | {entry['weights']} | {format_size(sizes[entry['weights']])} |"
            for fold, entry in config["folds"].items()
        ),
        GRAPHS if any("onnx" in entry for entry in config["folds"].values()) else "",
        USE.format(fold=folds[0], emotions=", ".join(emotions)),
        "## Limits\n",
    ]
    parts += _limits(card, len(emotions))
    parts += [
        "\n## Licence\n",
        _wrap(
            "The weights follow the licences of the encoder and of the corpus they were trained "
            f"on ({_licence(card['corpus'])}). Settle this, and the `license` above, before you "
            "share them."
        ),
    ]
    return "\n".join(part for part in parts if part is not None)


def describe_protocol(protocol: str) -> str:
    """Say in words who is tested and who trains."""
    known = PROTOCOLS.get(protocol.rstrip("0123456789"), "not one of this recipe's")
    return known.format(num_groups(protocol))


def _limits(card: Mapping[str, Any], count: int) -> list[str]:
    speech = SPEECH.get(card["corpus"], f"the speech of `{card['corpus']}`, see its documentation")
    words = {"speech": speech, "language": card["language"], "count": count}
    speakers = card["scores"]["speakers"]
    return [_wrap("- " + limit.format(**words, speakers=speakers)) for limit in LIMITS]


def format_size(count: float) -> str:
    """Format bytes in a suitable unit: 380 MB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _metadata(config: Mapping[str, Any]) -> str:
    """Metadata block for the hub; model-index has percentages, like the tables."""
    card = config["card"]
    marks = "; ".join(mark.partition(":")[0] for mark in card["marks"])
    metrics = [
        {
            "type": kind,
            "name": f"{name.upper()} over folds, in percent" + f" ({marks})" * bool(marks),
            "value": round(100 * card["scores"][name], 2),
        }
        for kind, name in (("accuracy", "wa"), ("recall", "ua"))
    ]
    result = {
        "task": {"type": "audio-classification", "name": "Speech emotion recognition"},
        "dataset": {"type": card["corpus"], "name": card["corpus"], "config": card["protocol"]},
        "metrics": metrics,
    }
    metadata = {
        "language": [card["language"]],
        "license": "unknown",
        "pipeline_tag": "audio-classification",
        "tags": ["speech-emotion-recognition", "audio-classification", "espnet"],
        "model-index": [{"name": config["name"], "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n"


def _score_table(scores: Mapping[str, Any], protocol: str) -> str:
    lines = ["| Score | Percent | 95% interval |", "| --- | --- | --- |"]
    for name, what in (
        ("wa", f"WA, mean over {mean_over(protocol)}"),
        ("ua", f"UA, mean over {mean_over(protocol)}"),
        ("wa_pooled", "WA, all utterances as one set"),
        ("ua_pooled", "UA, all utterances as one set"),
    ):
        bounds = interval(scores[f"{name}_ci"])
        lines.append(f"| {what} | {percent(scores[name])} | {bounds} |")
    return "\n".join(lines) + "\n"


def _contents(folds: Sequence[str], scored: int, protocol: str) -> str:
    if len(folds) == 1:
        return (
            f"One of the {scored} models that the scores are the mean of: that of fold "
            f"{folds[0]} of protocol {protocol}."
        )
    return (
        f"{len(folds)} of the {scored} models that the scores are the mean of, one for each fold. "
        "On new speech the mean of their probabilities may serve better than any one's; its score "
        "was not measured, since each speaker of the corpus was trained on by most of them."
    )


@functools.cache
def _corpus(name: str) -> Any:
    return load_spec(name) if (EGS / name / "corpus.yaml").is_file() else None


def _language(corpus: str) -> str:
    return getattr(_corpus(corpus), "language", "und")  # ISO 639: undetermined


def is_synthetic(corpus: str) -> bool:
    """Whether the recipe makes the corpus, with a speech synthesiser."""
    return bool(getattr(_corpus(corpus), "maker", None))


def _licence(corpus: str) -> str:
    return getattr(_corpus(corpus), "licence", None) or f"of {corpus}: ask its authors"


def _wrap(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        " ".join(text.split()),
        width=100,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) + ("" if indent else "\n")
