"""Auxiliary heads: arithmetic against NumPy and gradients worked by hand, and what is refused."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from ser.data.labels import Targets
from ser.errors import UserError
from ser.models.encoders import IdentityEncoder
from ser.models.heads import (
    CTCHead,
    Encoded,
    LabelHead,
    aux_heads,
    label_tables,
    read_heads,
)
from ser.models.model import SERModel
from ser.training.task import SERPreprocessor, SERTask
from tests.support.heads import batch, learn, model
from tests.support.tiny import EMOTIONS

GENDERS = ["f", "m"]
SPEAKERS = ["Ses01F", "Ses01M", "Ses02F"]


def label_head(inventory=("a", "b", "c"), **options) -> LabelHead:
    torch.manual_seed(0)
    return LabelHead(5, 2, inventory, **options)


def pooled(values: torch.Tensor) -> Encoded:
    """A batch of which nothing but the pooled vectors may be read."""
    return Encoded(torch.full((len(values), 1, 5), float("nan")), torch.ones(len(values)), values)


def test_the_label_loss_is_the_cross_entropy_of_one_linear_layer_on_the_pooled_vector():
    head, vectors = label_head(), torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    loss, stats = head(pooled(vectors), torch.tensor([[2], [0]]))
    logits = vectors.numpy() @ head.linear.weight.detach().numpy().T
    logits = logits + head.linear.bias.detach().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log([probs[0, 2], probs[1, 0]])
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    right = probs.argmax(axis=1) == [2, 0]
    assert stats["correct"].item() == pytest.approx(right.mean())
    assert stats["skipped"].item() == 0


def test_an_unknown_value_adds_no_loss_and_counts_in_the_batch_size():
    head, vectors = label_head(), torch.tensor([[1.0, -2.0], [0.5, 3.0], [9.0, 9.0], [7.0, 1.0]])
    loss, stats = head(pooled(vectors), torch.tensor([[2], [0], [-1], [-1]]))
    known, _ = head(pooled(vectors[:2]), torch.tensor([[2], [0]]))
    assert loss.item() == pytest.approx(known.item() * 2 / 4)
    assert stats["skipped"].item() == 0.5


def test_a_batch_without_known_values_has_zero_loss_and_zero_gradient():
    head = label_head()
    loss, stats = head(pooled(torch.ones(2, 2)), torch.tensor([[-1], [-1]]))
    loss.backward()
    assert (loss.item(), stats["skipped"].item(), stats["correct"].item()) == (0, 1, 0)
    assert head.linear.weight.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        # p = (0.5, 0.5) for two classes: dL/dlogits = (-0.5, 0.5); W = [[1, 2], [3, -1]]
        (None, [1.0, -1.5]),  # W^T (-0.5, 0.5)
        (1.0, [-1.0, 1.5]),
        (0.2, [-0.2, 0.3]),
        (0.0, [0.0, 0.0]),
    ],
)
def test_gradient_reversal_turns_the_gradient_below_the_head_round(factor, expected):
    head = label_head(("a", "b"), gradient_reversal=factor)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        head.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    vector = torch.tensor([[1.0, 1.0]], requires_grad=True)  # logits (3, 3)
    loss, _ = head(pooled(vector), torch.tensor([[0]]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert vector.grad[0].tolist() == pytest.approx(expected)
    # the head itself always learns its task: dL/dW = dL/dlogits x^T
    assert head.linear.weight.grad.tolist() == [[-0.5, -0.5], [0.5, 0.5]]


def three_heads() -> SERModel:
    return model(
        {
            "gender": LabelHead(3, 3, GENDERS),
            "pr": CTCHead(3, 3, ["<blank>", "V0", "N0"]),
            "speaker": LabelHead(3, 3, SPEAKERS, gradient_reversal=1.0),
        },
        {"gender": 0.5, "pr": 0.1, "speaker": 0.0},
    )


def test_heads_of_all_kinds_are_summed_by_their_weights():
    net = three_heads()
    loss, stats, _ = net(**batch())
    expected = stats["loss_er"] + 0.5 * stats["loss_gender"] + 0.1 * stats["loss_pr"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert stats["loss_speaker"] > 0
    assert stats["skipped_speaker"].item() == pytest.approx(1 / 3)
    assert {"skipped_pr", "skipped_gender", "correct_gender"} <= stats.keys()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())  # weight 0 as well


def test_the_units_come_from_the_ctc_head_wherever_it_stands():
    net = three_heads()
    assert list(net.aux_units) == ["pr"]
    assert net.aux_labels == {"gender": GENDERS, "speaker": SPEAKERS}
    data = batch()
    said = net.eval().infer(data["speech"], data["speech_lengths"])["aux"]
    shapes = {name: tuple(values.shape) for name, values in said.items()}
    assert shapes == {"gender": (3, 2), "pr": (3, 5, 3), "speaker": (3, 3)}


def test_padding_changes_nothing_a_label_head_says():
    net, data = three_heads().eval(), batch()
    said = net.infer(data["speech"], data["speech_lengths"])["aux"]["gender"]
    loss = net(**data)[1]["loss_gender"]
    data["speech"] = torch.cat([data["speech"], torch.full((3, 7, 3), 9.0)], dim=1)
    data["speech"][1, 4:] = -5.0
    assert torch.equal(net.infer(data["speech"], data["speech_lengths"])["aux"]["gender"], said)
    assert torch.equal(net(**data)[1]["loss_gender"], loss)


def test_a_model_without_auxiliary_heads_is_the_emotion_head_alone():
    loss, stats, _ = model({}, {})(**batch())
    assert loss.item() == stats["loss_er"].item()


def sixteen() -> dict[str, torch.Tensor]:
    """Emotion in the first and second feature, gender in the third."""
    torch.manual_seed(3)
    emotion, gender = torch.arange(16) % 4, torch.arange(16) // 4 % 2
    speech = 0.1 * torch.randn(16, 6, 3)
    speech[:, :, 0] += (emotion % 2)[:, None]
    speech[:, :, 1] += (emotion // 2)[:, None]
    speech[:, :, 2] += gender[:, None]
    lengths = torch.full((16,), 6)
    data = {"speech": speech, "speech_lengths": lengths, "emotion": emotion[:, None]}
    return {**data, "gender_label": gender[:, None]}


def test_a_label_head_learns_what_there_is_to_learn():
    net, data = model({"gender": LabelHead(3, 3, GENDERS)}, {"gender": 1.0}), sixteen()
    learn(net, data, lr=0.05, steps=200)
    said = net.eval().infer(data["speech"], data["speech_lengths"])
    assert said["aux"]["gender"].argmax(-1).tolist() == data["gender_label"][:, 0].tolist()
    assert said["emotion_logp"].argmax(-1).tolist() == data["emotion"][:, 0].tolist()


class Mixing(IdentityEncoder):
    """A trained linear layer, which can keep or drop what a head asks for."""

    def __init__(self, size: int):
        super().__init__(size)
        self.linear = torch.nn.Linear(size, size)
        torch.nn.init.eye_(self.linear.weight)

    def forward(self, xs_pad, ilens, prev_states=None):
        return self.linear(xs_pad), ilens, None


def test_a_reversed_head_makes_the_layers_below_forget_its_task_and_keep_the_emotion():
    apart = {}
    for factor in (None, 1.0):
        net = model({"gender": LabelHead(3, 3, GENDERS, gradient_reversal=factor)}, {"gender": 1.0})
        net.encoder, data = Mixing(3), sixteen()
        learn(net, data, lr=0.05, steps=100)
        vectors = net.encode(data["speech"], data["speech_lengths"]).pooled
        f, m = (vectors[data["gender_label"][:, 0] == g].mean(dim=0) for g in (0, 1))
        apart[factor] = (f - m).norm() / vectors.std()
        logp = net.eval().infer(data["speech"], data["speech_lengths"])["emotion_logp"]
        assert logp.argmax(-1).tolist() == data["emotion"][:, 0].tolist()
    assert apart[1.0] < 0.5 * apart[None]


AUX_CONF = {
    "gender": {"type": "label", "weight": 0.5},
    "pr": {"type": "ctc", "weight": 0.1},
    "speaker": {"type": "label", "table": "utt2spk", "weight": 0, "gradient_reversal": 1},
}


def test_the_table_of_a_head_is_utt2_and_its_name_unless_it_is_given():
    expected = {"gender": Targets("utt2gender"), "speaker": Targets("utt2spk")}
    assert label_tables(AUX_CONF) == expected
    heads = read_heads(AUX_CONF)
    assert [head.entry for head in heads.values()] == ["gender_label", "text", "speaker_label"]
    assert heads["speaker"].options == {"gradient_reversal": 1}


def test_reading_the_heads_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read_heads(AUX_CONF)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("speech", {"type": "label", "weight": 1}, "aux_conf.speech: not a name .* rename it"),
        ("emotion", {"type": "label", "weight": 1}, "aux_conf.emotion: not a name"),
        ("text", {"type": "ctc", "weight": 1}, "aux_conf.text: not a name"),
        ("er", {"type": "label", "weight": 1}, "aux_conf.er: not a name"),  # loss_er is taken
        ("keys", {"type": "label", "weight": 1}, "aux_conf.keys: not a name"),
        ("a.b", {"type": "label", "weight": 1}, "aux_conf.a.b: not a name"),
        (7, {"type": "label", "weight": 1}, "aux_conf.7: not a name"),
        ("gender", 0.5, "aux_conf.gender: found 0.5; expected a mapping such as"),
        ("gender", {"weight": 1}, "aux_conf.gender.type: None; choose one of ctc, label"),
        ("gender", {"type": ["label"], "weight": 1}, "gender.type: .*; choose one of ctc, label"),
        ("gender", {"type": "label"}, "aux_conf.gender.weight: None; give a number of 0 or more"),
        ("gender", {"type": "label", "weight": -0.1}, "aux_conf.gender.weight: -0.1; give"),
        ("gender", {"type": "label", "weight": True}, "aux_conf.gender.weight: True; give"),
        ("gender", {"type": "label", "weight": float("nan")}, "aux_conf.gender.weight: nan; give"),
        ("gender", {"type": "label", "weight": 1, "table": 3}, "aux_conf.gender.table: 3; give"),
        (
            "gender",
            {"type": "label", "weight": 1, "reversal": 1},
            "aux_conf.gender.reversal: a head of type label has no such option; it takes: "
            "type, weight, table, gradient_reversal",
        ),
        (
            "pr",
            {"type": "ctc", "weight": 1, "table": "utt2spk"},
            "aux_conf.pr.table: a head of type ctc has no such option; it takes: "
            "type, weight, per_unit$",
        ),
        ("pr", {"type": "ctc", "weight": 1, "per_unit": 0}, "aux_conf.pr.per_unit: 0; give true"),
        (
            "gender",
            {"type": "label", "weight": 1, "gradient_reversal": -1},
            "aux_conf.gender.gradient_reversal: -1; give a number of 0 or more",
        ),
        (
            "gender",
            {"type": "label", "weight": 1, "gradient_reversal": True},
            "aux_conf.gender.gradient_reversal: True; give",
        ),
    ],
)
def test_an_unfit_entry_is_refused_with_its_key_and_the_cure(name, entry, message):
    with pytest.raises(UserError, match=message):
        read_heads({name: entry})


def test_a_second_head_of_units_is_refused():
    entry = {"type": "ctc", "weight": 0.1}
    with pytest.raises(UserError, match=r"aux_conf.pr.type: ctc would learn the same units as asr"):
        read_heads({"asr": entry, "gender": AUX_CONF["gender"], "pr": entry})


def test_without_per_unit_a_ctc_loss_is_the_sum_over_the_units():
    """Two frames, uniform over V = 3, target (1, 2): one path, -log p = 2 log 3; one unit 1: paths
    1b, b1 and 11, -log p = 2 log 3 - log 3 = log 3."""
    encoded = Encoded(torch.zeros(2, 2, 5), torch.tensor([2, 2]), torch.zeros(2, 5))
    target, lengths = torch.tensor([[1, 2], [1, -1]]), torch.tensor([2, 1])
    for per_unit, expected in ((True, (2 / 2 + 1) / 2), (False, (2 + 1) / 2)):
        head = CTCHead(5, 5, ["<blank>", "a", "b"], per_unit=per_unit)
        torch.nn.init.zeros_(head.linear.bias)
        loss, _ = head(encoded, target, lengths)
        assert loss.item() == pytest.approx(expected * np.log(3))


def test_labels_go_into_the_batch_as_they_are_and_unknown_ones_as_ignored():
    """A name that ends in _lengths is reserved by ESPnet, so it is tried as a head's name."""
    conf = {"gender": AUX_CONF["gender"], "x_lengths": {"type": "label", "weight": 1}}
    known = {"gender_label": {"u1": [1]}, "x_lengths_label": {"u1": [0], "u2": [2]}}
    targets = {entry: (index, np.array([-1])) for entry, index in known.items()}
    preprocess = SERPreprocessor(True, EMOTIONS, None, waveform=False, targets=targets)
    samples = [
        (utt_id, preprocess(utt_id, {"speech": np.zeros((size, 3), np.float32), "emotion": "sad"}))
        for utt_id, size in (("u1", 4), ("u2", 6))
    ]
    collate = SERTask.build_collate_fn(Namespace(aux_conf=conf), train=True)
    _, data = collate(samples)
    assert data["gender_label"].tolist() == [[1], [-1]]
    assert data["x_lengths_label"].tolist() == [[0], [2]]
    assert set(data) == {"speech", "speech_lengths", "emotion", "gender_label", "x_lengths_label"}


