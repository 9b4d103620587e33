"""The model's arithmetic against hand-worked values, NumPy and torch's own CTC."""

import itertools

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.lang.units import greedy_ctc
from ser.models.encoders import IdentityEncoder
from ser.models.heads import CTCHead, Encoded
from ser.models.model import SERModel
from ser.models.pooling import MeanPooling
from ser.training.trainer import wa_ua
from tests.support import heads
from tests.support.heads import batch, learn

UNITS = ["<blank>", "V0", "N0"]


def ctc_by_enumeration(log_probs: np.ndarray, target: tuple[int, ...]) -> float:
    """-log of the summed probability of every alignment (eq. 6), for a handful of frames."""
    frames, size = log_probs.shape
    total = 0.0
    for path in itertools.product(range(size), repeat=frames):
        collapsed = tuple(unit for unit, _ in itertools.groupby(path) if unit != 0)
        if collapsed == target:
            total += np.exp(sum(log_probs[t, unit] for t, unit in enumerate(path)))
    return -np.log(total)


def model(weight: float = 0.1, **options) -> SERModel:
    return heads.model({"pr": CTCHead(3, 3, UNITS)}, {"pr": weight}, **options)


def test_eq7_mean_pooling_averages_real_frames_only():
    frames = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    assert MeanPooling(2)(frames, torch.tensor([2])).tolist() == [[2.0, 3.0]]


def test_padding_with_anything_leaves_the_pooled_vector_and_its_gradient_alone():
    frames = torch.tensor([[[1.0], [3.0], [float("nan")]]], requires_grad=True)
    MeanPooling(1)(frames, torch.tensor([2])).sum().backward()
    assert frames.grad.flatten().tolist() == [0.5, 0.5, 0.0]


def test_ctc_loss_is_the_enumerated_one_per_unit_averaged_over_the_batch():
    data, net = batch(), model()
    encoded = Encoded(data["speech"], data["speech_lengths"], torch.zeros(3, 3))
    loss, stats = net.aux_heads["pr"](encoded, data["text"], data["text_lengths"])
    log_probs = net.aux_heads["pr"].infer(encoded).detach().double().numpy()
    first = ctc_by_enumeration(log_probs[0], (1, 2)) / 2
    second = ctc_by_enumeration(log_probs[1][:4], (2,)) / 1
    # the third utterance has no words: it adds nothing and counts in the denominator
    assert loss.item() == pytest.approx((first + second) / 3, rel=1e-5)
    assert stats["skipped"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("frames", "units", "usable"),
    [(2, [1, 2], True), (1, [1, 2], False), (2, [1, 1], False), (3, [1, 1], True), (9, [], False)],
)
def test_ctc_takes_part_when_t_is_at_least_u_plus_r(frames, units, usable):
    targets = torch.tensor([units + [-1] * (3 - len(units))])
    result = CTCHead.usable(torch.tensor([frames]), targets, torch.tensor([len(units)]))
    assert result.tolist() == [usable]


def test_a_batch_without_any_words_has_zero_ctc_loss_and_zero_gradient():
    net, data = model(), batch()
    data["text_lengths"] = torch.zeros(3, dtype=torch.long)
    loss, _, _ = net(**data)
    loss.backward()
    assert net.aux_heads["pr"].linear.weight.grad.abs().max() == 0
    assert net.emotion_head.weight.grad.abs().max() > 0


