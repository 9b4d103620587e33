"""Stage 4: train folds of an experiment with ESPnet's trainer. Options after -- go to ESPnet."""

import argparse
from pathlib import Path

from ser.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="data/<corpus>")
    parser.add_argument("--dump-dir", type=Path, required=True, help="dump/<corpus>")
    parser.add_argument("--exp-dir", type=Path, required=True, help="exp/<corpus>/<tag>")
    parser.add_argument("--config", type=Path, required=True, help="the system's YAML")
    parser.add_argument("--protocol", default="strict", help="which folds")
    parser.add_argument("--folds", default="", help="blank separated names; empty means all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="0 trains on the CPU")
    parser.add_argument("--max-epoch", type=int, help="replaces max_epoch of the YAML")
    parser.add_argument("--ssl", help="hub id or folder; replaces frontend_conf.model")
    parser.add_argument("--log-dir", type=Path, help="write stage4.<fold>.log files there")
    parser.add_argument("--overwrite", action="store_true", help="settings may have changed")
    parser.add_argument("extra", nargs="*", help="ESPnet options, after --")
    args = parser.parse_args()

    from ser.train import train_folds  # after parsing: importing ESPnet takes seconds

    train_folds(
        data_dir=args.data_dir,
        dump_dir=args.dump_dir,
        exp_dir=args.exp_dir,
        config=args.config,
        protocol=args.protocol,
        folds=args.folds.split(),
        seed=args.seed,
        ngpu=args.ngpu,
        max_epoch=args.max_epoch,
        ssl=args.ssl,
        extra_args=args.extra,
        log_dir=args.log_dir,
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    run(main)
