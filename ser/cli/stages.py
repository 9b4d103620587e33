"""``ser data``, ``lang``, ``dump``, ``train``, ``score``, ``report`` and ``pack``: stages 1 to 7.

What takes long to import is imported by the function that needs it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ser.cli.settings import SER
from ser.errors import UserError

DataDir = Annotated[Path, typer.Option(help="data/<corpus>, written by stages 1 and 2")]
DumpDir = Annotated[Path, typer.Option(help="dump/<corpus>, written by stage 3")]
Protocol = Annotated[
    str, typer.Option(help="strict, paper, session, official, crossed<k>, kfold<k>")
]
Folds = Annotated[str, typer.Option(help='these only, e.g. "Ses01F Ses01M"; default: all')]
ExpDirs = Annotated[
    list[Path],
    typer.Option("--exp-dir", help="exp/<corpus>/<tag>; may be given several times"),
]
Experiments = Annotated[
    Path | None, typer.Option(help="a sweep's list of experiments, in place of --exp-dir")
]
EspnetOptions = Annotated[
    list[str] | None, typer.Argument(help="ESPnet's options, e.g. -- --optim_conf lr=1.0e-4")
]


def data(
    corpus: Annotated[str, typer.Option(help="a folder of egs/")],
    corpus_dir: Annotated[
        Path | None, typer.Option(help="where the corpus is; mini is made there")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="transcripts in place of the corpus' own: '<utterance id> words' a line, or "
            "'<sentence> words' in corpora that number their sentences (casia)"
        ),
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="is written, in the folder of the corpus")] = Path(
        "data"
    ),
    emotions: Annotated[
        str,
        typer.Option(
            help="a set of corpus.yaml (emodb: 4 or 7) or a comma list in class order; default: "
            "the corpus's own"
        ),
    ] = "",
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="accept missing parts of the corpus; the results will say so"
        ),
    ] = False,
    undecided: Annotated[
        bool,
        typer.Option(
            "--undecided",
            help="take in utterances without a majority of the raters, which soft_targets train on",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="for corpora made by the recipe (mini)")] = 0,
    nj: Annotated[int, typer.Option(min=1, help="files read at the same time")] = 4,
) -> None:
    """Stage 1: read and check a corpus, write data/<corpus>/all.

    wav.scp, text, utt2spk, spk2utt, utt2emo, utt2gender, spk2gender, utt2session, utt2dur,
    utt2orig, emotions and language, checked against every count of egs/<corpus>/corpus.yaml. The
    mini corpus is first synthesised, in data/mini/corpus.
    """
    from ser.corpora.prepare import prepare

    prepare(
        corpus=corpus,
        data_dir=data_dir,
        corpus_dir=corpus_dir,
        emotions=emotions,
        allow_partial=allow_partial,
        seed=seed,
        nj=nj,
        text=text,
        undecided=undecided,
    )


def lang(
    data_dir: DataDir,
    token_type: Annotated[
        str,
        typer.Option(
            help="tagged_class, class, tagged_phone, phone, char or bpe; all but the first go to "
            "lang_<type> beside lang"
        ),
    ] = "tagged_class",
    bpe_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="pieces of token type bpe; its tokenizer sees the transcripts of all speakers",
        ),
    ] = 500,
) -> None:
    """Stage 2: words to phones to units, write data/<corpus>/lang.

    The lexicon, the phones and the emotion-tagged manner classes.
    """
    from ser.lang.prepare import prepare_lang

    prepare_lang(data_dir, token_type, bpe_size)


def dump(
    data_dir: DataDir,
    dump_dir: DumpDir,
    token_type: Annotated[
        str, typer.Option(help="targets to add to the dump; tagged_class is always there")
    ] = "tagged_class",
    feats_type: Annotated[
        str, typer.Option(help="raw, spectrogram, fbank, mfcc, fbank_mfcc, egemaps or compare")
    ] = "raw",
    protocol: Annotated[
        str,
        typer.Option(
            help="strict: the session's other speaker validates; paper: no validation; session: "
            "leave one session out; official: the corpus' own split; crossed3: leave out a speaker "
            "and a third of the sentences; kfold5: five parts of all speakers' utterances"
        ),
    ] = "strict",
    nj: Annotated[int, typer.Option(min=1, help="number of processes")] = 2,
) -> None:
    """Stage 3: waveforms, tables, targets, features and folds, write dump/<corpus>."""
    from ser.data.prepare import prepare_dump

    prepare_dump(
        data_dir=data_dir,
        dump_dir=dump_dir,
        token_type=token_type,
        feats_type=feats_type,
        protocol=protocol,
        nj=nj,
    )


def train(
    data_dir: DataDir,
    dump_dir: DumpDir,
    exp_dir: ExpDirs = [],  # noqa: B006 (typer copies it)
    seed: Annotated[str, typer.Option(help='of weights and batches; several: "1 2 3"')] = "1",
    config: Annotated[Path | None, typer.Option(help="the system's YAML")] = None,
    experiments: Experiments = None,
    protocol: Protocol = "strict",
    select: Annotated[
        Literal["protocol", "best-on-test"],
        typer.Option(help="epoch that is tested: that of the protocol, or best-on-test (LEAKY)"),
    ] = "protocol",
    folds: Folds = "",
    ngpu: Annotated[
        int,
        typer.Option(
            min=0,
            help="GPUs, each trains one fold at a time; Slurm: of one fold on each of its nodes; "
            "0: the CPU",
        ),
    ] = 0,
    folds_per_gpu: Annotated[
        int, typer.Option(min=1, help="folds that share each GPU of this machine at a time")
    ] = 1,
    nj: Annotated[
        int,
        typer.Option(
            min=0,
            help="folds trained at a time; 0: 2 on this machine, which divide its cores among them "
            "(GPUs decide instead if there are any), and no limit on Slurm",
        ),
    ] = 0,
    max_epoch: Annotated[
        int, typer.Option(min=0, help="replaces max_epoch of the YAML; 0: that of the YAML")
    ] = 0,
    ssl: Annotated[
        str, typer.Option(help="hub id or folder of the encoder; replaces frontend_conf.model")
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="train anew if settings or data have changed"),
    ] = False,
    backend: Annotated[str, typer.Option(envvar="SER_BACKEND", help="local or slurm")] = "local",
    slurm_conf: Annotated[
        Path | None, typer.Option(help="Slurm: partition, time and so on")
    ] = None,
    num_nodes: Annotated[int, typer.Option(min=1, help="Slurm: nodes of one fold")] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Slurm: submit and return")] = False,
    after: Annotated[str, typer.Option(help="Slurm: begin when this job is done")] = "",
    id_file: Annotated[
        Path | None, typer.Option(help="Slurm: is written, with the number of the job")
    ] = None,
    share: Annotated[
        str,
        typer.Option(
            help="K/N: train every N-th fold from the K-th on, in this process", hidden=True
        ),
    ] = "",
    check_only: Annotated[
        bool,
        typer.Option(
            "--check-only", help="check and note the settings, train nothing", hidden=True
        ),
    ] = False,
    espnet_options: EspnetOptions = None,
) -> None:
    """Stage 4: train the folds of an experiment, or of one for each seed.

    Finished folds are kept and interrupted ones resumed.
    """
    from ser.training.launch import Jobs, launch

    trainings = trainings_of(experiments, exp_dir, seed, config)
    names, espnet = folds.replace(",", " ").split(), espnet_options or []
    if share or check_only:
        _train_here(
            trainings,
            data_dir=data_dir,
            dump_dir=dump_dir,
            protocol=protocol,
            folds=names,
            ngpu=ngpu,
            num_nodes=num_nodes,
            max_epoch=max_epoch or None,
            ssl=ssl or None,
            extra_args=espnet,
            overwrite=overwrite,
            share=_share(share or "1/1"),
            select=select,
            check_only=check_only,
        )
        return
    from ser.training.declared import check_system

    due = None if after else dump_dir / "folds" / protocol
    for file in {file: None for _, _, file in trainings}:
        check_system(file, espnet, ssl, due, names)
    trainer = [*SER, "train", f"--data-dir={data_dir}", f"--dump-dir={dump_dir}"]
    if experiments is not None:
        trainer.append(f"--experiments={experiments}")
    else:
        trainer += [f"--exp-dir={directory}" for directory, _, _ in trainings]
        trainer += [f"--seed={seed}", f"--config={config}"]
    trainer += [f"--protocol={protocol}", f"--select={select}", f"--folds={' '.join(names)}"]
    trainer += [f"--max-epoch={max_epoch}"] if max_epoch else []
    trainer += [f"--ssl={ssl}"] if ssl else []
    trainer += ["--overwrite"] if overwrite else []
    jobs = Jobs(
        backend=backend,
        ngpu=ngpu,
        folds_per_gpu=folds_per_gpu,
        nj=nj,
        num_nodes=num_nodes,
        slurm_conf=slurm_conf,
        detach=detach,
        after=after,
        id_file=id_file,
    )
    directories = [directory for directory, _, _ in trainings]
    raise typer.Exit(launch(trainer, jobs, directories, dump_dir, protocol, names, espnet))


def _train_here(trainings: list[tuple[Path, int, Path]], **options) -> None:
    from ser.cluster import preemption

    with preemption.listening():
        from ser.training.folds import Training, train_folds  # which takes seconds to import

        chosen = [Training(directory, config, seed) for directory, seed, config in trainings]
        train_folds(chosen, **options)


def trainings_of(
    experiments: Path | None, exp_dirs: list[Path], seeds: str, config: Path | None
) -> list[tuple[Path, int, Path]]:
    """The folder, seed and YAML of each experiment."""
    if experiments is not None:
        from ser.training.launch import read_experiments

        return read_experiments(experiments)
    if not exp_dirs or config is None:
        raise UserError("--exp-dir and --config, or --experiments: not given")
    numbers = [int(seed) for seed in seeds.replace(",", " ").split() if seed.isdecimal()]
    if len(exp_dirs) == 1 and len(numbers) > 1:
        (one,) = exp_dirs
        exp_dirs = [one.with_name(f"{one.name}_seed{number}") for number in numbers]
    if len(exp_dirs) != len(numbers):
        raise UserError(
            f"--seed {seeds!r}: {len(exp_dirs)} --exp-dir, which need a whole number each"
        )
    return [(directory, seed, config) for directory, seed in zip(exp_dirs, numbers, strict=True)]


def _share(text: str) -> tuple[int, int]:
    """``3/10`` -> (3, 10)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--share {text!r}: expected K/N with K from 1 to N, e.g. 3/10")
    return int(found[1]), int(found[2])


