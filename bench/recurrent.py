"""Recurrent layers on a CPU: torch's packed sequences, and padding last.

A BLSTM of 128 units over 32 utterances with 40 values per frame and lengths from half to all of
the frames, on one thread: CPU seconds of forward and backward pass (ser/models/cpu/recurrent.py).

Usage: python -m bench.recurrent
"""

import time

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser.models.cpu.recurrent import read_padded

UTTERANCES, VALUES, UNITS, FRAMES = 32, 40, 128, (100, 200, 400)


def packed(rnn: torch.nn.RNNBase, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Equivalent of ``read_padded`` with torch's packed sequences."""
    sequences = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(rnn(sequences)[0], batch_first=True)[0]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(VALUES, UNITS, batch_first=True, bidirectional=True)
    print("frames  way     forward  backward")
    for count in FRAMES:
        lengths = torch.linspace(count // 2, count, UTTERANCES).long()
        batch = torch.randn(UTTERANCES, count, VALUES)
        for name, way in (("packed", packed), ("padded", read_padded)):
            begin = time.process_time()
            loss = way(rnn, batch.requires_grad_(), lengths).square().sum()
            between = time.process_time()
            loss.backward()
            end = time.process_time()
            print(f"{count:>6}  {name}  {between - begin:>7.2f}  {end - between:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
