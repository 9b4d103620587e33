"""S10: the ladder against NumPy, and what utterances without labels teach."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.heads import IGNORE_ID
from ser.models.ladder import Denoiser, LadderEncoder
from ser.training.folds import fold_arguments
from ser.training.task import SERPreprocessor
from tests.support.systems import CONF, arguments, system
from tests.support.tiny import EMOTIONS
from tests.support.training import make_corpus


def ladder(noise: float = 0.0, **options) -> LadderEncoder:
    """A small one away from its start, where much of it is zero."""
    torch.manual_seed(0)
    net = LadderEncoder(5, sizes=(4, 3), noise=noise, **options).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net


def vectors(count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 5, generator=generator, dtype=torch.float64)


ONES = torch.ones(7, dtype=torch.long)


def bn(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-5)


def test_the_loss_of_the_ladder_against_numpy():
    net = ladder(denoising=(1.0, 0.5, 0.25)).train()
    hidden, _, _ = net(vectors(), ONES)
    p = {name: value.detach().numpy() for name, value in net.named_parameters()}
    h = [bn(vectors()[:, 0].numpy())]
    z, m, s = [h[0]], [0.0], [1.0]
    for number in range(2):
        a = h[-1] @ p[f"up.{number}.weight"].T
        m.append(a.mean(axis=0)), s.append(np.sqrt(a.var(axis=0) + 1e-5))
        z.append(bn(a))
        h.append(np.maximum(p[f"gamma.{number}"] * (z[-1] + p[f"beta.{number}"]), 0))
    signal, loss = h[-1], 0.0
    for number, factor in ((2, 0.25), (1, 0.5), (0, 1.0)):
        u, a = bn(signal), p[f"denoisers.{number}.a"]
        mu = a[0] / (1 + np.exp(-a[1] * u - a[2])) + a[3] * u + a[4]
        nu = a[5] / (1 + np.exp(-a[6] * u - a[7])) + a[8] * u + a[9]
        estimate = (z[number] - mu) * nu + mu  # no noise: z~ is z
        loss += factor * ((z[number] - (estimate - m[number]) / s[number]) ** 2).mean()
        if number:
            signal = estimate @ p[f"down.{number - 1}.weight"].T
    np.testing.assert_allclose(hidden[:, 0].detach(), h[-1], atol=1e-9)
    np.testing.assert_allclose(net.own_loss.detach(), loss, rtol=1e-9)


def test_the_denoisers_gradient_is_that_of_its_formula():
    denoiser = Denoiser(3).double()
    torch.nn.init.normal_(denoiser.a)
    inputs = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(denoiser, inputs)


def test_a_denoiser_begins_by_doing_without_what_it_sees():
    noisy, signal = torch.randn(2, 3), torch.randn(2, 3)
    assert not Denoiser(3)(noisy, signal).any()
    assert Denoiser(3).a.sum() == 6.0  # a_2 and a_7 are 1


def test_every_parameter_learns_from_utterances_without_labels():
    net = ladder(noise=0.3).train()
    net(vectors(), ONES)
    net.own_loss.backward()
    without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


def test_noise_is_added_in_training_alone():
    net = ladder(noise=0.3).train()
    first, second = (net(vectors(), ONES)[0] for _ in range(2))
    assert not torch.equal(first, second)
    net.eval()
    first, second = (net(vectors(), ONES)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_values_far_from_those_of_training_are_clipped():
    net = ladder(clip=2.0).eval()
    far = torch.full((1, 1, 5), 1e9, dtype=torch.float64)
    near = torch.full((1, 1, 5), 2.0, dtype=torch.float64) * (1 + 1e-5) ** 0.5
    one = torch.ones(1, dtype=torch.long)
    assert torch.allclose(net(far, one)[0], net(near, one)[0])


@pytest.mark.parametrize("labelled", [0, 3])
def test_an_utterance_without_a_label_adds_nothing_to_the_cross_entropy(labelled):
    net = system("s10_ladder").train()
    net.encoder.noise = 0.0
    speech, lengths = torch.randn(6, 1, 6373), torch.ones(6, dtype=torch.long)
    emotion = torch.full((6, 1), IGNORE_ID)
    emotion[:labelled, 0] = torch.arange(labelled)
    loss, stats, _ = net(speech, lengths, emotion)
    logits = net.emotion_head(net.encode(speech, lengths).pooled)
    rows = range(labelled)
    expected = -logits.log_softmax(dim=-1)[rows, rows].sum() / 6
    assert torch.allclose(stats["loss_er"], expected, atol=1e-5)
    assert torch.allclose(loss, stats["loss_er"] + stats["loss_encoder"])
    assert net.counts.sum() == labelled
    assert loss.isfinite()


def test_labels_are_withheld_from_whole_speakers_of_the_training_set_alone(tmp_path):
    corpus = make_corpus(tmp_path)
    folds = corpus / "dump/tones/folds/strict"
    args = arguments(CONF / "train_s10_ladder.yaml", "--label_share", "0.5")
    args = fold_arguments(args, corpus / "dump/tones", folds, "Ses01F", tmp_path / "Ses01F")
    train = (folds / "Ses01F/train").read_text().split()
    hidden = args.unlabelled.split()
    speakers = {utt.split("_")[0] for utt in hidden}
    assert len(speakers) == 1  # of two
    assert hidden == [utt for utt in train if utt.split("_")[0] in speakers]
    assert sum(map(int, args.class_counts.split())) == len(train) - len(hidden)
    preprocess = SERPreprocessor(True, EMOTIONS, None, waveform=False, unlabelled=set(hidden))
    assert preprocess(hidden[0], {"emotion": "sad"})["emotion"].tolist() == [IGNORE_ID]
    assert preprocess("another", {"emotion": "sad"})["emotion"].tolist() == [2]


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            "s10_ladder",
            ["--label_share", "1.0"],
            "1.0 with encoder ladder; ladder needs",
        ),
        ("s10_ladder", ["--label_share", "0.0"], "label_share: found 0.0"),
        ("s7_conv_attention", ["--label_share", "0.5"], "0.5 with encoder conv_recurrent"),
        ("s10_ladder", ["--encoder_conf", "sizes=[9]"], "found 3 factors; expected 2"),
    ],
)
def test_what_does_not_fit_is_named(config, options, message):
    with pytest.raises(UserError, match=message):
        arguments(CONF / f"train_{config}.yaml", *options)
