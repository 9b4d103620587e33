"""Heads first, then everything: the phases of a fold, and how each begins with the one before."""

import math
from pathlib import Path

import pytest
import torch

from ser.errors import UserError
from ser.lang.units import BLANK, read_untagged, tag_stripper
from ser.models.heads import CTCHead
from ser.stage import read_marker
from ser.training.experiment import read_fold_run
from ser.training.heads_first import HeadsFirst, warm_start
from tests.support.training import (
    interrupted_at,
    read_json,
    same,
    train,
    weights,
    write_system,
)

CONF = {"untagged_epoch": 2, "max_epoch": 2, "lr": 1.0e-2, "batch_size": 4}


@pytest.fixture(scope="module")
def corpus(corpus) -> Path:
    write_system(corpus / "phases.yaml", heads_first_conf=CONF, keep_nbest_models=[3])
    return corpus


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp")
    train(corpus, exp_dir, config=corpus / "phases.yaml")
    return exp_dir


class Heads(torch.nn.Module):
    """As much of a model as a warm start looks at: one CTC head."""

    def __init__(self, units: list[str]):
        super().__init__()
        self.aux_heads = torch.nn.ModuleDict({"pr": CTCHead(2, 2, units)})
        self.aux_units = {"pr": units}


def test_a_ctc_head_starts_with_every_unit_equally_probable():
    head = CTCHead(3, 3, [BLANK, "S", "V"])
    assert head.linear.weight.abs().sum() == head.linear.bias.abs().sum() == 0


def test_a_tagged_head_begins_with_each_untagged_row_under_every_tag():
    # two emotions; the untagged head knows S by weight (1, 2) and bias 3, V by (4, 5) and 6
    untagged = {
        "aux_heads.pr.linear.weight": torch.tensor([[7.0, 8.0], [1.0, 2.0], [4.0, 5.0]]),
        "aux_heads.pr.linear.bias": torch.tensor([9.0, 3.0, 6.0]),
    }
    model = Heads([BLANK, "S0", "S1", "V0", "V1"])
    warm_start(model, untagged, tag_stripper("tagged_class"))
    linear = model.aux_heads["pr"].linear
    expected = [[7.0, 8.0], [1.0, 2.0], [1.0, 2.0], [4.0, 5.0], [4.0, 5.0]]
    assert linear.weight.tolist() == expected
    halved = math.log(2.0)
    expected = torch.tensor([9.0, 3.0 - halved, 3.0 - halved, 6.0 - halved, 6.0 - halved])
    assert torch.allclose(linear.bias, expected)
    frames = torch.randn(5, 2)
    before = torch.nn.functional.linear(frames, *untagged.values()).softmax(-1)  # (5, 3)
    after = linear(frames).softmax(-1)  # (5, 5)
    assert torch.allclose(before[:, 1], after[:, 1] + after[:, 2], atol=1e-6)
    assert torch.allclose(after[:, 3], after[:, 4])


def test_equal_heads_are_taken_over_as_they_are():
    first, second = Heads([BLANK, "S0", "S1"]), Heads([BLANK, "S0", "S1"])
    torch.nn.init.normal_(first.aux_heads["pr"].linear.bias)
    warm_start(second, first.state_dict())
    assert same(first.state_dict(), second.state_dict())


def test_units_without_their_tags_keep_the_order_of_the_inventory():
    units = [BLANK, "AH0_0", "AH0_1", "B_0", "B_1"]
    names, index = read_untagged(units, tag_stripper("tagged_phone"))
    assert names == [BLANK, "AH0", "B"]
    assert index == {BLANK: 0, "AH0_0": 1, "AH0_1": 1, "B_0": 2, "B_1": 2}


def test_the_heads_learn_on_a_frozen_encoder_and_the_fold_goes_on_from_there(corpus, trained):
    fold = trained / "Ses01F"
    untagged, heads = (weights(fold / name, "latest.pth") for name in ("untagged", "heads"))
    encoder = [key for key in heads if key.startswith("frontend.encoder.")]
    assert all(torch.equal(untagged[key], heads[key]) for key in encoder)
    assert not torch.equal(untagged["emotion_head.weight"], heads["emotion_head.weight"])
    bias = "aux_heads.pr.linear.bias"
    assert (len(untagged[bias]), len(heads[bias])) == (7, 25)
    first = weights(fold, "1epoch.pth")
    assert not all(torch.equal(first[key], heads[key]) for key in encoder)
    # one epoch of Adam at 1e-3 moves a weight by some thousandths, from where the heads left it
    steps = (first["emotion_head.weight"] - heads["emotion_head.weight"]).abs().max()
    assert 0 < steps < 0.01
    assert list((corpus / "dump/tones/layers").iterdir())  # what the encoder made was kept


