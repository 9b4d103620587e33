"""The bench: its workload, its floor by hand, and its report; and that its systems train."""

import argparse
import json
import sys

import numpy as np
import pytest
import yaml

from bench import data, recipe, run, worker
from bench.flops import forward_flops, training_flops
from bench.system import System, make_batch
from bench.workload import (
    batches_by_seconds,
    durations,
    experiment_seconds,
    padding_share,
    random_batches,
    representative,
    sorted_batches,
)


def test_durations_are_like_those_of_iemocap():
    seconds = durations()
    assert len(seconds) == 5531
    assert seconds.mean() == pytest.approx(4.55, abs=0.01)
    assert seconds.sum() / 3600 == pytest.approx(7.0, abs=0.02)
    assert seconds.min() >= 0.6 and 25 < seconds.max() <= 34.1
    assert np.array_equal(seconds, durations())


def test_padding_is_what_batches_hold_beyond_their_utterances():
    assert padding_share([(1.0, 3.0), (2.0, 2.0)]) == pytest.approx(2 / 10)
    seconds = durations()
    assert padding_share(sorted_batches(seconds, 4)) < 0.005
    assert padding_share(random_batches(seconds, 4)) > 0.3


def test_every_utterance_is_in_one_batch():
    seconds = np.arange(11.0)
    for batches in (sorted_batches(seconds, 4), random_batches(seconds, 4)):
        assert [len(batch) for batch in batches] == [4, 4]  # a remainder is left out
        assert len(set(np.concatenate(batches))) == 8


def test_chosen_batches_are_like_the_epoch():
    epoch = random_batches(durations(), 4)
    chosen = representative(epoch, 2, seed=1)
    for measure in (sum, lambda b: len(b) * max(b)):
        whole = np.mean([measure(b) for b in epoch])
        assert np.mean([measure(b) for b in chosen]) == pytest.approx(whole, rel=0.1)


def test_flops_are_those_of_a_count_by_hand():
    parts = forward_flops(1.0)
    # frames after each convolution: 3200 1600 800 400 200 100 50
    convolutions = 2 * 512 * (3200 * 10 + 512 * 3 * (1600 + 800 + 400 + 200) + 512 * 2 * 150)
    assert parts["convolutions"] == pytest.approx(convolutions)
    assert parts["linear layers"] == pytest.approx(12 * 2 * 50 * 7_077_888)
    assert parts["attention"] == pytest.approx(12 * 4 * 50 * 50 * 768)
    assert training_flops(1.0) == pytest.approx(3 * sum(parts.values()))
    assert forward_flops(2.0)["attention"] == 4 * parts["attention"]


def test_a_batch_holds_noise_up_to_each_length_and_padding_behind():
    batch = make_batch((0.5, 0.25), "cpu")
    assert batch["speech"].shape == (2, 8000)
    assert batch["speech_lengths"].tolist() == [8000, 4000]
    assert batch["speech"][1, 4000:].abs().max() == 0 < batch["speech"][1, :4000].abs().min()
    assert batch["text_lengths"].tolist() == [5, 2]
    assert (batch["text"][1] == -1).tolist() == [False, False, True, True, True]


STATE = {
    "settings": {"threads": 2, "commit": "abc"},
    "systems": {
        "recipe": {
            "name": "this recipe, S1",
            "notes": "how",
            "padding": 0.001,
            "versions": {"torch": "2.0"},
        },
        "cai-2": {
            "name": "Cai",
            "notes": "so",
            "padding": 0.25,
            "versions": {"torch": "2.1", "s3prl": "0.4"},
        },
        "s3prl": {"error": "not installed (make bench-peers)"},
    },
    "rounds": {
        "recipe": [{"audio": 100.0, "seconds": s, "memory": 3e9} for s in (10.0, 50.0, 8.0)],
        "cai-2": [{"audio": 40.0, "seconds": 10.0, "memory": 5e9}],
        "s3prl": [],
    },
    "matmul": {"float32": 1e11, "bfloat16": 1e12},
    "infer": {"latency": 0.25, "throughput": 20.0},
    "longest": {"seconds": 10.0, "memory": 6e9},
}