def score(
    data_dir: DataDir,
    dump_dir: DumpDir,
    exp_dir: ExpDirs = [],  # noqa: B006 (typer copies it)
    experiments: Experiments = None,
    folds: Folds = "",
    ngpu: Annotated[int, typer.Option(help="0: on the CPU")] = 0,
    nj: Annotated[int, typer.Option(help="CPU threads; 0: torch's default")] = 0,
    batch_seconds: Annotated[
        float, typer.Option(help="padded audio in a batch; scores do not depend on it")
    ] = 60.0,
) -> None:
    """Stage 5: infer the held-out utterances of every trained fold, score all folds together.

    Writes predictions.tsv in each fold, scores.json and scores.txt. Folds that were inferred with
    their present model are not inferred again.
    """
    from ser.scoring.infer import infer_folds
    from ser.scoring.score import score_experiment
    from ser.stage import MARKER

    chosen = _chosen(exp_dir, experiments)
    for directory in chosen:
        if len(chosen) > 1 and not any(directory.glob(f"*/{MARKER}")):
            print(f"{directory}: no fold is trained yet")
            continue
        infer_folds(
            exp_dir=directory,
            dump_dir=dump_dir,
            folds=folds.replace(",", " ").split(),
            ngpu=ngpu,
            nj=nj,
            batch_seconds=batch_seconds,
        )
        score_experiment(directory, dump_dir, data_dir, ngpu=ngpu)


