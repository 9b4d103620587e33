"""Degraded recordings: noise, reverberation, telephone channel, codecs.

A condition is ``kind`` or ``kind:value``, such as ``babble:10``. Each is a function of the speech x
(N,), in [-1, 1) at 16 kHz, that returns as many samples; KINDS lists them. Random numbers are drawn
for every utterance from a seed made of its id and the kind of noise: two runs agree in every
sample, and the noise at 20 and at 10 dB is the same.

- ``white``, ``pink``, ``babble``: x + g n, where g makes 10 log10(P_x / (g^2 P_n)) the SNR in dB.
  P_x is the mean power of the frames that are not silent (at most SILENCE dB below the mean), P_n
  the mean power of all the noise. Pink noise has a power density of 1 / f; babble is the sum of
  TALKERS utterances of other speakers of the corpus, of equal power and repeated as needed.
- ``reverb``: convolution with h(t) = d(t) + g w(t) exp(-t ln(10^3) / T60), w white noise, which
  decays by 60 dB in T60 seconds (Polack 1988); g gives the reverberation the energy of the direct
  sound. The level of x is kept.
- ``telephone``: 8 kHz, Butterworth band-pass from 300 to 3400 Hz; ``mulaw`` adds 8-bit G.711
  coding.
- ``gain``: the value in dB, then rounding to 16 bits. ``clip``: percentage of clipped samples.
  ``mp3``, ``opus``: encoding and decoding at about the given kbit/s.
"""

import io
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import soundfile
import soxr

from ser.data.audio import FRAME_SAMPLES, SAMPLE_RATE
from ser.errors import UserError

CONDITIONS = (
    *(f"{kind}:{snr}" for kind in ("white", "pink", "babble") for snr in (20, 10, 0)),
    *("reverb:0.3", "reverb:0.6", "reverb:1.2", "telephone", "mulaw", "gain:-20", "gain:-40"),
    *("clip:1", "clip:10", "mp3:32", "mp3:16", "opus:16", "opus:6"),
)
CLEAN = "clean"
SILENCE = 30.0  # dB
TALKERS = 6
TELEPHONE_RATE, TELEPHONE_BAND = 8000, (300.0, 3400.0)  # Hz
Read = Callable[[str], np.ndarray]


class Degrader:
    """Apply conditions to the utterances of a corpus.

    Args:
        speaker: The speaker of each utterance.
        read: Returns the samples (N,) of an utterance, for babble.
    """

    def __init__(self, speaker: Mapping[str, str], read: Read):
        self.speaker, self.read = speaker, read

    def __call__(self, condition: str, utt_id: str, speech: np.ndarray) -> np.ndarray:
        """Apply ``condition`` to ``speech`` (N,) in [-1, 1); the result (N,) may exceed it."""
        kind, value = parse(condition)
        random = np.random.RandomState(zlib.crc32(f"{kind} {utt_id}".encode()))
        if kind == "babble":
            noise = self.babble(utt_id, len(speech), random)
            return add_noise(speech, noise, value)
        return KINDS[kind][0](speech, value, random)

    def babble(self, utt_id: str, count: int, random: np.random.RandomState) -> np.ndarray:
        """``count`` samples of babble by speakers other than that of ``utt_id``."""
        others = sorted(u for u, s in self.speaker.items() if s != self.speaker[utt_id])
        if not others:
            raise UserError("--conditions babble: the corpus has one speaker; leave it out")
        total = np.zeros(count)
        for other in random.choice(others, min(TALKERS, len(others)), replace=False):
            voice = self.read(other)
            start = random.randint(len(voice))
            total += np.resize(np.roll(voice, -start), count) / np.sqrt(power(voice))
        return total


def parse(condition: str) -> tuple[str, float]:
    """Parse the kind and value of a condition; UserError if it is invalid."""
    kind, _, text = condition.partition(":")
    low, high = KINDS[kind][1] if kind in KINDS else (1, 0)
    try:
        value = float(text or "nan" if low < high else "0")
        if kind not in KINDS or (low < high and not low <= value <= high) or (text and low == high):
            raise ValueError
    except ValueError:
        forms = [k if a == b else f"{k}:{a:g} to {k}:{b:g}" for k, (_, (a, b)) in KINDS.items()]
        raise UserError(f"--conditions {condition}: expected {', '.join(forms)}") from None
    return kind, value


def spelled(condition: str) -> str:
    """The one spelling of a condition: white:5 for white:05 and white:5.0."""
    kind, value = parse(condition)
    low, high = KINDS[kind][1]
    return f"{kind}:{value:g}" if low < high else kind