def test_the_report_has_medians_ratios_and_what_was_not_measured():
    text = run.report(STATE)
    assert "| this recipe, S1 | 10.00 (2.00 to 12.50, 3 rounds) |  | 3.0 GB | 0.1% | how |" in text
    assert "| torch 2.0 |" in text
    assert (
        "| Cai | 4.00 (4.00 to 4.00, 1 rounds) | 2.50 x | 5.0 GB | 25.0% | so | torch 2.1, s3"
        in (text)
    )
    assert "| s3prl | not measured: not installed (make bench-peers) |" in text
    assert "250 ms for a file of 5 s, 20.0 s of audio a second" in text
    assert "Four utterances of 34.1 s at once" in text and "6.0 GB at most" in text


def test_what_has_too_little_memory_is_said():
    failed = {"error": "out of memory"}
    text = run.report({**STATE, "longest": failed})
    assert "can be: not measured: out of memory." in text


def test_the_share_of_the_floor_is_rate_times_flops_over_the_machines():
    seconds = durations()
    flops = sum(training_flops(s) for s in seconds) / seconds.sum()
    text = run.report(STATE)
    assert f"this recipe, S1, in bfloat16, reaches {10.0 * flops / 1e12:.0%} of its rate" in text
    assert f"Cai, in float32, reaches {4.0 * flops / 1e11:.0%} of its rate" in text


def test_a_whole_experiment_is_worked_out_from_the_rate():
    speech = durations().sum()  # s; of each epoch 8 of 10 speakers are trained on, 1 is validated
    work = 10 * 100 * speech * (8 / 10 + 1 / 10 / 3)
    assert experiment_seconds(10.0) == pytest.approx(work / 10.0)
    assert f"This recipe, S1: {work / 10.0 / 86400:.0f} days." in run.report(STATE).replace(
        "this recipe, S1:", "This recipe, S1:"
    )


class Twin:
    """A worker whose rounds take no time."""

    def __init__(self, *_):
        self.stopped = False
        self.asked = []

    def ask(self, command=None):
        self.asked.append(command)
        return (
            {"audio": 5.0, "seconds": 0.1, "memory": 1e9} if command else {"name": "", "notes": ""}
        )

    def stop(self):
        self.stopped = True


class Scarce(Twin):
    """Beside the first variant the recipe has too little memory."""

    def __init__(self, name, *_):
        super().__init__()
        self.short = name == "recipe"

    def ask(self, command=None):
        short, self.short = self.short and command == "round 1", self.short and command is None
        assert command is None or command not in self.asked, "trained on the same again"
        return {"error": "out of memory"} if short else super().ask(command)


def test_a_variant_that_leaves_no_memory_costs_its_own_row_only(monkeypatch):
    monkeypatch.setattr(run, "Worker", Scarce)
    args = argparse.Namespace(threads=1, rounds=1)
    whole, rows = run.measure_means(args)
    assert rows[0]["error"] == "beside it, this recipe: out of memory"
    assert not any("error" in row for row in rows[1:]) and len(whole) == len(rows) - 1
    assert len(rows) == len(recipe.OFF) + len(recipe.FROZEN)
    monkeypatch.setattr(Scarce, "ask", lambda *_: {"error": "no memory"})
    with pytest.raises(SystemExit, match="cannot be measured: no memory"):
        run.measure_means(args)


def test_batches_by_seconds_end_with_what_exceeds_the_limit():
    seconds = np.array([4.0, 1.0, 3.0, 2.0, 2.0])
    # 1 x 1, 2 x 2, 3 x 2 = 6 > 5; then 1 x 3, 2 x 4 = 8 > 5
    assert batches_by_seconds(seconds, 5.0) == [(1.0, 2.0, 2.0), (3.0, 4.0)]
    assert batches_by_seconds(seconds[:2], 9.0) == [(1.0, 4.0)]