def test_raters_go_into_the_batches_of_training_but_for_whom_the_label_is_withheld(tmp_path):
    (tmp_path / "raters").write_text("u1 sad\nu2 sad sad,angry\n")
    args = Namespace(aux_conf={}, aux_labels={}, units=None, feats_type="fbank", unlabelled="u1")
    args.emotions, args.soft_targets = " ".join(EMOTIONS), str(tmp_path / "raters")
    preprocess = SERTask.build_preprocess_fn(args, train=True)
    samples = {utt: preprocess(utt, {"emotion": "sad"}) for utt in ("u1", "u2", "u3")}
    raters = {
        utt: dict(zip(EMOTIONS, s["raters"].tolist(), strict=True)) for utt, s in samples.items()
    }
    assert (raters["u2"]["sad"], raters["u2"]["angry"]) == (0.75, 0.25)
    assert not any(raters["u1"].values()) and not any(raters["u3"].values())
    told = SERTask.build_preprocess_fn(args, train=False)("u2", {"emotion": "sad"})
    assert list(told) == ["emotion"]


class DeepLabelHead(LabelHead):
    """What CONTRIBUTING.md shows."""

    def __init__(self, frame_size, pooled_size, inventory, *, hidden: int = 64):
        super().__init__(frame_size, pooled_size, inventory)
        self.linear = torch.nn.Sequential(
            torch.nn.Linear(pooled_size, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, len(inventory)),
        )


def test_a_new_kind_of_head_is_one_class(monkeypatch):
    monkeypatch.setitem(aux_heads(), "deep_label", DeepLabelHead)
    args = SERTask.get_parser().parse_args(["--feats_type", "fbank"])
    args.frontend, args.frontend_conf = "feats", {"input_size": 3}
    args.emotions, args.aux_labels = " ".join(EMOTIONS), {"gender": {"values": GENDERS}}
    args.aux_conf = {"gender": {"type": "deep_label", "weight": 1.0, "hidden": 8}}
    net = SERTask.build_model(args)
    assert net.aux_heads["gender"].linear[0].out_features == 8
    loss, stats, _ = net(**batch())
    assert torch.isfinite(stats["loss_gender"])
    assert net.aux_labels == {"gender": GENDERS}
