"""``ser data``, ``lang``, ``dump``, ``score`` and ``pack``: stages 1 to 3, 5 and 7.

Slow modules are imported by the functions that need them.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ser.cli.options import DataDir, DumpDir, ExpDirs, Experiments, Folds
from ser.cli.train import chosen_experiments


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
    from ser.errors import UserError
    from ser.scoring.infer import infer_folds
    from ser.scoring.score import score_experiment
    from ser.stage import MARKER

    chosen, problems = chosen_experiments(exp_dir, experiments), []
    for directory in chosen:
        if len(chosen) > 1 and not any(directory.glob(f"*/{MARKER}")):
            print(f"{directory}: no fold is trained yet")
            continue
        try:
            infer_folds(
                exp_dir=directory,
                dump_dir=dump_dir,
                folds=folds.replace(",", " ").split(),
                ngpu=ngpu,
                nj=nj,
                batch_seconds=batch_seconds,
            )
            score_experiment(directory, dump_dir, data_dir, ngpu=ngpu)
        except UserError as err:  # the others are scored all the same
            problems.append(str(err))
    if problems:
        if len(chosen) > 1:
            problems.append(f"{len(problems)} of {len(chosen)} experiments failed, see above")
        raise UserError("\n  ".join(problems))


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