def test_rounds_train_on_other_utterances_and_of_one_number_on_the_same():
    epoch = random_batches(durations(), 4)
    chosen = [representative(epoch, 4, number) for number in (1, 2, 3, 1)]
    assert chosen[0] == chosen[3]
    assert len(set(chosen[0] + chosen[1] + chosen[2])) == 12


def rounds(*seconds: float) -> list[dict]:
    return [{"audio": 10.0, "seconds": s, "memory": 2e9} for s in seconds]


def test_a_switch_is_worth_the_median_of_its_pairs_with_it_over_without():
    rows = [
        {
            "name": "this recipe, S1, without dropout",
            "frozen": False,
            "rounds": rounds(5.0, 40.0, 6.0),
            "beside": rounds(2.0, 10.0, 2.0),  # slow, when all was slow
        },
        {
            "name": "this recipe, S1, all kept",
            "frozen": True,
            "rounds": rounds(1.0),
            "beside": rounds(2.0),
        },
        {"name": "bfloat16", "frozen": False, "rounds": [], "beside": [], "error": "no memory"},
    ]
    args = argparse.Namespace(threads=2, rounds=1)
    text = run.means_report(rounds(2.0, 40.0, 2.0), rows, args)
    assert "5.00 s of audio a second, the median of 3 rounds" in text
    assert "| dropout | 1.67 | 3.00 x (2.50 to 4.00) | 2.0 GB |" in text
    assert "| all kept | 10.00 | 2.00 x (2.00 to 2.00) | 2.0 GB |" in text
    assert "| bfloat16 | not measured: no memory |" in text


def test_what_a_round_keeps_is_used_when_it_is_done_again(monkeypatch):
    calls = []
    system = System(
        name="fake",
        epoch=[(0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)],
        count=4,
        step=lambda batch: calls.append(batch["speech"].shape[1]),
        update=lambda: calls.append("update"),
        accumulate=2,
        notes="",
        warm_up=True,
    )
    monkeypatch.setattr(recipe, "build", lambda device: system)
    system, steps = worker.load("recipe")
    assert calls.pop() == "update" and len(calls) == 1  # what is the same for all is over
    calls.clear()
    result = worker.perform(["round", "1"], system, steps)
    first, second = calls[:6], calls[6:]
    assert first == second and sorted(first[:2] + first[3:5]) == [1600, 3200, 4800, 6400]
    assert [first[2], first[5]] == ["update"] * 2
    assert result["audio"] == pytest.approx(2 * (0.1 + 0.2 + 0.3 + 0.4))
    assert next(steps) == 9


def test_every_switch_changes_what_it_names_and_nothing_else():
    config = yaml.safe_load(recipe.CONFIG.read_text())
    for name, changes in {**recipe.OFF, **recipe.FROZEN}.items():
        for key, value in changes.items():
            if isinstance(value, dict):
                assert {**config[key], **value} != config[key], name
            else:
                assert config.get(key) != value, name


@pytest.mark.slow
def test_a_system_that_cannot_be_imported_answers_with_one_line(monkeypatch):
    monkeypatch.setitem(worker.SYSTEMS, "recipe", "no.such.module:build")
    process = run.Worker("unknown", sys.executable, 1)
    greeting = process.ask()
    process.stop()
    assert greeting == {"error": "KeyError: 'unknown'"}


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_not_a_crash():
    process = run.Worker("unknown", sys.executable, 1)
    process.ask()
    assert "ended with status 0" in process.ask("round")["error"]


@pytest.mark.slow
def test_the_fabricated_corpus_goes_through_the_stages(tmp_path):
    data.fabricate(tmp_path, 240)
    results = {stage: data.run_stage(tmp_path, stage, 1) for stage in "123"}
    assert len((tmp_path / "data/bench/all/wav.scp").read_text().splitlines()) == 240
    assert all(result["memory"] > 1e6 for result in results.values())
    rows = [(240, stage, result) for stage, result in results.items()]
    assert "| 240 | 1 |" in data.report(rows, 1)
    assert json.dumps(results)
