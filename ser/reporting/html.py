"""``ser report``: one experiment, or two side by side, as one HTML file that needs no other.

The page is a function of what stages 4 and 5 left in the experiments: the same input gives the
same bytes. It loads nothing and runs nothing: charts are inline SVG, recordings are inside it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ser.console import progress
from ser.errors import UserError
from ser.files import atomic_write
from ser.reporting.page import listening, sections
from ser.reporting.page.markup import Markup, page, tag
from ser.reporting.page.material import Material, read_material
from ser.reporting.page.said import LoadModel, load_trained
from ser.reporting.page.sound import find_recordings

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
        output: the file; ``report.html`` in the first experiment when None, or
            ``report_<second tag>.html`` for two.
        errors: how many wrong decisions of each to show.
        audio: put their recordings and words into the page.
        utterance: the utterance to draw over time; the most confident error when None.
        dump_dir, data_dir: dump/<corpus> and data/<corpus>; beside exp/ when None.
        load_model: what gives the model of (experiment, fold).

    Returns:
        The file written.

    Raises:
        UserError: an experiment without scores or named twice, an utterance that was not tested,
            a ``dump_dir`` or ``data_dir`` that is none, or an ``output`` that is a folder.
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
    materials = [read_material(path, *places) for path in paths]
    if utterance is not None:
        listening.check_utterance(materials[0], utterance)
    if output is None:
        name = "report" if len(paths) == 1 else f"report_{materials[1].name}"
        output = paths[0] / f"{name}.html"
    output = Path(output)
    if output.is_dir():
        raise UserError(
            f"--output {output}: a folder; give the name of a file, such as {output}/report.html"
        )
    text = build_page(materials, errors, audio, utterance, load_model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as stream:
        stream.write(text)
    progress(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    if audio:
        print("It holds recordings of the corpus; --no-audio makes a page that may be shared.")
    return output


def build_page(
    materials: Sequence[Material],
    errors: int = ERRORS,
    audio: bool = True,
    utterance: str | None = None,
    load_model: LoadModel = load_trained,
) -> str:
    """The text of the page."""
    recordings = None
    if audio:
        original = {e.utt_id: e.wav for m in materials for e in _errors(m)}
        recordings = find_recordings(materials[0].dump_dir, original)
    chosen = listening.choose_utterance(materials, utterance)
    plan: list[tuple[str, str, Callable[[], list[Markup]]]] = [
        ("folds", "Folds", lambda: sections.folds(materials)),
        ("confusion", "Confusion matrix", lambda: sections.confusion(materials)),
        ("speakers", "Speakers", lambda: sections.speakers(materials)),
        ("learning", "Learning curves", lambda: sections.learning(materials)),
        ("layers", "Layer weights", lambda: sections.layers(materials)),
        ("calibration", "Calibration", lambda: sections.calibration(materials)),
        ("errors", "Worst errors", lambda: listening.errors(materials, errors, recordings)),
        ("utterance", "One utterance over time",
         lambda: listening.utterance(materials, chosen, recordings, load_model)),
        ("slices", "Parts of the test set", lambda: sections.slices(materials)),
        ("decisions", "Decisions of the phoneme head", lambda: sections.decisions(materials)),
        ("provenance", "Where the numbers come from", lambda: sections.provenance(materials)),
    ]  # fmt: skip
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in plan]
    body = [
        tag("header", sections.headline(materials)),
        tag("nav", tag("ul", links), aria_label="sections"),
        tag(
            "main",
            [tag("section", tag("h2", title), write(), id=name) for name, title, write in plan],
        ),
    ]
    title = " and ".join(m.name for m in materials)
    return page(f"{title}: speech emotion recognition", body)


def _given(option: str, place: Path | str | None, form: str, inside: str) -> Path | None:
    """A folder that was named, which must not be taken for one without data."""
    if not place:
        return None
    if not Path(place, inside).is_dir():
        raise UserError(f"{option} {place}: there is no {place}/{inside}; expected {form}")
    return Path(place)


def _errors(material: Material) -> Sequence:
    try:
        return material.errors
    except UserError:
        return ()
