"""The bench on a GPU: its formula by hand, its time, and the whole path on a CPU without ESPnet."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from bench import gpu, gpu_step
from bench.flops import training_flops
from bench.recipe import make_model, read_system
from bench.system import MODEL
from tests.support import ROOT

# sitecustomize.py, which every Python process runs first: hides all installed distributions but
# torch and transformers, with what these require.
ALONE = """
import re, sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

wanted, due = set(), ["torch", "transformers"]
while due:
    name = plain(re.match("[A-Za-z0-9_.-]+", due.pop())[0])
    if name not in wanted:
        wanted.add(name)
        try:
            due += [r for r in requires(name) or () if "extra ==" not in r]
        except PackageNotFoundError:
            pass
found = packages_distributions()
hidden = {m for m, owners in found.items() if not wanted & set(map(plain, owners))} - {"ser"}
assert {"espnet", "espnet2", "kaldiio", "scipy", "sklearn", "soundfile", "typeguard"} <= hidden

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def test_the_operations_of_a_training_step_are_those_of_a_count_by_hand():
    shape = make_model(read_system(), {**MODEL, **gpu_step.TINY}).frontend.encoder.config
    # 1 s: 3200 1600 800 400 200 100 50 frames of 16 channels; 32 values, 64 inside, 2 layers
    convolutions = 2 * 16 * (3200 * 10 + 16 * 3 * (1600 + 800 + 400 + 200) + 16 * 2 * (100 + 50))
    linear = 2 * 2 * 50 * (4 * 32 * 32 + 2 * 32 * 64)
    attention = 2 * (2 * 50 * 50 * 32 + 2 * 50 * 50 * 32)
    entry = 2 * 50 * 16 * 32 + 2 * 50 * 16 * 32 * 32 / 4
    whole = convolutions + linear + attention + entry
    assert training_flops(1.0, shape) == pytest.approx(3 * whole)
    frozen = training_flops(1.0, shape, ("convolutions",))
    assert frozen == pytest.approx(3 * whole - 2 * convolutions)


def test_mfu_is_useful_operations_a_second_over_the_peak():
    # 2 s of audio of 300 TFLOP in 4 s, then in 1 s, then in 2 s: 150 TFLOP/s, of 600
    rounds = [{"audio": 2.0, "flops": 3e14, "seconds": s} for s in (4.0, 1.0, 2.0)]
    assert gpu.mfu({"rounds": rounds}, 6e14) == "25.0%"
    assert gpu.rate({"rounds": rounds}) == 1.0
    assert gpu.mfu({"rounds": rounds}, None) == "not known"


def test_only_cards_whose_peak_is_published_have_one():
    assert gpu.peak_of("NVIDIA H200") == 989e12
    assert gpu.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert gpu.peak_of("NVIDIA L4") == 121e12
    for card in ("Tesla V100-SXM2-32GB", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L40"):
        assert gpu.peak_of(card) is None


class Clock:
    """A clock that only what it runs moves on."""

    def __init__(self, takes):
        self.now, self.takes, self.limits = 100.0, takes, {}

    def __call__(self):
        return self.now

    def run(self, name, limit):
        self.limits[name] = limit
        self.now += min(limit, self.takes[name])
        return {"error": "slow"} if self.takes[name] > limit else {"rounds": [ROUND]}


ROUND = {"audio": 1.0, "seconds": 1.0, "flops": 1.0}


def test_each_variant_has_an_equal_share_of_what_is_left():
    clock = Clock({"a": 10.0, "b": 1000.0, "c": 30.0})
    found = gpu.run_variants(["a", "b", "c"], clock.run, 300.0, least=20.0, clock=clock)
    # 300 / 3; (300 - 10) / 2; what b has left of them
    assert clock.limits == {"a": 100.0, "b": 145.0, "c": 145.0}
    assert [("error" in each) for each in found.values()] == [False, True, False]
    assert clock.now - 100.0 <= 300.0


def test_no_variant_begins_without_time_and_all_end_in_time():
    slow = dict.fromkeys("abcd", 1000.0)
    clock = Clock(slow)
    found = gpu.run_variants([*slow], clock.run, 50.0, least=20.0, clock=clock)
    assert clock.limits == {"a": 20.0, "b": 20.0}  # 10 s are left for c
    assert [each["error"][:4] for each in found.values()] == ["slow", "slow", "no t", "no t"]
    assert clock.now - 100.0 <= 50.0


def test_a_variant_that_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(sys, "executable", "sleep")
    begin = time.monotonic()
    monkeypatch.setattr(subprocess, "Popen", sleeping(subprocess.Popen))
    assert gpu.in_process([], 0.2) == {"error": "no round was done in the 0 s that it had"}
    assert time.monotonic() - begin < 60


def sleeping(start):
    return lambda command, **options: start(["sleep", "600"], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench.gpu"])
    assert gpu.main() == 1
    told = capsys.readouterr()
    assert "sees no CUDA device on this machine; nothing measured" in told.err
    assert not told.out


def test_a_card_of_another_age_is_measured_and_what_failed_is_said():
    state = {
        **{"card": "Tesla T4", "memory": 16e9, "machine": "m", "versions": "v", "commit": "c"},
        **{"quick": False, "peak": None, "products": 2e12},
        "variants": {
            "4 x 4 utterances": {
                "rounds": [{"audio": 200.0, "seconds": 2.0, "flops": 1e12}],
                **{"memory": 5e9, "waits": 0.5, "where": ["masks.py:7"]},
            },
            "288 s": {"error": "CUDA out of memory"},
        },
    }
    text = gpu.report(state)
    # 5.6 of 7.0 hours at 100 s/s; 1e12 / 2 of 2e12 a second
    assert "| 100.0 (100.0 to 100.0, 1 rounds) | not known | 25.0% | 5.0 | 201." in text
    assert "| 0.5 (masks.py:7) | (none) |" in text
    assert "| 288 s | not measured: CUDA out of memory |" in text
    assert "Tesla T4, 16 GB" in text and "| 194 |" in text


@pytest.mark.slow
def test_the_whole_path_runs_with_nothing_but_torch_and_transformers(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(ALONE)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    options = {"cwd": ROOT, "capture_output": True, "text": True, "env": env}
    espnet = subprocess.run([sys.executable, "-c", "import espnet2"], **options)
    assert "ModuleNotFoundError: No module named 'espnet2'" in espnet.stderr
    output = tmp_path / "gpu.md"
    names = ("4 x 4 utterances", "72 s, convolutions frozen", "16 utterances at random")
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--quick"]
    done = subprocess.run([*command, "--only", *names, "--output", str(output)], **options)
    assert done.returncode == 0 and "not measured" not in done.stdout, done.stdout + done.stderr
    found = json.loads(output.with_suffix(".json").read_text())["variants"]
    assert list(found) == list(names)
    assert all("rounds" in each and each["rounds"][0]["flops"] > 0 for each in found.values()), (
        found
    )
    assert output.read_text().strip() in done.stdout
    assert "These numbers measure nothing" in done.stdout
