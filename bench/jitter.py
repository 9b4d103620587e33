"""Padding cost of length_jitter, and the number of other utterances that share a batch with one.

Usage: python -m bench.jitter
"""

import numpy as np

from bench.workload import durations
from ser.training.batches import JitteredSampler

JITTERS, EPOCHS, BATCH = (0.0, 0.01, 0.02, 0.05, 0.1), 30, 4


def main() -> None:
    seconds = {str(i): value for i, value in enumerate(durations())}
    print(f"jitter  padding  others met in {EPOCHS} epochs")
    for jitter in JITTERS:
        sampler = JitteredSampler(seconds, BATCH, jitter)
        met: dict[str, set[str]] = {utt: {utt} for utt in seconds}
        audio = padded = 0.0
        for epoch in range(EPOCHS):
            for batch in sampler.generate(epoch):
                lengths = [seconds[utt] for utt in batch]
                audio, padded = audio + sum(lengths), padded + len(batch) * max(lengths)
                for utt in batch:
                    met[utt].update(batch)
        others = np.mean([len(utts) - 1 for utts in met.values()])
        print(f"{jitter:<6}  {1 - audio / padded:7.1%}  {others:.0f}")


if __name__ == "__main__":
    main()
