"""Classes are found in files of ser/models, without being registered."""

import re
import sys

import pytest
import torch

import ser.models
from ser.models.base import AbsFrontend
from ser.models.heads import AuxHead, CTCHead, LabelHead
from ser.models.pooling import AbsPooling, MeanPooling, SelfAttentionPooling
from ser.models.registry import find_classes
from tests.support import ROOT


@pytest.mark.parametrize(
    ("parent", "suffix", "expected"),
    [
        (AbsPooling, "Pooling", {"mean": MeanPooling, "self_attention": SelfAttentionPooling}),
        (AuxHead, "Head", {"ctc": CTCHead, "label": LabelHead}),
    ],
)
def test_a_class_is_called_like_itself_in_the_yaml(parent, suffix, expected):
    assert find_classes(parent, suffix).items() >= expected.items()
    assert {"hf", "feats", "grey"} <= find_classes(AbsFrontend, "Frontend").keys()


def test_the_pooling_that_contributing_shows_is_found_in_a_file_of_its_own(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    name, code = re.search(r"```python\n# ser/models/(\w+)\.py\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(ser.models, "__path__", [*ser.models.__path__, str(tmp_path)])
    try:
        pooling = find_classes.__wrapped__(AbsPooling, "Pooling")["max"](2)
    finally:
        sys.modules.pop(f"ser.models.{name}", None)
    frames = torch.tensor([[[1.0, -5.0], [0.0, -3.0], [9.0, 9.0]]])
    assert pooling(frames, torch.tensor([2])).tolist() == [[1.0, -3.0]]
