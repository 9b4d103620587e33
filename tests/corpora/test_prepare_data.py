import subprocess
import sys

import pytest

from ser.corpora import ANY_CORPUS, prepare
from ser.errors import UserError
from ser.provenance import EGS
from tests.support import ROOT

GOOD = """
name: toy
reader: iemocap
language: en
emotions: [angry, sad]
label_map: {ang: angry, sad: sad}
counts: {total: 2}
"""


def _command_line(*options):
    return subprocess.run(
        [sys.executable, "-m", "ser", "data", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def _spec(egs, text):
    (egs / "toy").mkdir(parents=True)
    (egs / "toy/corpus.yaml").write_text(text, encoding="utf-8")
    return prepare.load_spec("toy", egs)


def test_an_unknown_corpus_lists_those_that_exist(tmp_path):
    result = _command_line("--corpus", "nope", "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: --corpus nope: ")
    assert all(name in result.stderr for name in ("emodb", "iemocap", "mini"))
    assert "Traceback" not in result.stderr and not (tmp_path / "data").exists()


@pytest.mark.parametrize("options", [(), ("--corpus", "mini", "--allow-partial", "maybe")])
def test_usage_errors_end_with_status_2(options):
    assert _command_line(*options).returncode == 2


def test_every_corpus_of_egs_has_what_it_needs():
    for path in sorted(EGS.glob("*/corpus.yaml")):
        spec = prepare.load_spec(path.parent.name)
        assert spec.name == path.parent.name
        assert set(spec.emotions) <= set(spec.label_map.values())
        if spec.reader in ANY_CORPUS:  # somebody's own: nothing more is asked of it
            continue
        assert spec.licence and (path.parent / "README.md").is_file()
        for counts in (spec.editions or {"": spec.counts}).values():
            for emotions in spec.emotion_sets.values():
                assert set(emotions) <= set(counts.emotion)


def test_a_good_corpus_yaml_is_loaded(tmp_path):
    assert _spec(tmp_path, GOOD).emotions == ["angry", "sad"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("language: en\n", "", " missing keys: language"),
        (
            "reader: iemocap",
            "reader: kaldi",
            "3: reader: found 'kaldi'; expected one of iemocap",
        ),
        ("counts: {total: 2}", "", "1: counts: missing keys: counts"),
        (
            "counts: {total: 2}",
            "editions: {small: {total: 2, speaker: {a: {angry: 2, sad: 1}}}}",
            "7: editions.small.total: is 2, but editions.small.speaker sums to 3",
        ),
        ("emotions: [angry", "emotions: [[angry", "6: not valid YAML"),
        (GOOD, "", " expected `key: value` lines, found none"),
        (GOOD, "- a list", " expected `key: value` lines, found a list"),
    ],
)
def test_a_spoilt_corpus_yaml_is_named(tmp_path, old, new, message):
    with pytest.raises(UserError, match=f"toy/corpus.yaml:{message}"):
        _spec(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "emodb", "--data-dir=da ta"], "--corpus-dir: needed for emodb"),
        (["--corpus=mini", "--text=no such.txt"], "--text no such.txt: no such file"),
    ],
)
def test_the_command_explains_what_it_lacks(tmp_path, options, message):
    command = [sys.executable, "-m", "ser", "data", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("corpus", sorted(p.parent.name for p in EGS.glob("*/run.sh")))
def test_each_corpus_folder_calls_run_sh_from_anywhere(corpus, tmp_path):
    # A copy of the folder beside a stand-in for run.sh that shows how it was called.
    stand_in = tmp_path / "re cipe/run.sh"
    launcher = tmp_path / f"re cipe/egs/{corpus}/run.sh"
    launcher.parent.mkdir(parents=True)
    launcher.write_bytes((ROOT / f"egs/{corpus}/run.sh").read_bytes())
    stand_in.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\n")
    for path in (launcher, stand_in):
        path.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(launcher)
    for script in (launcher, link):
        shown = subprocess.run([script, "--tag", "a b"], capture_output=True, text=True, cwd="/")
        assert shown.stdout == f"--corpus|{corpus}|--tag|a b|"
