"""ser/predict/windows.py: windows over a recording, and what they say put together again."""

import itertools
import math

import numpy as np
import pytest

from ser.predict.windows import (
    Segment,
    Unit,
    UnitTrack,
    Window,
    cut,
    cut_auto,
    cut_whole,
    decide,
    merge,
)

RATE = 16000


def blocks(total: int, size: int):
    samples = np.arange(total, dtype=np.int16)
    return [samples[start : start + size] for start in range(0, total, size)]


def spans(windows):
    return [(w.start, w.start + len(w.samples), *w.owns) for w in windows]


def test_overlapping_windows_speak_for_their_middle_and_follow_on_one_another():
    # 8 samples every 4: after 0-8 and 4-12 there are 3 left of 15, more than half a shift
    assert spans(cut(blocks(15, 4), size=8, shift=4)) == [
        (0, 8, 0, 6),
        (4, 12, 6, 10),
        (8, 15, 10, 15),
    ]


def test_a_rest_of_less_than_half_a_shift_goes_to_the_last_window():
    assert spans(cut(blocks(13, 4), size=8, shift=4)) == [(0, 8, 0, 6), (4, 13, 6, 13)]
    assert spans(cut(blocks(14, 4), size=8, shift=4))[-1] == (8, 14, 10, 14)


def test_windows_without_overlap_own_themselves():
    assert spans(cut(blocks(25, 7), size=10, shift=10)) == [
        (0, 10, 0, 10),
        (10, 20, 10, 20),
        (20, 25, 20, 25),
    ]
    assert spans(cut(blocks(24, 7), size=10, shift=10))[-1] == (10, 24, 10, 24)


@pytest.mark.parametrize("total", [1, 7, 8, 9, 30, 31, 32, 33, 100])
def test_windows_hold_the_samples_of_their_place_whatever_the_blocks(total):
    expected = list(cut(blocks(total, total), size=8, shift=4))
    for size in (1, 3, 11):
        found = list(cut(blocks(total, size), size=8, shift=4))
        assert spans(found) == spans(expected)
        for window in found:
            stop = window.start + len(window.samples)
            np.testing.assert_array_equal(window.samples, np.arange(window.start, stop))
    edges = [w.owns for w in expected]
    assert edges[0][0] == 0 and edges[-1][1] == total
    assert all(one[1] == two[0] for one, two in itertools.pairwise(edges))


def test_no_samples_give_no_window():
    assert list(cut([], 8, 4)) == list(cut_auto([])) == list(cut_whole([], 8)) == []


def test_up_to_fifteen_seconds_are_one_utterance_and_more_are_windows_of_six_every_three():
    whole = [np.zeros(5 * RATE, dtype=np.int16)] * 3
    assert spans(cut_auto(whole)) == [(0, 15 * RATE, 0, 15 * RATE)]
    longer = spans(cut_auto([*whole, np.zeros(1, dtype=np.int16)]))
    assert [(a / RATE, b // RATE) for a, b, *_ in longer] == [(0, 6), (3, 9), (6, 12), (9, 15)]
    assert [d / RATE for *_, d in longer[:-1]] == [4.5, 7.5, 10.5]
    assert longer[-1][-1] == 15 * RATE + 1


def test_a_long_recording_is_read_only_as_far_as_windows_need_it():
    read = []

    def source():
        for second in range(3600):
            read.append(second)
            yield np.zeros(RATE, dtype=np.int16)

    windows = cut_auto(source())
    for _ in range(10):
        window = next(windows)
    assert window.start == 27 * RATE
    assert len(read) <= 36  # it ends at 33 s; 1.5 s more show that it is not the last


def test_the_whole_of_a_recording_has_a_limit():
    assert spans(cut_whole(blocks(10, 3), limit=10)) == [(0, 10, 0, 10)]
    with pytest.raises(OverflowError):
        list(cut_whole(blocks(11, 3), limit=10))


def segment(start, end, angry):
    return Segment(start, end, {"angry": angry, "sad": 1 - angry})


def test_the_decision_is_the_mean_of_log_probabilities_weighted_by_duration():
    # 3 s at 0.8 and 1 s at 0.1: exp((3 ln .8 + ln .1) / 4) = .47567, for sad
    # exp((3 ln .2 + ln .9) / 4) = .29129; .47567 / (.47567 + .29129) = .62020
    said = decide([segment(0, 3, 0.8), segment(3, 4, 0.1)])
    angry = math.exp((3 * math.log(0.8) + math.log(0.1)) / 4)
    sad = math.exp((3 * math.log(0.2) + math.log(0.9)) / 4)
    assert said["angry"] == pytest.approx(angry / (angry + sad), abs=1e-12)
    assert said["angry"] == pytest.approx(0.6202, abs=1e-4)
    assert sum(said.values()) == pytest.approx(1)


def test_the_decision_over_one_segment_is_that_segment():
    only = segment(0, 2, 0.123456789)
    assert decide([only]) == only.probabilities


def test_a_probability_of_zero_is_no_defect():
    assert decide([segment(0, 1, 0.0), segment(1, 2, 0.5)])["angry"] == pytest.approx(0, abs=1e-6)


def test_neighbours_of_one_emotion_are_merged_with_the_mean_over_time():
    parts = [segment(0, 3, 0.9), segment(3, 4, 0.5), segment(4, 5, 0.2), segment(6, 7, 0.1)]
    merged = merge(parts)
    assert [(s.start, s.end, s.emotion) for s in merged] == [
        (0, 4, "angry"),
        (4, 5, "sad"),
        (6, 7, "sad"),  # what lies between was not heard
    ]
    assert merged[0].probabilities["angry"] == pytest.approx((3 * 0.9 + 0.5) / 4)


def posteriors(*best):
    return np.eye(4, dtype=np.float32)[list(best)]


def window(start, length, owns):
    return Window(start, np.zeros(length, dtype=np.int16), owns)


def test_units_last_as_long_as_they_are_the_most_probable_without_a_break():
    track = UnitTrack(["<blank>", "V", "S", "N"])
    # 8 frames of 0.5 s each, from the lengths alone
    track.add(window(0, 4 * RATE, (0, 4 * RATE)), posteriors(0, 1, 1, 0, 1, 2, 2, 0))
    assert track.units == [Unit(0.5, 1.5, "V"), Unit(2.0, 2.5, "V"), Unit(2.5, 3.5, "S")]


def test_a_unit_across_a_seam_is_one_and_overlaps_are_heard_once():
    track = UnitTrack(["<blank>", "V", "S", "N"])
    # 1-s frames; the first window owns 0-3 and the second 3-6: its own middle decides
    track.add(window(0, 4 * RATE, (0, 3 * RATE)), posteriors(0, 1, 1, 2))
    track.add(window(2 * RATE, 4 * RATE, (3 * RATE, 6 * RATE)), posteriors(3, 1, 0, 2))
    assert track.units == [Unit(1.0, 4.0, "V"), Unit(5.0, 6.0, "S")]


def test_a_unit_does_not_reach_over_what_was_not_heard():
    track = UnitTrack(["<blank>", "V", "S", "N"])
    track.add(window(0, 2 * RATE, (0, 2 * RATE)), posteriors(0, 1))
    track.add(window(4 * RATE, 2 * RATE, (4 * RATE, 6 * RATE)), posteriors(1, 0))
    assert track.units == [Unit(1.0, 2.0, "V"), Unit(4.0, 5.0, "V")]