def _chosen(exp_dirs: list[Path], experiments: Path | None) -> list[Path]:
    if experiments is not None:
        from ser.training.launch import read_experiments

        return [directory for directory, _, _ in read_experiments(experiments)]
    if not exp_dirs:
        raise UserError("--exp-dir or --experiments: not given")
    return exp_dirs


def report(
    page_of: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXP]...",
            help="write one HTML page of exp/<corpus>/<tag>, a second one beside it",
        ),
    ] = None,
    exp_root: Annotated[Path, typer.Option(help="holds <corpus>/<tag>/scores.json")] = Path("exp"),
    results: Annotated[Path, typer.Option(help="the table to write")] = Path("RESULTS.md"),
    exp_dir: Annotated[
        list[Path],
        typer.Option(help="draw the figures of these experiments only; default: of all"),
    ] = [],  # noqa: B006 (typer copies it)
    experiments: Experiments = None,
    conf_dir: Annotated[
        Path, typer.Option(help="configurations, for the numbers that the papers state")
    ] = Path("conf"),
    records: Annotated[
        Path | None,
        typer.Option(help="keep all scores here, as <corpus>/<tag>.json, and report what is here"),
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="write this sweep's table and figure as well")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="the system that the sweep varies")] = None,
    corpus: Annotated[str, typer.Option(help="of the sweep")] = "mini",
    protocol: Annotated[str, typer.Option(help="of the sweep")] = "strict",
    seed: Annotated[str, typer.Option(help="of the sweep; default: those in its file")] = "",
    output: Annotated[Path | None, typer.Option(help="the page; default: EXP/report.html")] = None,
    errors: Annotated[int, typer.Option(min=0, help="wrong decisions on the page")] = 9,
    no_audio: Annotated[
        bool,
        typer.Option(
            "--no-audio",
            help="leave recordings and words out of the page: corpora's licences mostly forbid to "
            "pass them on",
        ),
    ] = False,
    utterance: Annotated[
        str | None,
        typer.Option(
            help="the utterance that the page draws over time; default: the most confident error"
        ),
    ] = None,
    dump_dir: Annotated[
        Path | None, typer.Option(help="dump/<corpus>, for the page; default: beside exp/")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="data/<corpus>, for the page; default: beside exp/")
    ] = None,
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
        chosen = _chosen([], experiments)
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


