"""``ser report``: one experiment, or two side by side, as a self-contained HTML file.

The page depends only on what stages 4 and 5 wrote to the experiments: the same input gives the
same bytes. It loads nothing and runs nothing: charts are inline SVG, recordings are embedded.
"""

from collections.abc import Sequence
from pathlib import Path

from ser.console import explain, progress
from ser.data.tables import read_table
from ser.errors import UserError
from ser.files import atomic_write
from ser.reporting import figures, sections
from ser.reporting.inputs import ReportInput, WrongDecision, read_input
from ser.reporting.render import render
from ser.reporting.utterance import Analysis, LoadModel, analyse, find_recordings, load_trained
from ser.scoring.text import decision_rows, paired_over

MOST_EXPERIMENTS = 2
ERRORS = 9  # three rows of three


def make_html_report(
    exp_dirs: Sequence[Path | str],
    output: Path | str | None = None,
    errors: int = ERRORS,
    audio: bool = True,
    utterance: str | None = None,
    dump_dir: Path | str | None = None,
    data_dir: Path | str | None = None,
    load_model: LoadModel = load_trained,
) -> Path:
    """Write the page of one experiment or two.

    Args:
        exp_dirs: exp/<corpus>/<tag> of each.
        output: The file; in the first experiment, ``report.html`` or ``report_<second tag>.html``.
        errors: Number of wrong decisions of each to show.
        audio: Embed their recordings and words in the page.
        utterance: The utterance to draw over time; the most confident error if None.
        dump_dir, data_dir: dump/<corpus> and data/<corpus>; next to exp/ if None.
        load_model: Loads the model of (experiment, fold).

    Returns:
        The file written.

    Raises:
        UserError: an experiment without scores or named twice, an utterance that was not tested,
            an invalid ``dump_dir`` or ``data_dir``, or an ``output`` that is a folder.
    """
    paths = [Path(directory) for directory in exp_dirs]
    if not 1 <= len(paths) <= MOST_EXPERIMENTS:
        raise UserError(f"{len(paths)} experiments; a page is of one, or of two to compare")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{paths[0]} is given twice; name two experiments, or one")
    places = [
        _given("--dump-dir", dump_dir, "dump/<corpus>", "folds"),
        _given("--data-dir", data_dir, "data/<corpus>", "all"),
    ]
    inputs = [read_input(path, *places) for path in paths]
    ids = {own: utt for utt, own in inputs[0].own_ids.items()}
    chosen = ids.get(utterance, utterance)
    if chosen is not None and inputs[0].fold_of(chosen) is None:
        raise UserError(
            f"--utterance {utterance}: not tested in a scored fold of {paths[0]}; give an id "
            "of errors.tsv or of a fold's predictions.tsv"
        )
    name = "report" if len(paths) == 1 else f"report_{inputs[1].name}"
    output = Path(output or paths[0] / f"{name}.html")
    if output.is_dir():
        raise UserError(
            f"--output {output}: a folder; give the name of a file, such as {output}/report.html"
        )
    text = build_page(inputs, errors, audio, chosen, load_model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as stream:
        stream.write(text)
    progress(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    if audio:
        print("It holds recordings of the corpus; --no-audio makes a page that may be shared.")
    return output


def build_page(
    inputs: Sequence[ReportInput],
    errors: int = ERRORS,
    audio: bool = True,
    utterance: str | None = None,
    load_model: LoadModel = load_trained,
) -> str:
    """Build the text of the page; arguments as in ``make_html_report``."""
    found = [wrong for m in inputs if isinstance(wrong := errors_of(m), list)]
    recordings = None
    if audio:
        wavs = {e.utt_id: e.wav for wrong in found for e in wrong}
        recordings = find_recordings(inputs[0].dump_dir, wavs)
    first = errors_of(inputs[0])
    if utterance is None and isinstance(first, list) and first:
        utterance = first[0].utt_id

    def spoken(m: ReportInput) -> dict[str, str]:
        path = m.data_dir / "all" / "text"
        return read_table(path, allow_empty=True) if audio and path.is_file() else {}

    def try_analyse(m: ReportInput, utt_id: str) -> Analysis | None:
        progress(f"report: {utt_id} by the model of {m.name}")
        try:
            return analyse(m, utt_id, spoken(m).get(utt_id, ""), load_model)
        except (UserError, OSError) as err:
            progress(f"report: {utt_id} is not drawn: {explain(err)}")
            return None

    return render(
        "report.html",
        title=" and ".join(m.name for m in inputs) + ": speech emotion recognition",
        inputs=inputs,
        several=len(inputs) > 1,
        charts=figures,
        errors_of=errors_of,
        most_errors=errors,
        recordings=recordings,
        spoken=spoken,
        analyse=try_analyse,
        utterance=utterance,
        own_ids=inputs[0].own_ids,
        decision_rows=decision_rows,
        paired_over=paired_over,
        **sections.headline(inputs),
        **sections.TABLES,
    )


def errors_of(m: ReportInput) -> list[WrongDecision] | str:
    """Wrong decisions of an experiment, or the reason why they are unknown."""
    try:
        return m.errors
    except UserError as err:
        return str(err)


def _given(option: str, place: Path | str | None, form: str, inside: str) -> Path | None:
    """Check a folder given as an option, so that a wrong one is not taken for missing data."""
    if not place:
        return None
    if not Path(place, inside).is_dir():
        raise UserError(f"{option} {place}: there is no {place}/{inside}; expected {form}")
    return Path(place)
