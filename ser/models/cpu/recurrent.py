"""Recurrent networks over padded batches, at the cost of unpadded ones."""

import torch

from ser.models.masks import frame_mask


def read_padded(rnn: torch.nn.RNNBase, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Run a GRU or LSTM over the real frames: (B, T, F), (B,) -> (B, T, D) with zeros for padding.

    On a CPU the backward pass of torch's packed sequences takes time proportional to T squared,
    since the slice of every time step has a gradient of the size of the whole batch. Here the
    padded batch is read as it is, with the real frames reversed for the backward direction, so
    that padding comes last and its outputs are removed. The values equal torch's.
    """
    real = frame_mask(lengths, frames.size(1)).unsqueeze(-1)  # (B, T, 1)
    times = torch.arange(frames.size(1))
    turned = torch.where(real[..., 0], lengths[:, None] - 1 - times, times).unsqueeze(-1)
    start = frames.new_zeros(1, frames.size(0), rnn.hidden_size)
    lstm = rnn.mode == "LSTM"
    directions = 1 + rnn.bidirectional
    for layer in range(rnn.num_layers):
        if layer:
            frames = torch.nn.functional.dropout(frames, rnn.dropout, rnn.training)
        outputs = []
        for direction in range(directions):
            weights = rnn.all_weights[layer * directions + direction]
            run, state = (torch.lstm, [start, start]) if lstm else (torch.gru, start)
            read = _turn(frames, turned) if direction else frames
            read = run(read, state, weights, rnn.bias, 1, 0.0, rnn.training, False, True)[0]
            outputs.append(_turn(read, turned) if direction else read)
        frames = torch.cat(outputs, dim=-1)
    return frames.masked_fill(~real, 0.0)


def _turn(frames: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    return frames.gather(1, turned.expand(-1, -1, frames.size(-1)))
