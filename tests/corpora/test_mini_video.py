"""Videos in IEMOCAP's layout: the face of whoever speaks is found at its time, on its side."""

import importlib
import random

import numpy as np
import pytest

from ser.corpora import mini_video, prepare
from ser.data.tables import read_table
from ser.data.video import parse, read_faces
from ser.errors import UserError
from tests.support import fabricate

DRAWN = ("Ses01F_impro01", "Ses01M_impro05a")


def smile(line: str) -> float:
    """How much lower the middle of the mouth is than its corners, in pixels."""
    dark = read_faces(line, 10)[-1].mean(axis=2)[55:90] < 90  # below the eyes
    rows = np.arange(len(dark))[:, None] * dark

    def height(columns):
        return rows[:, columns].sum() / max(dark[:, columns].sum(), 1)

    return height(slice(44, 52)) - (height(slice(29, 33)) + height(slice(63, 67))) / 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("av", reason="PyAV: not installed: requirements-apps.txt")
    home = tmp_path_factory.mktemp("videos")
    root = fabricate.write_iemocap(home / "IEMOCAP")
    session = root / "Session1"
    (session / "dialog/avi/DivX").mkdir(parents=True)
    for dialog in DRAWN:
        labels = session / f"dialog/EmoEvaluation/{dialog}.txt"
        target = session / f"dialog/avi/DivX/{dialog}.avi"
        mini_video.draw_dialog(labels, target, random.Random(1))
    egs = fabricate.write_corpus_yaml(home / "egs")
    prepare.prepare("iemocap", home / "data", root, egs=egs)
    return home / "data/iemocap/all"


def test_the_mouth_in_the_box_of_an_utterance_follows_its_emotion(prepared):
    videos, emotions = read_table(prepared / "utt2video"), read_table(prepared / "utt2emo")
    assert {parse(line)[2].rpartition("/")[2][:-4] for line in videos.values()} == set(DRAWN)
    smiles = {"happy": [], "sad": []}
    for utt, line in videos.items():
        if emotions[utt] in smiles:
            smiles[emotions[utt]].append(smile(line))
    assert len(smiles["happy"]) == len(smiles["sad"]) == 4
    assert min(smiles["happy"]) > 2 > -2 > max(smiles["sad"])


def test_who_wears_the_markers_is_left_and_the_listener_looks_neutral(prepared):
    for utt, line in read_table(prepared / "utt2video").items():
        _, (left, _, right, _), path = parse(line)
        own, dialog = utt.rpartition("_")[2][0], path.rpartition("/")[2]
        assert (right < 360) == (own == dialog[5]) and (left > 360) == (own != dialog[5])
        boxes = (mini_video.LEFT_FACE, mini_video.RIGHT_FACE)
        start, other = line.split()[0], boxes[right < 360]
        assert abs(smile(f"{start} {other} {path}")) < 1.5


def test_without_pyav_the_maker_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match="PyAV is not installed here.*requirements-apps.txt"):
        mini_video._write(tmp_path / "a.avi", [])
