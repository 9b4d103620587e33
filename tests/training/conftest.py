"""What tests of training share: a corpus after stage 3, a trained experiment, quick processes."""

from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from ser.data.prepare import prepare_dump
from tests.support.training import forked_processes, make_corpus, train


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """In a directory with a comma and a blank in its name; modules add files of their own."""
    root = make_corpus(tmp_path_factory.mktemp("a, b"))
    prepare_dump(root / "data/tones", root / "dump/tones", "tagged_class", "fbank", "strict", nj=1)
    return root


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory) -> Path:
    """The fold Ses01F of ``tests.support.training.SYSTEM``; nobody changes it."""
    exp_dir = tmp_path_factory.mktemp("exp")
    train(corpus, exp_dir)
    return exp_dir


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    return forked_processes()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what trains, of the tests in this folder."""
    if "corpus" in getattr(item, "fixturenames", ()):
        item.add_marker("slow")