def test_a_fold_notes_its_phases_and_their_time(trained):
    fold = trained / "Ses01F"
    run = read_fold_run(fold)
    assert run["phases_before"] == {"untagged": 2, "heads": 2}
    seconds = [
        entry[split]["seconds"]
        for name in ("untagged", "heads", ".")
        for entry in read_json(fold / name / "history.json")
        for split in ("train", "valid")
    ]
    assert run["train_seconds"] == pytest.approx(sum(seconds), abs=0.2)
    log = (trained / "log/stage4.Ses01F.log").read_text()
    for phase in ("Ses01F untagged epoch 2/2", "Ses01F heads epoch 1/2", "Ses01F epoch 1/3"):
        assert phase in log


def test_what_phases_have_left_is_discarded_with_the_fold_s_other_checkpoints(corpus, tmp_path):
    conf = {"heads_first_conf": CONF, "keep_checkpoints": False, "max_epoch": 1}
    train(corpus, tmp_path, config=write_system(corpus / "tidy.yaml", **conf))
    fold = tmp_path / "Ses01F"
    assert not list(fold.glob("*/*.pth"))
    name = read_fold_run(fold)["inference_model"]
    model = weights(fold, name)
    (fold / name).resolve().unlink()  # which needs its phases again
    train(corpus, tmp_path, config=corpus / "tidy.yaml")
    assert same(weights(fold, name), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "untagged epoch 1/2 valid",
        "untagged epoch 2/2 train",
        "heads epoch 1/2 train",
        "heads epoch 2/2 valid",
        "Ses01F epoch 2/3 train",
    ],
)
def test_a_fold_killed_in_any_phase_resumes_to_the_same_model(
    corpus, trained, tmp_path, processes, moment
):
    interrupted_at(processes, corpus, tmp_path, moment, "phases.yaml")
    assert read_marker(tmp_path / "Ses01F") is None
    train(corpus, tmp_path, config=corpus / "phases.yaml")
    for name in ("untagged/latest.pth", "heads/latest.pth", "3epoch.pth", "valid.UA.best.pth"):
        assert same(weights(tmp_path / "Ses01F", name), weights(trained / "Ses01F", name)), name


def test_a_system_without_units_has_heads_to_train_first_as_well(corpus, tmp_path):
    conf = {"heads_first_conf": {"max_epoch": 1}, "aux_conf": {}, "max_epoch": 1}
    train(corpus, tmp_path, config=write_system(corpus / "single.yaml", **conf))
    assert read_fold_run(tmp_path / "Ses01F")["phases_before"] == {"heads": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads_first_conf": {"epochs": 3}}, "has no option 'epochs'; it takes: untagged_epoch"),
        ({"heads_first_conf": {"max_epoch": -1}}, "max_epoch: found -1; expected a whole number"),
        ({"heads_first_conf": {"max_epoch": 1.5}}, "max_epoch: found 1.5; expected a whole"),
        ({"heads_first_conf": {"batch_size": 0}}, "batch_size: found 0; expected a whole number"),
        ({"heads_first_conf": {"lr": 0.0}}, "lr: found 0.0; expected a number above 0"),
        ({"heads_first_conf": {"lr": "fast"}}, "heads_first_conf.lr: found 'fast'; expected a n"),
        (
            {"heads_first_conf": {"untagged_epoch": 1}, "aux_conf": {}},
            "no CTC head over tagged units here .token_type tagged_class.; set it to 0",
        ),
        (
            {"heads_first_conf": {"max_epoch": 1}, "frontend": "feats", "feats_type": "fbank"},
            "frontend feats has no pretrained encoder",
        ),
        ({"untagged": True}, "untagged is set by run.sh for each fold; remove the line"),
    ],
)
def test_what_cannot_be_done_first_is_refused_before_anything_is_trained(
    corpus, tmp_path, changes, message
):
    if changes.get("frontend") == "feats":
        changes = {**changes, "frontend_conf": {"input_size": 80}}
    with pytest.raises(UserError, match=message):
        train(corpus, tmp_path / "exp", config=write_system(corpus / "refused.yaml", **changes))
    assert not (tmp_path / "exp").exists()


def test_the_section_left_empty_changes_nothing():
    assert HeadsFirst() == HeadsFirst(0, 0, 1.0e-3, 16)
