"""Logs of the folds that one process trains in turn."""

import logging

from ser.cluster.logged import fold_log


def test_each_fold_has_its_own_messages_in_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    for fold in ("one", "two"):
        with fold_log(tmp_path / fold, ["train"]):
            logging.basicConfig()  # as ESPnet does at the start of every training
            logging.warning(f"message of {fold}")
    assert "message of one" in (tmp_path / "one").read_text()
    second = (tmp_path / "two").read_text()
    assert "message of two" in second
    assert "Logging error" not in second