def power(speech: np.ndarray) -> float:
    """Mean power of the frames (25 ms) that are not silent."""
    whole = max(1, len(speech) // FRAME_SAMPLES) * FRAME_SAMPLES
    frames = np.square(np.pad(speech, (0, max(0, whole - len(speech))))[:whole])
    frames = frames.reshape(-1, FRAME_SAMPLES).mean(axis=1)
    heard = frames[frames >= frames.mean() * 10 ** (-SILENCE / 10)]
    return float(heard.mean()) + 1e-20


def add_noise(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add ``noise`` of the same length to ``speech`` at ``snr`` dB."""
    scale = np.sqrt(power(speech) / (np.square(noise).mean() * 10 ** (snr / 10)))
    return speech + scale * noise


def _noise(count: int, random: np.random.RandomState, exponent: float) -> np.ndarray:
    """``count`` samples whose power density falls as f^-exponent."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    return np.fft.irfft(spectrum, count)


def impulse_response(t60: float, random: np.random.RandomState) -> np.ndarray:
    """h of ``reverb``, (T60 in samples,); its first sample is the direct sound."""
    time = np.arange(round(t60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = random.standard_normal(len(time)) * np.exp(-time * np.log(1000) / t60)
    tail[0] = 0
    response = tail / np.sqrt(np.square(tail).sum())
    response[0] = 1
    return response


def _reverb(speech: np.ndarray, t60: float, random: np.random.RandomState) -> np.ndarray:
    from scipy.signal import fftconvolve

    wet = fftconvolve(speech, impulse_response(t60, random))[: len(speech)]
    return wet * np.sqrt(power(speech) / power(wet))


def _narrow(speech: np.ndarray) -> np.ndarray:
    """Telephone band of ``speech`` at TELEPHONE_RATE."""
    from scipy.signal import butter, sosfilt

    low = soxr.resample(speech, SAMPLE_RATE, TELEPHONE_RATE, quality="VHQ")
    filters = butter(6, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    return sosfilt(filters, low)


def _wide(narrow: np.ndarray, like: np.ndarray) -> np.ndarray:
    return _fit(soxr.resample(narrow, TELEPHONE_RATE, SAMPLE_RATE, quality="VHQ"), like)


def _fit(speech: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Cut or pad ``speech`` to the length of ``like``."""
    return np.pad(speech, (0, max(0, len(like) - len(speech))))[: len(like)]


def coded(speech: np.ndarray, rate: int = SAMPLE_RATE, **options: object) -> np.ndarray:
    """Encode and decode ``speech`` in memory with libsndfile; ``options`` as in soundfile."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(speech, -1, 1 - 2**-15), rate, **options)
    file.seek(0)
    return _fit(soundfile.read(file)[0], speech)


def _clip(speech: np.ndarray, share: float) -> np.ndarray:
    limit = np.quantile(np.abs(speech), 1 - share / 100)
    return speech.clip(-limit, limit)


G711 = {"format": "AU", "subtype": "ULAW"}
MP3 = {"format": "MP3", "bitrate_mode": "CONSTANT"}
OPUS = {"format": "OGG", "subtype": "OPUS"}
# Kind -> (function of speech, value and random numbers; lowest and highest value).
# libsndfile's compression level is 0 for the highest bit rate and 1 for the lowest.
KINDS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, float]]] = {
    CLEAN: (lambda x, *_: x, (0, 0)),
    "white": (lambda x, snr, rng: add_noise(x, _noise(len(x), rng, 0), snr), (-20, 60)),
    "pink": (lambda x, snr, rng: add_noise(x, _noise(len(x), rng, 1), snr), (-20, 60)),
    "babble": (add_noise, (-20, 60)),
    "reverb": (_reverb, (0.05, 5)),
    "telephone": (lambda x, *_: _wide(_narrow(x), x), (0, 0)),
    "mulaw": (lambda x, *_: _wide(coded(_narrow(x), TELEPHONE_RATE, **G711), x), (0, 0)),
    "gain": (lambda x, db, _: x * 10 ** (db / 20), (-60, 40)),
    "clip": (lambda x, share, _: _clip(x, share), (0.01, 50)),
    "mp3": (lambda x, kbit, _: coded(x, compression_level=(160 - kbit) / 152, **MP3), (10, 160)),
    "opus": (lambda x, kbit, _: coded(x, compression_level=(256 - kbit) / 250, **OPUS), (6, 256)),
}
