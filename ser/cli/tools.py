"""Commands about experiments, models and the recipe itself."""

import itertools
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from ser.cli.options import Device, DumpDir, ExpDirs, Model
from ser.errors import UserError

DumpRoot = Annotated[
    Path | None,
    typer.Option(help="where dump/<corpus> of the experiments' corpora lie; default: beside exp/"),
]


def status(
    exp_dir: ExpDirs,
    dump_dir: DumpDir,
    protocol: Annotated[str, typer.Option(help="where stage 4 has not begun")] = "strict",
) -> None:
    """Show how far every fold of experiments has come; starts and changes nothing."""
    from ser.reporting.status import show_status

    for directory in exp_dir:
        print(show_status(directory, dump_dir, protocol))


def compare(
    exp_dir: ExpDirs,
    dump_dir: Annotated[
        Path | None, typer.Option(help="dump/<corpus>, written by stage 3; records need none")
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            help="for compare.json and compare.txt; default: compare/A_vs_B beside the first, "
            "nowhere for records"
        ),
    ] = None,
) -> None:
    """Compare two systems on the same test utterances: differences, intervals, tests.

    --exp-dir once for each system, or for each seed of both: exp/<corpus>/<tag>, or the records
    results/<corpus>/<tag>.json alone.
    """
    from ser.scoring.compare import compare as compare_systems

    compare_systems([str(directory) for directory in exp_dir], dump_dir, out_dir)


def crosscorpus(
    experiments: Annotated[list[Path], typer.Argument(metavar="EXP...", help="exp/<corpus>/<tag>")],
    on: Annotated[
        list[Path] | None,
        typer.Option(metavar="DATA...", help="dump/<corpus>; default: those of the experiments"),
    ] = None,
    ngpu: Annotated[int, typer.Option(help="above 0: use the GPU")] = 0,
    dump_root: DumpRoot = None,
) -> None:
    """Test trained systems on other corpora, over the emotions that both have.

    Nothing is trained: the probabilities of all folds' models are averaged, restricted to the
    shared emotions and renormalised. WA and UA are means over the test speakers; on its own corpus
    a system has its leave-one-speaker-out score. Writes crosscorpus.json and the predictions into
    each EXP, the table and the matrix (crosscorpus.tsv, .png) into the first; keeps what is there.

    \b
      ser crosscorpus exp/emodb/whisper_s0_strict_seed1 --on dump/nemo
      ser crosscorpus exp/*/whisper_s0_strict_seed1       # all on all
    """
    from ser.reporting.elsewhere import CROSS, cross_rows, matrix_chart, show
    from ser.scoring import elsewhere

    dumps = on or [elsewhere.own_dump(directory, dump_root) for directory in experiments]
    records = [
        elsewhere.crosscorpus(directory, dumps, ngpu, dump_root=dump_root)
        for directory in experiments
    ]
    show(experiments[0] / elsewhere.CROSSCORPUS, [CROSS, *cross_rows(records)],
         matrix_chart(records), "Trained on one corpus, tested on others")  # fmt: skip


def robustness(
    experiment: Annotated[Path, typer.Argument(metavar="EXP", help="exp/<corpus>/<tag>")],
    conditions: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:VALUE...", help="e.g. babble:5; default: 22 conditions"),
    ] = None,
    ngpu: Annotated[int, typer.Option(help="above 0: use the GPU")] = 0,
    dump_root: DumpRoot = None,
) -> None:
    """Test an experiment on its own test speakers in worse recordings.

    Each fold's model hears its held-out speaker in noise (white, pink, babble, by SNR in dB),
    reverberation (T60 in s), over the telephone (telephone, mulaw), quieter (gain in dB), clipped
    (% of samples) and coded (mp3, opus, kbit/s). Equal runs hear equal noise. The change of UA has
    an interval that is paired over speakers. Writes robustness.json, .tsv and .png into EXP.
    Conditions that are there are kept.

    \b
      ser robustness exp/emodb/whisper_s0_strict_seed1
      ser robustness exp/emodb/whisper_s0_strict_seed1 --conditions babble:5 reverb:2
    """
    from ser.reporting.elsewhere import ROBUST, robust_rows, robustness_chart, show
    from ser.scoring import elsewhere

    record = elsewhere.robustness(experiment, conditions or (), ngpu, dump_root=dump_root)
    show(experiment / elsewhere.ROBUSTNESS, [ROBUST, *robust_rows(record)],
         robustness_chart(record), f"{record['system']} on {record['corpus']}")  # fmt: skip


