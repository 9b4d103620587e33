"""Recordings inside the page: 16-kHz FLAC, which every browser plays and nothing is lost in."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from ser.data.audio import SAMPLE_RATE, read_16k_mono
from ser.data.tables import read_table
from ser.errors import UserError
from ser.models.inputs import load_input
from ser.reporting.page.markup import Markup, data_uri, tag

MOST_BYTES = 3_000_000  # of all recordings on a page: in base64 4 MB, so that it stays below 5


@dataclass
class Recordings:
    """Where the utterances' recordings are, and how many bytes of them may go into the page."""

    dumped: Mapping[str, str]  # dump/<corpus>/wav.scp: what the model heard
    original: Mapping[str, str]  # the corpus's files, for what is not in there
    left: int = MOST_BYTES
    cache: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, utt_id: str) -> np.ndarray:
        """Samples in [-1, 1) at 16 kHz, (L,); UserError or OSError without a recording."""
        if utt_id not in self.cache:
            if utt_id in self.dumped:
                self.cache[utt_id] = load_input(self.dumped[utt_id])
            elif utt_id in self.original:
                samples = read_16k_mono(self.original[utt_id])
                self.cache[utt_id] = samples.astype(np.float32) / np.float32(32768)
            else:
                raise UserError(f"{utt_id}: no recording known; run stages 1 and 3 on this machine")
        return self.cache[utt_id]

    def player(self, utt_id: str) -> Markup:
        """An audio element with the recording in it, or a sentence that says why there is none."""
        try:
            content = flac(self.read(utt_id))
        except (UserError, OSError) as err:
            name = err.strerror if isinstance(err, OSError) and err.strerror else "no recording"
            return tag("p", f"Not to be heard: {name} on the machine that wrote this page.",
                       class_="note")  # fmt: skip
        if len(content) > self.left:
            why = f"its {len(content) / 1e6:.1f} MB would make the page too large to pass on"
            return tag("p", f"Not to be heard: {why}.", class_="note")
        self.left -= len(content)
        return tag(
            "audio",
            controls=True,
            preload="metadata",
            src=data_uri("audio/flac", content),
            aria_label=f"recording of {utt_id}",
        )


def find_recordings(dump_dir: Path, original: Mapping[str, str]) -> Recordings:
    """The recordings of ``dump_dir``, or else those whose files ``original`` names."""
    scp = dump_dir / "wav.scp"
    return Recordings(read_table(scp) if scp.is_file() else {}, original)


def flac(speech: np.ndarray) -> bytes:
    """Samples in [-1, 1) at 16 kHz, (L,), as a FLAC file of 16 bits."""
    stream = io.BytesIO()
    samples = np.clip(np.round(speech * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(stream, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
