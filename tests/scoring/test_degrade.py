"""Worse recordings: each condition does what its formula says."""

import numpy as np
import pytest
from scipy.signal import welch

from ser.errors import UserError
from ser.scoring import degrade
from ser.scoring.degrade import CLEAN, CONDITIONS, KINDS, Degrader, coded, power

RATE = 16000
SPEAKERS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}


def speech(seconds: float = 4.0, seed: int = 3) -> np.ndarray:
    """Broadband noise at half scale that pauses for the last quarter."""
    wave = 0.1 * np.random.RandomState(seed).standard_normal(int(seconds * RATE))
    wave[int(0.75 * len(wave)) :] = 0
    return wave


@pytest.fixture
def worsen():
    return Degrader(SPEAKERS, lambda utt: speech(1.0, seed=ord(utt[0])))


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return welch(wave, RATE, nperseg=1024)


def level(wave: np.ndarray, low: float, high: float) -> float:
    """Mean power density from ``low`` to ``high`` Hz in dB."""
    freqs, density = spectrum(wave)
    return 10 * np.log10(density[(freqs >= low) & (freqs < high)].mean() + 1e-30)


@pytest.mark.parametrize("snr", [20, 0])
@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
def test_noise_is_as_many_db_below_the_speech_as_it_says_pauses_not_counted(worsen, kind, snr):
    clean = speech()
    noise = worsen(f"{kind}:{snr}", "a1", clean) - clean
    spoken = np.square(clean[: int(0.75 * len(clean))]).mean()
    assert 10 * np.log10(spoken / np.square(noise).mean()) == pytest.approx(snr, abs=0.05)


def test_pink_noise_falls_by_3_db_an_octave_and_white_noise_does_not(worsen):
    clean = speech(30.0)
    for kind, slope in (("pink", -3.0), ("white", 0.0)):
        noise = worsen(f"{kind}:0", "a1", clean) - clean
        fall = level(noise, 3200, 4800) - level(noise, 400, 600)  # three octaves
        assert fall / 3 == pytest.approx(slope, abs=0.2)


def test_babble_is_of_other_speakers_only():
    read = []
    worsen = Degrader(SPEAKERS, lambda utt: read.append(utt) or speech(1.0))
    worsen("babble:0", "a1", speech())
    assert sorted(read) == ["b1", "c1"]
    with pytest.raises(UserError, match="one speaker"):
        Degrader({"a1": "a", "a2": "a"}, lambda utt: speech())("babble:0", "a1", speech())


def test_reverberation_decays_by_60_db_in_t60_and_is_as_strong_as_the_direct_sound():
    for t60 in (0.3, 1.2):
        h = degrade.impulse_response(t60, np.random.RandomState(1))
        assert np.square(h[1:]).sum() == pytest.approx(h[0] ** 2)
        left = 10 * np.log10(np.cumsum(np.square(h[:0:-1]))[::-1])  # Schroeder's integral
        first, last = (np.argmax(left < db) for db in (-5, -25))
        assert 3 * (last - first) / RATE == pytest.approx(t60, rel=0.1)


def test_the_level_of_the_speech_stays_in_reverberation(worsen):
    assert power(worsen("reverb:0.6", "a1", speech())) == pytest.approx(power(speech()))


def test_the_telephone_passes_300_to_3400_hz_and_nothing_else(worsen):
    clean, heard = speech(30.0), worsen("telephone", "a1", speech(30.0))
    for low, high in ((500, 1000), (1000, 3000)):
        assert level(heard, low, high) == pytest.approx(level(clean, low, high), abs=0.5)
    for low, high in ((20, 120), (3800, 4000), (4100, 8000)):
        assert level(heard, low, high) < level(clean, low, high) - 20


def test_mu_law_gives_the_values_of_g711():
    # 1000 of 32768 is 250 in 14 bits, with the bias 283: segment 256 to 511, steps of 16, the
    # second one, whose middle is 256 + 16 + 8; (280 - 33) * 4 = 988
    wave = np.array([1000, -1000, 0]) / 32768
    heard = coded(wave, 8000, format="AU", subtype="ULAW")
    assert (heard * 32768).tolist() == [988, -988, 0]


def test_gain_and_clipping_follow_their_definitions(worsen):
    clean = speech()
    assert worsen("gain:-20", "a1", clean) == pytest.approx(clean / 10)
    heard = worsen("clip:10", "a1", clean)
    assert (heard != clean).mean() == pytest.approx(0.10, abs=0.001)
    assert np.abs(heard).max() == pytest.approx(np.abs(clean[heard != clean]).min(), rel=1e-3)


def test_every_condition_keeps_the_length_and_changes_the_speech_the_same_way_twice(worsen):
    clean = speech(1.1)
    for condition in CONDITIONS:
        first, again = (worsen(condition, "a1", clean) for _ in range(2))
        assert len(first) == len(clean)
        assert np.array_equal(first, again)
        assert np.abs(first - clean).max() > 1e-3, condition
    assert np.array_equal(worsen(CLEAN, "a1", clean), clean)
    other = worsen("white:0", "a2", clean)
    assert not np.array_equal(other, worsen("white:0", "a1", clean))
    assert {condition.partition(":")[0] for condition in CONDITIONS} == set(KINDS) - {CLEAN}


def test_codecs_return_the_speech_with_less_of_it_at_lower_rates(worsen):
    time = np.arange(2 * RATE) / RATE
    clean = 0.3 * np.sin(2 * np.pi * 440 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    for kind in ("mp3", "opus"):
        high, low = (worsen(f"{kind}:{rate}", "a1", clean) for rate in (128, 10))
        errors = [
            np.abs(np.abs(np.fft.rfft(w)) - np.abs(np.fft.rfft(clean))).sum() for w in (high, low)
        ]
        assert errors[0] < errors[1]
        assert power(high) == pytest.approx(power(clean), rel=0.1)


@pytest.mark.parametrize("condition", ["hum:3", "white", "white:loud", "reverb:99", "telephone:3"])
def test_a_condition_that_there_is_not_is_refused_with_those_that_there_are(worsen, condition):
    with pytest.raises(UserError, match=f"--conditions {condition}: expected clean, white:-20 to"):
        worsen(condition, "a1", speech())