def paper(
    sweep: Annotated[Path, typer.Option(help="the experiments")],
    config: Annotated[Path, typer.Option(help="the system that they vary")],
    exp_root: Annotated[Path, typer.Option(help="holds <corpus>/<tag>")],
    dump_dir: DumpDir,
    corpus: Annotated[str, typer.Option()],
    seed: Annotated[str, typer.Option(help="blank separated; default: those of the sweep")] = "",
) -> None:
    """Show the progress of ./run.sh --paper, every fold."""
    from ser.cli.settings import PAPER_PROTOCOLS
    from ser.reporting.status import show_status
    from ser.training.sweep import load_sweep

    loaded = load_sweep(sweep, config)
    seeds = [int(number) for number in seed.split()] or loaded.seeds
    for protocol, point, number in itertools.product(PAPER_PROTOCOLS, loaded.points, seeds):
        exp_dir = exp_root / corpus / point.experiment(loaded.name, protocol, number)
        found = show_status(exp_dir, dump_dir, protocol) if exp_dir.is_dir() else ""
        print(found or f"{exp_dir}: not started")


def audit(
    dump_dir: DumpDir,
    protocol: Annotated[str, typer.Option(help="e.g. strict or kfold5")] = "strict",
) -> None:
    """Check the folds of a dump again: nothing of a test split may be trained on."""
    from ser.data.folds import audit_folds

    folds_dir = dump_dir / "folds" / protocol
    print("\n".join(audit_folds(protocol, folds_dir, dump_dir)))


def export(
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="the file to write")],
    model: Model,
    fold: Annotated[
        str | None, typer.Option(help="the fold whose model is exported; default: the first")
    ] = None,
    opset: Annotated[int, typer.Option(help="version of ONNX's operators, 18 or later")] = 18,
    precision: Annotated[
        Literal["float32", "int8"], typer.Option(help="int8: of the weights of linear layers")
    ] = "float32",
    recordings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECORDING]...",
            help="compare decisions on these; default: test utterances of an experiment's fold",
        ),
    ] = None,
) -> None:
    """Write a model as ONNX, for programs without PyTorch, and compare the two.

    The graph takes any number of utterances of any one length; nothing in a batch is padding:

    \b
      speech (B, L) float32 samples in [-1, 1] at 16 kHz, or (B, T, F) features as the model reads
      emotion_logp (B, C)   log-probabilities of the emotions
      <head>_logp           of each auxiliary head: (B, T, V) over its units, (B, V) over its labels
      <head>_value          of a head of values: (B,)

    The names of emotions and units are in the file's metadata. One fold makes one file. PyTorch and
    onnxruntime are compared on noise of several sizes and lengths, and on recordings: how many get
    the same emotion, and by how much probabilities differ. Systems that have no graph are listed in
    docs/systems.md. Needs requirements-apps.txt: make install APPS=1

    \b
      ser export --onnx s1.onnx --model exp/iemocap/s1_mtl_phoneme_strict_seed1 --fold Ses01F
      ser export --onnx model.onnx --model packed.zip --precision int8 calls/*.wav
    """
    from ser.release.onnx import export_onnx

    export_onnx(model, onnx, fold, opset, precision, recordings or ())


def manifest(
    data_dir: Annotated[Path, typer.Argument(help="data/<corpus>, as stage 1 has left it")],
    form: Annotated[
        Literal["both", "lhotse", "emobox"], typer.Option("--format", help="what to write")
    ] = "both",
    protocol: Annotated[
        Literal["strict", "paper", "session", "official", "official_shared", "crossed", "kfold"],
        typer.Option(help="of the folds, as in run.sh"),
    ] = "strict",
    k: Annotated[
        int | None, typer.Option(help="folds of kfold, groups of sentences of crossed")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="the folder to write, or to write anew if it holds manifests; default: "
            "DATA_DIR/manifests/<protocol>"
        ),
    ] = None,
    relative_to: Annotated[
        Path | None,
        typer.Option(help="write audio paths as seen from this folder; default: absolute"),
    ] = None,
    nj: Annotated[int, typer.Option(help="audio headers read at a time")] = 4,
) -> None:
    """Write a prepared corpus, with its folds, as manifests for lhotse and EmoBox.

    OUTPUT/lhotse holds recordings.jsonl.gz, supervisions.jsonl.gz (speaker, gender, language, text,
    and the emotion as custom.emotion) and, for each fold, cuts_train, cuts_valid and
    cuts_test.jsonl.gz. OUTPUT/emobox/<corpus> holds EmoBox's metadata: <corpus>.jsonl,
    label_map.json and, for fold N, fold_N/<corpus>_train_fold_N.jsonl and so on; folds.tsv says
    which fold N is. Of the protocols, strict, crossed and official have a valid split. Audio is
    not copied.

    \b
      ser manifest data/emodb
      ser manifest data/iemocap --protocol session --format emobox --output ~/EmoBox/data_session
      ser manifest data/emodb --relative-to ~/emodb/wav      # for a machine that has it elsewhere
      ser manifest data/emodb --protocol kfold --k 5         # speaker-dependent
    """
    from ser.data.manifest import protocol_name, write_manifests

    write_manifests(
        data_dir,
        protocol=protocol_name(protocol, k),
        form=form,
        output=output,
        relative_to=relative_to,
        nj=nj,
    )