def test_eq1_adds_lambda_times_the_auxiliary_loss():
    data = batch()
    for weight in (0.0, 0.1, 1.0):
        loss, stats, size = model(weight)(**data)
        expected = stats["loss_er"] + weight * stats["loss_pr"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert size.item() == 3


def test_the_emotion_loss_is_the_cross_entropy_of_one_linear_layer_on_the_mean():
    net, data = model(), batch()
    _, stats, _ = net(**data)
    weight = net.emotion_head.weight.detach().numpy()
    bias = net.emotion_head.bias.detach().numpy()
    losses = []
    for row, length, label in zip(
        data["speech"].numpy(), data["speech_lengths"], data["emotion"].flatten(), strict=True
    ):
        logits = weight @ row[:length].mean(0) + bias
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    assert stats["loss_er"].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_score_does_not_depend_on_batch_mates():
    net, data = model().eval(), batch()
    together = net.infer(data["speech"], data["speech_lengths"])
    for row, length in enumerate(data["speech_lengths"].tolist()):
        alone = net.infer(data["speech"][row : row + 1, :length], torch.tensor([length]))
        assert torch.allclose(alone["emotion_logp"][0], together["emotion_logp"][row], atol=1e-6)
        assert torch.allclose(alone["aux"]["pr"][0], together["aux"]["pr"][row, :length], atol=1e-6)


def test_both_heads_learn_what_there_is_to_learn():
    """Four utterances whose frames show units and emotion: trained, they are read without error."""
    torch.manual_seed(0)
    targets = [[1, 2], [2, 2], [2, 1, 1], [1]]
    speech = 0.1 * torch.randn(4, 12, 3)
    for row, (units, bias) in enumerate(zip(targets, (-1.0, -0.3, 0.3, 1.0), strict=True)):
        speech[row, :, 2] += bias  # the emotion
        for position, unit in enumerate(units):
            speech[row, 3 * position + 1 : 3 * position + 3, unit - 1] += 1.0
    net = model()
    data = {
        "speech": speech,
        "speech_lengths": torch.tensor([12, 12, 12, 12]),
        "emotion": torch.arange(4)[:, None],
        "text": torch.tensor([t + [-1] * (3 - len(t)) for t in targets]),
        "text_lengths": torch.tensor([len(t) for t in targets]),
    }
    learn(net, data, lr=0.1, steps=300)
    result = net.eval().infer(speech, data["speech_lengths"])
    assert result["emotion_logp"].argmax(-1).tolist() == [0, 1, 2, 3]
    decoded = [greedy_ctc(best, UNITS) for best in result["aux"]["pr"].argmax(-1).tolist()]
    assert decoded == [[UNITS[unit] for unit in target] for target in targets]


def test_wa_and_ua_are_taken_over_the_whole_epoch_and_not_averaged_over_batches():
    net, data = model(), batch()
    net.begin_epoch(1)
    with torch.no_grad():
        net.emotion_head.weight.zero_()
        net.emotion_head.bias.copy_(torch.tensor([1.0, 0, 0, 0]))  # everything is angry
    data["emotion"] = torch.tensor([[0], [0], [1]])
    net(**data)
    data["emotion"] = torch.tensor([[2], [1], [0]])
    net(**data)
    # 3 of 6 right; recalls: angry 3/3, happy 0/2, sad 0/1, neutral absent
    assert wa_ua(net.counts) == pytest.approx((0.5, 1 / 3))
    net.begin_epoch(2)
    assert net.counts.sum() == 0


def test_bf16_is_for_training_and_inference_stays_in_float32():
    net = model().eval()
    net.amp_dtype = torch.bfloat16
    net.encoder = torch.nn.Identity()
    seen = []

    class Probe(IdentityEncoder):
        def forward(self, xs_pad, ilens, prev_states=None):
            seen.append((xs_pad @ torch.eye(3)).dtype)
            return xs_pad, ilens, None

    net.encoder, data = Probe(3), batch()
    net(**data)
    net.infer(data["speech"], data["speech_lengths"])
    assert seen == [torch.bfloat16, torch.float32]


def test_balanced_weights_make_every_class_worth_the_same_in_training():
    # n = 10 20 30 40 of 100 utterances, C = 4: N / (C n_c) = 2.5 1.25 0.8333 0.625
    weights = torch.tensor([2.5, 1.25, 2.5 / 3, 0.625])
    net = model(class_weighting="balanced", class_counts=[10, 20, 30, 40])
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    emotion = torch.tensor([0, 3, 1])
    log_probs = logits.log_softmax(dim=1)
    expected = -(weights[emotion] * log_probs[range(3), emotion]).sum() / 3
    assert net.train()._cross_entropy(logits, emotion).item() == pytest.approx(expected.item())
    plain = -log_probs[range(3), emotion].mean()
    assert net.eval()._cross_entropy(logits, emotion).item() == pytest.approx(plain.item())
    assert model().train()._cross_entropy(logits, emotion).item() == pytest.approx(plain.item())


def test_label_smoothing_moves_its_share_to_all_classes():
    net = model(label_smoothing=0.2)
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5]])
    log_probs = logits.log_softmax(dim=1)[0]
    target = torch.tensor([0.85, 0.05, 0.05, 0.05])  # 0.8 + 0.2 / 4, and 0.2 / 4 each
    expected = -(target * log_probs).sum()
    loss = net.train()._cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(expected.item())


