"""The sections of the HTML report that go back to the recordings: errors, and one utterance."""

from collections.abc import Mapping, Sequence
from typing import Any

from ser.console import explain, percent, progress
from ser.data.tables import read_table
from ser.errors import UserError
from ser.models.inputs import load_input
from ser.reporting.page import charts
from ser.reporting.page.markup import Markup, tag
from ser.reporting.page.material import Material, WrongDecision
from ser.reporting.page.said import LoadModel, Said, ask, fold_of
from ser.reporting.page.sound import Recordings
from ser.reporting.page.tracks import color_key, tracks

NO_AUDIO = (
    "This page was written without recordings and words: most corpora's licences do not allow "
    "passing them on."
)
WITH_AUDIO = (
    "This page holds recordings and words of the corpus. Most corpora's licences do not allow "
    "passing them on: make the page with --no-audio before you share it."
)


def errors(
    materials: Sequence[Material], count: int, recordings: Recordings | None
) -> list[Markup]:
    """The most confident wrong decisions of each experiment, to listen to.

    Args:
        materials: the experiments.
        count: how many errors of each.
        recordings: None for a page without recordings and words.
    """
    parts = [tag("p", NO_AUDIO if recordings is None else WITH_AUDIO, class_="note")]
    for m in materials:
        try:
            wrong = m.errors
        except UserError as err:
            parts.append(tag("p", f"{m.name}: {err}.", class_="note"))
            continue
        words = {} if recordings is None else _words(m)
        shown = wrong[:count]
        of = f"The {len(shown)} most confident of {len(wrong)} wrong decisions"
        if len(materials) > 1:
            parts.append(tag("h3", m.title))
        parts.append(tag("p", f"{of} among {m.scores['summary']['n']}."))
        parts.append(tag("ol", [_error(e, words, recordings) for e in shown], class_="errors"))
    return parts


def choose_utterance(materials: Sequence[Material], wanted: str | None) -> str | None:
    """``wanted``, or the most confident error of the first experiment; None if it has none."""
    if wanted is not None:
        return wanted
    try:
        return next((e.utt_id for e in materials[0].errors), None)
    except UserError:
        return None


def check_utterance(material: Material, utt_id: str) -> None:
    """Raise UserError if the experiment has its data, but did not test ``utt_id``."""
    scored = material.scores["folds"]["scored"]
    if fold_of(material.experiment, utt_id, scored) is None:
        raise UserError(
            f"--utterance {utt_id}: not tested in a scored fold of {material.exp_dir}; give an id "
            "of errors.tsv or of a fold's predictions.tsv"
        )


def utterance(
    materials: Sequence[Material], utt_id: str | None, recordings: Recordings | None,
    load_model: LoadModel,
) -> list[Markup]:  # fmt: skip
    """One utterance's waveform, spectrogram and unit posteriors over time, for each model."""
    if utt_id is None:
        why = "no wrong decision is known, and no --utterance was named"
        return [tag("p", f"Not drawn: {why}.", class_="note")]
    parts: list[Markup] = []
    for number, m in enumerate(materials):
        progress(f"report: {utt_id} by the model of {m.name}")
        try:
            parts += _drawn(m, utt_id, recordings, load_model, number == 0, len(materials) > 1)
        except (UserError, OSError) as err:
            progress(f"report: {utt_id} is not drawn: {explain(err)}")
            text = f"Not drawn for {m.name}: its model, data or recording are not to be had here."
            parts.append(tag("p", text, class_="note"))
    return parts


def _drawn(
    m: Material, utt_id: str, recordings: Recordings | None, load_model: LoadModel,
    with_player: bool, several: bool,
) -> list[Markup]:  # fmt: skip
    experiment = m.experiment
    fold = fold_of(experiment, utt_id, m.scores["folds"]["scored"])
    if fold is None:
        raise UserError(f"{utt_id}: not tested in a scored fold of {m.exp_dir}")
    speech = load_input(read_table(experiment.dump_dir / "wav.scp")[utt_id])
    said = ask(experiment, fold, utt_id, load_model)
    ref = experiment.references(fold)[utt_id]
    labels = experiment.labels
    hyp = labels[max(range(len(labels)), key=lambda i: said.probs[i])]
    parts: list[Any] = [tag("h3", m.title)] if several else []
    where = f"{utt_id}, tested in fold {fold}: {ref} recognised as {hyp}"
    parts.append(tag("p", tag("strong", where), class_="keep"))
    words = _words(m).get(utt_id, "")
    if recordings is not None and with_player:
        parts += [tag("p", f"“{words}”") if words else None, recordings.player(utt_id)]
    probabilities = charts.probabilities_chart(
        labels, said.probs, ref, f"Probabilities of {utt_id}, {m.name}"
    )
    figure = tag("figure", probabilities, tag("figcaption", "Probabilities (%)"))
    parts = [tag("div", tag("div", parts), figure, class_="pair")]
    drawn = tracks(speech, said.posteriors, said.units, labels)
    parts.append(tag("figure", drawn, _caption(said, experiment, utt_id, recordings)))
    return [part for part in parts if part]


def _caption(said: Said, experiment: Any, utt_id: str, recordings: Recordings | None) -> Markup:
    """What the posteriors' colours mean, what was decoded and what was to be decoded."""
    if said.posteriors is None:
        text = "This model has no head of units (CTC), so there are no posteriors to draw."
        return tag("figcaption", text)
    lines: list[Any] = [
        tag("div", "Posteriors, logarithmic:", color_key(), class_="keys"),
        tag("div", tag("b", "Decoded units: "), " ".join(said.decoded) or "none, blank throughout"),
    ]
    text = read_table(experiment.text, allow_empty=True) if experiment.text.is_file() else {}
    if text.get(utt_id) and recordings is not None:
        lines.append(tag("div", tag("b", "Reference units: "), text[utt_id]))
    return tag("figcaption", lines)


def _error(e: WrongDecision, words: Mapping[str, str], recordings: Recordings | None) -> Markup:
    spoken = words.get(e.utt_id)
    return tag(
        "li",
        tag("p", tag("strong", e.utt_id)),
        tag("p", "recognised as ", tag("b", e.hyp), f" ({percent(e.sure)}%), is ",
            tag("b", e.ref), f" ({percent(e.missed)}%)"),
        tag("p", f"“{spoken}”", class_="quiet") if spoken else None,
        recordings.player(e.utt_id) if recordings is not None else None,
    )  # fmt: skip


def _words(m: Material) -> dict[str, str]:
    path = m.data_dir / "all" / "text"
    return read_table(path, allow_empty=True) if path.is_file() else {}
