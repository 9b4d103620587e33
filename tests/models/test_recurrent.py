"""Recurrent networks over padded batches, against torch's packed sequences."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser.models.cpu.recurrent import read_padded


@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)])
def test_values_and_gradients_are_those_of_packed_sequences(kind, layers, bidirectional):
    torch.manual_seed(0)
    rnn = kind(3, 4, layers, batch_first=True, bidirectional=bidirectional).double()
    frames, lengths = torch.randn(3, 6, 3, dtype=torch.double), torch.tensor([6, 2, 4])
    packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(rnn(packed)[0], batch_first=True)[0]
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), list(rnn.parameters()))
    found = read_padded(rnn, frames, lengths)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), list(rnn.parameters())), gradients
    )


def test_dropout_between_layers_acts_in_training_only():
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5)
    frames, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    first, second = read_padded(rnn, frames, lengths), read_padded(rnn, frames, lengths)
    assert not torch.equal(first, second)
    rnn.eval()
    assert torch.equal(read_padded(rnn, frames, lengths), read_padded(rnn, frames, lengths))