def test_class_balanced_weights_are_those_of_effective_numbers():
    # beta 1/2, n = 1 2 1 2: (1 - 1/2) / (1 - 1/2^n) = 1 2/3 1 2/3, and 4 in sum
    net = model(class_weighting="effective_number", beta=0.5, class_counts=[1, 2, 1, 2])
    assert net.class_weights.tolist() == pytest.approx([1.2, 0.8, 1.2, 0.8])
    alike = model(class_weighting="effective_number", beta=0.0, class_counts=[1, 2, 3, 4])
    assert alike.class_weights.tolist() == [1, 1, 1, 1]


def test_focal_loss_is_that_of_the_hand_worked_example():
    # p = (1/2, 1/2, 0, 0) and gamma 2: (1 - 1/2)^2 log 2; gamma 0 is plain
    logits = torch.tensor([[0.0, 0.0, -99.0, -99.0]])
    for gamma, factor in ((2.0, 0.25), (1.0, 0.5), (0.0, 1.0)):
        net = model(focal_gamma=gamma)
        loss = net.train()._cross_entropy(logits, torch.tensor([1])).item()
        assert loss == pytest.approx(factor * np.log(2))
        assert net.eval()._cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(
            np.log(2)
        )


def test_raters_who_agree_are_a_label_and_others_share_the_cross_entropy():
    options = {"class_weighting": "balanced", "class_counts": [1, 2, 3, 4], "focal_gamma": 1.5}
    net = model(label_smoothing=0.1, **options).train()
    logits, emotion = torch.randn(3, 4), torch.tensor([0, 3, -1])
    hard = net._cross_entropy(logits, emotion)
    votes = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # the others: their labels
    assert net._cross_entropy(logits, emotion, votes).item() == pytest.approx(hard.item())
    shares = torch.tensor([[0.5, 0.25, 0.25, 0], [0.0, 0, 0, 1], [0.2, 0.3, 0.5, 0]])
    expected = torch.nn.functional.cross_entropy(logits, shares).item()
    assert model().train()._cross_entropy(logits, emotion, shares).item() == pytest.approx(expected)


def test_dropout_is_drawn_before_the_emotion_head_while_training_only():
    net = model(dropout=0.5)
    seen = []
    net.emotion_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    speech, lengths = torch.randn(64, 9, 3), torch.full((64,), 9)
    for mode in (True, False):
        net.train(mode)
        units = {
            "text": torch.ones(64, 1, dtype=torch.long),
            "text_lengths": torch.ones(64, dtype=torch.long),
        }
        net(speech, lengths, torch.zeros(64, 1, dtype=torch.long), **units)
    dropped = (seen[0] == 0).float().mean().item()
    assert 0.3 < dropped < 0.7 and not (seen[1] == 0).any()
    kept = seen[0] != 0
    assert torch.allclose(seen[0][kept], 2 * seen[1][kept])


@pytest.mark.parametrize(
    "options",
    [
        {"class_weighting": "heavy"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"dropout": 1.0},
        {"beta": 1.0},
        {"focal_gamma": -1.0},
    ],
)
def test_unfit_loss_options_are_refused(options):
    with pytest.raises(UserError, match=f"model_conf.{next(iter(options))}: "):
        model(**options)