def demo(
    model: Model = "",
    folds: Annotated[str, typer.Option(help="use the models of these folds only")] = "",
    device: Device = "auto",
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="serve on this address; 0.0.0.0: on all, to whoever can reach them",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="default: 7860, or the next one that is free"),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="also give the page a public address for a week, through servers of Gradio's "
            "makers: whoever has it can use the page, and recordings pass through those servers",
        ),
    ] = False,
    max_megabytes: Annotated[float, typer.Option(help="the largest file that is taken")] = 100,
    max_minutes: Annotated[float, typer.Option(help="the longest recording that is taken")] = 15,
) -> None:
    """Serve a page on which to drop or record speech and see its emotions.

    The probabilities of the emotions, when they change, and the units of the CTC head; the answers
    are those of ser predict. The page is for this machine alone unless --host or --share says
    otherwise. It needs no network and keeps nothing: recordings are deleted once they are answered.
    Needs requirements-apps.txt: make install APPS=1

    \b
      ser demo --model exp/iemocap/s1_mtl_phoneme_strict_seed1
      ser demo --model packed.zip --folds "Ses01F Ses01M" --port 8080
      ser demo --host 0.0.0.0 --max-minutes 5      # for all who can reach this machine
    """
    from ser.cli.predict import EXPERIMENTS, default_model
    from ser.release.demo import serve

    for name, value in (("--max-megabytes", max_megabytes), ("--max-minutes", max_minutes)):
        if not 0 < value < math.inf:
            raise UserError(f"{name} {value}: expected a number above 0")
    source = _looked_at(model or default_model(EXPERIMENTS))

    def load_model():
        from ser.predict.classifier import SpeechEmotion

        return SpeechEmotion.from_pretrained(source, device, folds.split() or None)

    serve(
        load_model,
        source,
        host=host,
        port=port,
        share=share,
        max_megabytes=max_megabytes,
        max_minutes=max_minutes,
    )


def _looked_at(source: str) -> str:
    """``source``; UserError if it is no model, where neither torch nor a download tells that."""
    from ser.files import expand_home
    from ser.predict.files import HUB_ID
    from ser.predict.package import open_model

    path = expand_home(source)
    if not (path / "run.yaml").is_file() and (path.exists() or not HUB_ID.fullmatch(source)):
        open_model(source)
    return source


def release(
    corpus: Annotated[str, typer.Argument(help="as for run.sh: mini, emodb, iemocap, ...")],
    corpus_dir: Annotated[str, typer.Option(help="where the corpus lies on this machine")] = "",
    ssl: Annotated[str, typer.Option(help="the encoder's folder or hub id")] = "",
    records: Annotated[Path, typer.Option(help="scores of earlier runs")] = Path("results"),
    exp_root: Annotated[Path, typer.Option(help="scores of this checkout")] = Path("exp"),
    protocol: Annotated[str, typer.Option(help="by which systems were scored")] = "strict",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be run")] = False,
) -> None:
    """Train the best recorded system of a corpus and pack it with its model card.

    The best by UA on validation speakers, of what was scored on the corpus; test speakers decide
    nothing. Runs ./run.sh, so that it resumes and leaves alone what is done.

    \b
      ser release mini
      ser release emodb --corpus-dir ~/emodb/wav --ssl openai/whisper-base
    """
    import os
    import shlex

    from ser.release.best import rank, release_command

    ranked = rank(corpus, records, exp_root, protocol)
    print("\n".join(candidate.line() for candidate in ranked), flush=True)
    places = {"--corpus-dir": corpus_dir, "--ssl": ssl}
    command = ["./run.sh", *release_command(ranked[0], {k: v for k, v in places.items() if v})]
    print(f"\n{shlex.join(command)}", flush=True)
    if not dry_run:
        os.execv(command[0], command)
