"""Stage 4: train folds of experiments with ESPnet's trainer. Options after -- go to ESPnet."""

import argparse
from pathlib import Path

from ser.cluster import preemption
from ser.console import run


def share(text: str) -> tuple[int, int]:
    """``3/10`` -> (3, 10)."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected K/N with K from 1 to N, e.g. 3/10")
    return int(k), int(n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="data/<corpus>")
    add("--dump-dir", type=Path, required=True, help="dump/<corpus>")
    add("--exp-dir", type=Path, nargs="+", required=True, help="exp/<corpus>/<tag> of each seed")
    add("--seed", type=int, nargs="+", default=[1], help="one for each --exp-dir")
    add("--config", type=Path, nargs="+", required=True, help="YAML, for all or one for each")
    add("--protocol", default="strict", help="which folds")
    add("--folds", type=str.split, default=[], help="blank separated names; empty means all")
    add("--share", type=share, default=(1, 1), help="K/N: every N-th fold, from the K-th on")
    add("--ngpu", type=int, default=0, help="GPUs of one training on a node; 0 is the CPU")
    add("--num-nodes", type=int, default=1, help="nodes of one training; srun starts them")
    add("--max-epoch", type=int, help="replaces max_epoch of the YAML")
    add("--ssl", help="hub id or folder; replaces frontend_conf.model")
    add("--select", choices=["protocol", "best-on-test"], default="protocol", help="which epoch")
    add("--overwrite", action="store_true", help="train anew if settings have changed")
    add("--check-only", action="store_true", help="check and note the settings, train nothing")
    add("extra_args", nargs="*", help="ESPnet options, after --")
    options = vars(parser.parse_args())
    exp_dirs, seeds, configs = (options.pop(key) for key in ("exp_dir", "seed", "config"))
    configs *= len(exp_dirs) if len(configs) == 1 else 1
    if not len(exp_dirs) == len(seeds) == len(configs):
        parser.error(f"{len(exp_dirs)} --exp-dir, {len(seeds)} --seed, {len(configs)} --config")

    from ser.training.folds import (  # after parsing: importing ESPnet takes seconds
        Training,
        train_folds,
    )

    trainings = [Training(*each) for each in zip(exp_dirs, configs, seeds, strict=True)]
    train_folds(trainings, **options)


if __name__ == "__main__":
    with preemption.listening():
        run(main)