def pack(
    experiment: Annotated[Path, typer.Argument(help="exp/<corpus>/<tag>, scored")],
    folds: Annotated[
        str, typer.Option(help="pack the models of these folds only; default: all that are scored")
    ] = "",
    onnx: Annotated[
        Literal["float32", "int8"] | None,
        typer.Option(help="also write ONNX graphs, which ser predict runs without PyTorch"),
    ] = None,
) -> None:
    """Stage 7: pack an experiment into one folder, and a zip of it, to share.

    EXPERIMENT/packed is a Hugging Face model folder (safetensors, model card with the scores,
    protocol and limits), EXPERIMENT/<tag>.zip the same as an ESPnet archive; neither holds a path
    of this machine nor needs the pretrained encoder. All scored folds are packed, which together
    make an ensemble: 380 MB each for wav2vec 2.0 base, and as much again for the zip; --folds packs
    fewer. --onnx adds a graph of each fold, which onnxruntime runs (int8: a quarter of the size).

    \b
      ser pack exp/mini/mini_s1_strict_seed1
      ser pack exp/iemocap/s1_mtl_phoneme_strict_seed1 --folds Ses01F   # one model, 380 MB
      hf upload OWNER/NAME exp/mini/mini_s1_strict_seed1/packed         # share it
    """
    from ser.release.pack import pack_experiment

    pack_experiment(str(experiment), folds.replace(",", " ").split(), onnx)
