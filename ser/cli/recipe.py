"""The options of run.sh, and their help."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

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
# Of --leakage: protocol and selection.
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


def recipe(
    ctx: typer.Context,
    corpus: Annotated[str, typer.Option(metavar="NAME", help="a folder of egs/")] = "mini",
    corpus_dir: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="where the corpus is on disk (mini is made by the recipe)"
        ),
    ] = "",
    text: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help='transcripts in place of the corpus\' own, "<utterance id> words" a line',
        ),
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="the system; default: S1 (conf/<corpus>_s1.yaml if there is one), casia: S4",
        ),
    ] = "",
    tag: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="name of the experiment; default: made from config, protocol and seed",
        ),
    ] = "",
    stage: Annotated[int, typer.Option(metavar="N", min=1, max=7, help="first stage to run")] = 1,
    stop_stage: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=7,
            show_default="6, or 7 with --stage 7",
            help="last stage to run",
        ),
    ] = 0,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="strict, paper, session, official or crossed; kfold and official_shared are "
            "speaker-dependent; prefix LEAKY",
        ),
    ] = "strict",
    k: Annotated[
        str,
        typer.Option(metavar="N", help="groups of sentences of --protocol crossed, folds of kfold"),
    ] = "",
    select: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="epoch that is tested: that of the protocol, or best-on-test (LEAKY)",
        ),
    ] = "protocol",
    folds: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help='train, infer and pack these only, e.g. "Ses01F Ses01M"; default: all',
        ),
    ] = "",
    seed: Annotated[
        str,
        typer.Option(
            metavar="N",
            help='of training; "1 2 3": experiments TAG_seed1 ...; auto: 1, or the sweep\'s',
        ),
    ] = "auto",
    sweep: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="run all points of a file of conf/sweeps, variations of the config"
        ),
    ] = "",
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="run all that the paper reports, in protocols paper and strict, and write a page "
            "of its tables and figures beside ours (docs/paper.md)",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="stages 1 to 3, then an estimate of what the others will take: time, disk, memory",
        ),
    ] = False,
    ngpu: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="GPUs, each trains a fold (Slurm: on each node of one fold); 0: the CPU",
        ),
    ] = 0,
    folds_per_gpu: Annotated[
        int, typer.Option(metavar="N", min=1, help="folds that share each GPU of this machine")
    ] = 1,
    nj: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="processes at a time; 0: 2 on this machine, no limit for the folds on Slurm",
        ),
    ] = 0,
    max_epoch: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="replaces max_epoch of the config; 0: that of the config"
        ),
    ] = 0,
    ssl: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="hub id or folder of the speech encoder; replaces the config's"
        ),
    ] = "",
    emotions: Annotated[
        str,
        typer.Option(
            metavar="SET", help="a set of egs/<corpus>/corpus.yaml, e.g. 4 or 7 for emodb"
        ),
    ] = "",
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="accept an incomplete corpus; the results will say so"
        ),
    ] = False,
    undecided: Annotated[
        bool,
        typer.Option(
            "--undecided",
            help="take in utterances whose raters had no majority; a config with soft_targets "
            "trains on them, nothing is tested on them",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="train anew if settings or data have changed under the same tag"
        ),
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="run nothing; show how far every fold has come")
    ] = False,
    compare: Annotated[
        list[str],
        typer.Option(
            metavar="TAG...",
            help="run nothing; compare two experiments, or the seeds of two systems",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    test_on: Annotated[
        list[str],
        typer.Option(
            metavar="CORPUS...",
            help="train nothing; test the experiment on other corpora, of which stage 3 is done",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    leakage: Annotated[
        bool,
        typer.Option(
            "--leakage",
            help="compare the system under every protocol and selection, sound and leaky",
        ),
    ] = False,
    data_dir: Annotated[
        str, typer.Option(metavar="DIR", help="written by stages 1 and 2", show_default="data")
    ] = "",
    dump_dir: Annotated[
        str, typer.Option(metavar="DIR", help="written by stage 3", show_default="dump")
    ] = "",
    exp_dir: Annotated[
        str, typer.Option(metavar="DIR", help="written by stages 4 and 5", show_default="exp")
    ] = "",
    results: Annotated[
        str,
        typer.Option(metavar="FILE", help="written by stage 6; default: RESULTS.md in --exp-dir"),
    ] = "",
    python: Annotated[
        str, typer.Option(metavar="PROGRAM", help="interpreter with the recipe's packages")
    ] = ".venv/bin/python",
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME", envvar="SER_BACKEND", help="local or slurm; default: that of cmd.sh"
        ),
    ] = "local",
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Slurm: submit all stages, each to begin when the one before is done, and return",
        ),
    ] = False,
    num_nodes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Slurm: nodes that train one fold together")
    ] = 1,
    slurm_conf: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Slurm: partition, time and so on (docs/cluster.md)",
            show_default="conf/slurm.conf",
        ),
    ] = "",
    espnet_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- ESPNET_OPTIONS",
            help="options for stage 4 after --, e.g. -- --optim_conf lr=1.0e-4",
        ),
    ] = None,
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
    for name in NOT_WITH_LEAKAGE if leakage else ():
        if ctx.get_parameter_source(name).name == "COMMANDLINE":
            raise UserError(f"--{name} does not go with --leakage, which sets it")
    settings = settle(options)
    if leakage:
        settings = Settings(instead=[*SER, "leakage", "--", *sys.argv[1:]])
    print(settings.as_shell())


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
    """Print what run.sh is to do by ``arguments``; exits with 2 where they do not fit."""
    from ser.console import explain

    try:
        call(app, arguments, "run.sh")
    except (UserError, OSError) as err:
        print(f"run.sh: error: {explain(err)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
