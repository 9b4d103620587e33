"""``ser report``: stage 6, and the HTML page of an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from ser.cli.options import Experiments
from ser.cli.train import chosen_experiments
from ser.errors import UserError

PageOf = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[EXP]...",
        help="write one HTML page of exp/<corpus>/<tag>, a second one beside it",
    ),
]
ExpRoot = Annotated[Path, typer.Option(help="holds <corpus>/<tag>/scores.json")]
Results = Annotated[Path, typer.Option(help="the table to write")]
ExpDir = Annotated[
    list[Path],
    typer.Option(help="draw the figures of these experiments only; default: of all"),
]
ConfDir = Annotated[
    Path, typer.Option(help="configurations, for the numbers that the papers state")
]
Records = Annotated[
    Path | None,
    typer.Option(help="keep all scores here, as <corpus>/<tag>.json, and report what is here"),
]
Sweep = Annotated[Path | None, typer.Option(help="write this sweep's table and figure as well")]
Config = Annotated[Path | None, typer.Option(help="the system that the sweep varies")]
Corpus = Annotated[str, typer.Option(help="of the sweep")]
Protocol = Annotated[str, typer.Option(help="of the sweep")]
Seed = Annotated[str, typer.Option(help="of the sweep; default: those in its file")]
Output = Annotated[Path | None, typer.Option(help="the page; default: EXP/report.html")]
Errors = Annotated[int, typer.Option(min=0, help="wrong decisions on the page")]
NoAudio = Annotated[
    bool,
    typer.Option(
        "--no-audio",
        help="leave recordings and words out of the page: corpora's licences mostly forbid to "
        "pass them on",
    ),
]
Utterance = Annotated[
    str | None,
    typer.Option(
        help="the utterance that the page draws over time; default: the most confident error"
    ),
]
DumpDir = Annotated[
    Path | None, typer.Option(help="dump/<corpus>, for the page; default: beside exp/")
]
DataDir = Annotated[
    Path | None, typer.Option(help="data/<corpus>, for the page; default: beside exp/")
]


def report(
    page_of: PageOf = None,
    exp_root: ExpRoot = Path("exp"),
    results: Results = Path("RESULTS.md"),
    exp_dir: ExpDir = [],  # noqa: B006 (typer copies it)
    experiments: Experiments = None,
    conf_dir: ConfDir = Path("conf"),
    records: Records = None,
    sweep: Sweep = None,
    config: Config = None,
    corpus: Corpus = "mini",
    protocol: Protocol = "strict",
    seed: Seed = "",
    output: Output = None,
    errors: Errors = 9,
    no_audio: NoAudio = False,
    utterance: Utterance = None,
    dump_dir: DumpDir = None,
    data_dir: DataDir = None,
) -> None:
    """Stage 6: RESULTS.md and figures; with EXP, one HTML page that needs no other file.

    The page has scores with intervals, confusion matrices, speakers, learning curves, layer
    weights, calibration, the worst errors to listen to, and one utterance over time. It opens
    without a network, on a phone and on paper.

    \b
      ser report exp/mini/mini_s1_strict_seed1
      ser report exp/iemocap/s2_single_task_paper_seed1 exp/iemocap/s1_mtl_phoneme_paper_seed1
      ser report exp/iemocap/s1_mtl_phoneme_paper_seed1 --no-audio --output s1.html
    """
    if page_of:
        from ser.reporting.html import make_html_report

        make_html_report(
            page_of,
            output=output,
            errors=errors,
            audio=not no_audio,
            utterance=utterance,
            dump_dir=dump_dir,
            data_dir=data_dir,
        )
        return
    if sweep is not None:
        _report_sweep(sweep, config, exp_root, corpus, protocol, seed)
    from ser.reporting.results import make_report

    if experiments is not None:
        chosen = chosen_experiments([], experiments)
        exp_dir = [directory for directory in chosen if (directory / "scores.json").is_file()]
        if not exp_dir:
            return
    make_report(exp_root, results, exp_dir or None, conf_dir, records)


def _report_sweep(
    file: Path, config: Path | None, exp_root: Path, corpus: str, protocol: str, seed: str
) -> None:
    from ser.reporting.sweeps import report_sweep
    from ser.training.sweep import load_sweep

    if config is None:
        raise UserError("--sweep: needs --config, the system that it varies")
    loaded = load_sweep(file, config)
    seeds = [int(number) for number in seed.split()] or loaded.seeds
    found = report_sweep(loaded, config, exp_root, corpus, protocol, seeds)
    print(found.read_text(encoding="utf-8"), end="")
    if loaded.published:
        from ser.reporting.paper import write_page

        write_page(loaded, exp_root, corpus, seeds)
