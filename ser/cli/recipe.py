"""Options of run.sh, and their help."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from ser.cli.options import CONTEXT, call, rewrite
from ser.cli.settings import Settings, settle
from ser.errors import EXIT_RESUME, UserError
from ser.files import ROOT, SER

EXAMPLES = """Examples:

\b
  ./run.sh                                    # the demonstration on synthetic speech
  ./run.sh --corpus iemocap --corpus-dir ~/IEMOCAP_full_release --ngpu 1
  ./run.sh --corpus iemocap --corpus-dir ~/IEMOCAP_full_release --ngpu 1 --paper
  ./run.sh --stage 3 --stop-stage 5           # everyday use
  ./run.sh --sweep conf/sweeps/lambda.yaml    # five weights of the phoneme head, three seeds
  ./run.sh --backend slurm --seed "1 2 3"     # thirty folds as one job array
"""
# Variants of --leakage: protocol and selection.
VARIANTS = (
    ("strict", "protocol"),
    ("paper", "protocol"),
    ("session", "protocol"),
    ("prefix", "protocol"),
    ("paper", "best-on-test"),
)
EXIT_USAGE = 2
NOT_WITH_LEAKAGE = (
    "protocol", "k", "select", "tag", "sweep", "detach", "paper", "plan", "compare", "test_on",
)  # fmt: skip


def option(metavar: str, about: str, **more: Any) -> Any:
    """An option with the name of its value."""
    return typer.Option(metavar=metavar, help=about, **more)


Corpus = Annotated[str, option("NAME", "a folder of egs/")]
CorpusDir = Annotated[
    str, option("DIR", "where the corpus is on disk (mini is made by the recipe)")
]
Text = Annotated[
    str, option("FILE", 'transcripts in place of the corpus\' own, "<utterance id> words" a line')
]
Config = Annotated[
    str,
    option("FILE", "the system; default: S1 (conf/<corpus>_s1.yaml if there is one), casia: S4"),
]
Tag = Annotated[
    str, option("NAME", "name of the experiment; default: made from config, protocol and seed")
]
Stage = Annotated[int, option("N", "first stage to run", min=1, max=7)]
StopStage = Annotated[
    int, option("N", "last stage to run", min=0, max=7, show_default="6, or 7 with --stage 7")
]
Protocol = Annotated[
    str,
    option(
        "NAME",
        "strict, paper, session, official or crossed; kfold and official_shared are "
        "speaker-dependent; prefix LEAKY",
    ),
]
K = Annotated[str, option("N", "groups of sentences of --protocol crossed, folds of kfold")]
Select = Annotated[
    str, option("WHICH", "epoch that is tested: that of the protocol, or best-on-test (LEAKY)")
]
Folds = Annotated[
    str, option("NAMES", 'train, infer and pack these only, e.g. "Ses01F Ses01M"; default: all')
]
Seed = Annotated[
    str, option("N", 'of training; "1 2 3": experiments TAG_seed1 ...; auto: 1, or the sweep\'s')
]
Sweep = Annotated[
    str, option("FILE", "run all points of a file of conf/sweeps, variations of the config")
]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="run all that the paper reports, in protocols paper and strict, and write a page "
        "of its tables and figures beside ours (docs/paper.md)",
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="stages 1 to 3, then an estimate of what the others will take: time, disk, memory",
    ),
]
Ngpu = Annotated[
    int,
    option("N", "GPUs, each trains a fold (Slurm: on each node of one fold); 0: the CPU", min=0),
]
FoldsPerGpu = Annotated[int, option("N", "folds that share each GPU of this machine", min=1)]
Nj = Annotated[
    int,
    option(
        "N", "processes at a time; 0: 2 on this machine, no limit for the folds on Slurm", min=0
    ),
]
MaxEpoch = Annotated[
    int, option("N", "replaces max_epoch of the config; 0: that of the config", min=0)
]
Ssl = Annotated[
    str, option("MODEL", "hub id or folder of the speech encoder; replaces the config's")
]
Emotions = Annotated[str, option("SET", "a set of egs/<corpus>/corpus.yaml, e.g. 4 or 7 for emodb")]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="accept an incomplete corpus; the results will say so"),
]
Undecided = Annotated[
    bool,
    typer.Option(
        "--undecided",
        help="take in utterances whose raters had no majority; a config with soft_targets "
        "trains on them, nothing is tested on them",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="train anew if settings or data have changed under the same tag"
    ),
]
Status = Annotated[
    bool, typer.Option("--status", help="run nothing; show how far every fold has come")
]
Compare = Annotated[
    list[str], option("TAG...", "run nothing; compare two experiments, or the seeds of two systems")
]
TestOn = Annotated[
    list[str],
    option(
        "CORPUS...", "train nothing; test the experiment on other corpora, of which stage 3 is done"
    ),
]
Leakage = Annotated[
    bool,
    typer.Option(
        "--leakage",
        help="compare the system under every protocol and selection, sound and leaky",
    ),
]
DataDir = Annotated[str, option("DIR", "written by stages 1 and 2", show_default="data")]
DumpDir = Annotated[str, option("DIR", "written by stage 3", show_default="dump")]
ExpDir = Annotated[str, option("DIR", "written by stages 4 and 5", show_default="exp")]
Results = Annotated[str, option("FILE", "written by stage 6; default: RESULTS.md in --exp-dir")]
Python = Annotated[str, option("PROGRAM", "interpreter with the recipe's packages")]
Backend = Annotated[
    str, option("NAME", "local or slurm; default: that of cmd.sh", envvar="SER_BACKEND")
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Slurm: submit all stages, each to begin when the one before is done, and return",
    ),
]
NumNodes = Annotated[int, option("N", "Slurm: nodes that train one fold together", min=1)]
SlurmConf = Annotated[
    str,
    option(
        "FILE", "Slurm: partition, time and so on (docs/cluster.md)", show_default="conf/slurm.conf"
    ),
]
EspnetOptions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- ESPNET_OPTIONS",
        help="options for stage 4 after --, e.g. -- --optim_conf lr=1.0e-4",
    ),
]


def recipe(
    ctx: typer.Context,
    corpus: Corpus = "mini",
    corpus_dir: CorpusDir = "",
    text: Text = "",
    config: Config = "",
    tag: Tag = "",
    stage: Stage = 1,
    stop_stage: StopStage = 0,
    protocol: Protocol = "strict",
    k: K = "",
    select: Select = "protocol",
    folds: Folds = "",
    seed: Seed = "auto",
    sweep: Sweep = "",
    paper: Paper = False,
    plan: Plan = False,
    ngpu: Ngpu = 0,
    folds_per_gpu: FoldsPerGpu = 1,
    nj: Nj = 0,
    max_epoch: MaxEpoch = 0,
    ssl: Ssl = "",
    emotions: Emotions = "",
    allow_partial: AllowPartial = False,
    undecided: Undecided = False,
    overwrite: Overwrite = False,
    status: Status = False,
    compare: Compare = [],  # noqa: B006 (typer copies it)
    test_on: TestOn = [],  # noqa: B006 (typer copies it)
    leakage: Leakage = False,
    data_dir: DataDir = "",
    dump_dir: DumpDir = "",
    exp_dir: ExpDir = "",
    results: Results = "",
    python: Python = ".venv/bin/python",
    backend: Backend = "local",
    detach: Detach = False,
    num_nodes: NumNodes = 1,
    slurm_conf: SlurmConf = "",
    espnet_options: EspnetOptions = None,
) -> None:
    """Speech emotion recognition, from a corpus on disk to leave-one-speaker-out WA and UA.

    Options are written with dashes or underscores, as --name value or --name=value.

    \b
    Stages:
      1  data      read and check the corpus              -> data/<corpus>/all
      2  lang      lexicon and units                      -> data/<corpus>/lang
      3  dump      16-kHz waveforms, features, folds      -> dump/<corpus>
      4  train     one model for each fold                -> exp/<corpus>/<tag>/<fold>
      5  score     infer the held-out speakers and score  -> exp/<corpus>/<tag>/scores.json
      6  report    results table and figures              -> exp/RESULTS.md
      7  pack      a model to share, only if asked for    -> exp/<corpus>/<tag>/packed, <tag>.zip
    """
    options = SimpleNamespace(**locals())
    instead = _leakage(ctx) if leakage else None
    settings = settle(options)
    print((instead or settings).as_shell())


def _leakage(ctx: typer.Context) -> Settings:
    """``ser leakage`` with the same options, except those that it sets itself."""
    for name in NOT_WITH_LEAKAGE:
        if ctx.get_parameter_source(name).name == "COMMANDLINE":
            raise UserError(f"--{name} does not go with --leakage, which sets it")
    return Settings(instead=[*SER, "leakage", "--", *sys.argv[1:]])


app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
app.command(context_settings=CONTEXT, epilog=EXAMPLES)(recipe)


def leakage(
    options: Annotated[list[str], typer.Argument(help="of run.sh, after --")],
) -> None:
    """Run a system under every protocol and selection, sound and leaky, and compare them.

    A way that the corpus does not allow (prefix without dialogs) is left out with what it said.
    """
    from ser.cluster.local import attend
    from ser.reporting.results import report_leakage

    command = typer.main.get_command(app)
    options = [option for option in rewrite(command, options) if option != "--leakage"]
    directories = []
    for protocol, select in VARIANTS:
        print(f"--protocol {protocol} --select {select}", flush=True)
        ways = ["--protocol", protocol, "--select", select, *options]
        status = attend([str(ROOT / "run.sh"), *ways])
        if status == 0:
            chosen = command.make_context("run.sh", ways).params
            directories += map(Path, settle(SimpleNamespace(**chosen)).experiments)
        elif status > 128 or status == EXIT_RESUME:
            raise typer.Exit(status)
    print(report_leakage(directories), end="")


def main(arguments: Sequence[str]) -> None:
    """Print the settings of run.sh for ``arguments``; exit with 2 if these are invalid."""
    from ser.console import explain

    try:
        call(app, arguments, "run.sh")
    except (UserError, OSError) as err:
        print(f"run.sh: error: {explain(err)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
