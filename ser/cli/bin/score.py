"""Stage 5: infer the held-out utterances of all trained folds, and score them."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from ser.console import run
from ser.scoring.infer import infer_folds
from ser.scoring.score import score_experiment
from ser.stage import MARKER


def main() -> None:
    """Parse the command line, infer what is not inferred yet, score what is."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dump-dir", required=True, help="dump/<corpus>, made by stage 3")
    parser.add_argument("--data-dir", required=True, help="data/<corpus>, made by stage 1")
    parser.add_argument(
        "--exp-dir", nargs="+", type=Path, required=True, help="exp/<corpus>/<tag>, made by stage 4"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU")
    parser.add_argument(
        "--folds", default="", help="infer these only, separated by blanks; default: all trained"
    )
    parser.add_argument("--nj", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="padded audio in a batch, in seconds"
    )
    args = parser.parse_args()
    for exp_dir in args.exp_dir:
        if len(args.exp_dir) > 1 and not any(exp_dir.glob(f"*/{MARKER}")):
            print(f"{exp_dir}: no fold is trained yet")
            continue
        infer_folds(
            exp_dir=exp_dir,
            dump_dir=args.dump_dir,
            folds=args.folds.split(),
            ngpu=args.ngpu,
            nj=args.nj,
            batch_seconds=args.batch_seconds,
        )
        score_experiment(exp_dir, args.dump_dir, args.data_dir, ngpu=args.ngpu)


if __name__ == "__main__":
    run(main)
