"""Face images with the audio: an image of the speaker for every 40 ms of an utterance (S12).

``utt2video`` of data/<corpus>/all, written by IEMOCAP's reader if the videos are present, has for
each utterance its start in the video in seconds, the bounding box of the face in pixels, and the
file:

    Ses01F_impro01_F000 6.2901 120 130 240 230 /corpora/IEMOCAP/.../Ses01F_impro01.avi
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ser.data.audio import SAMPLE_RATE
from ser.data.tables import read_table
from ser.errors import UserError

TABLE = "utt2video"
AUDIO_VIDEO = "audio_video"  # the feature type
STEP = 640  # samples per image: 40 ms
LATE = 1.0  # seconds after a video's last frame in which an utterance may still begin
PICTURE = 96  # pixels, height and width
SOUND_BYTES = 2 * STEP
FRAME_BYTES = SOUND_BYTES + PICTURE * PICTURE * 3


def audio_video(speech: np.ndarray, line: str) -> np.ndarray:
    """Samples and pictures side by side: (N,) int16 -> (T, 28,928) bytes as float32.

    T = ceil(N / 640). A frame is its 640 samples, high byte and low byte of each, zeros beyond the
    end; then its picture, 96 x 96 x 3, row by row, black where ``line`` is empty.

    Args:
        speech: Samples at 16 kHz.
        line: Line of ``utt2video``, without the utterance.
    """
    frames = -(-len(speech) // STEP)
    samples = np.pad(speech, (0, frames * STEP - len(speech))).astype(">i2").view(np.uint8)
    black = np.zeros((frames, PICTURE, PICTURE, 3), np.uint8)
    faces = read_faces(line, frames) if line else black
    return np.hstack([samples.reshape(frames, -1), faces.reshape(frames, -1)]).astype(np.float32)


def read_faces(line: str, count: int) -> np.ndarray:
    """Read the face images of an utterance, (count, 96, 96, 3) uint8.

    Image k is the latest video frame at the utterance's start + 0.04 k seconds; the last frame
    is repeated until the end. Raises UserError for a line or a video that cannot be read.
    """
    av = import_av()
    start, box, path = parse(line)
    faces = np.zeros((count, PICTURE, PICTURE, 3), np.uint8)
    done, newest = 0, None
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            container.seek(round(start / stream.time_base), stream=stream)  # key frame before it
            for frame in container.decode(stream):
                due = int(np.ceil((frame.time - start) * SAMPLE_RATE / STEP - 1e-6))
                if newest is not None and due > done:
                    faces[done : min(due, count)] = crop(newest, box)
                done, newest = max(done, due), frame
                if done >= count:
                    break
    except (av.error.FFmpegError, OSError, IndexError, ZeroDivisionError) as err:
        raise UserError(f"{path}: cannot be read as a video ({err}); replace it") from None
    if newest is None or start > newest.time + LATE:
        raise UserError(f"{path}: ends before {start:.2f} s, where an utterance of {TABLE} begins")
    if done < count:
        faces[done:] = crop(newest, box)
    return faces


def parse(line: str) -> tuple[float, tuple[int, int, int, int], str]:
    """Parse a line of ``utt2video``: start in seconds, box (left, top, right, bottom) and file."""
    try:
        start, left, top, right, bottom, path = line.split(maxsplit=5)
        box = (int(left), int(top), int(right), int(bottom))
        if not (float(start) >= 0 and 0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            raise ValueError
        return float(start), box, path
    except ValueError:
        raise UserError(
            f"{TABLE}: found {line!r}; expected '<utterance> <start in seconds> <left> <top> "
            "<right> <bottom> <path>', the box in pixels"
        ) from None


def whole_picture(path: str) -> str:
    """Line of ``utt2video`` for a video of one face: the centre square, and the file."""
    av = import_av()
    try:
        with av.open(path) as container:
            size = container.streams.video[0].codec_context
            width, height = size.width, size.height
    except (av.error.FFmpegError, OSError, IndexError) as err:
        raise UserError(
            f"{path}: cannot be read as a video ({err}), and this model reads faces as well"
        ) from None
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return f"{left} {top} {left + side} {top + side} {path}"


def crop(frame: Any, box: tuple[int, int, int, int]) -> np.ndarray:
    """Crop the box from a PyAV frame and resize it to (96, 96, 3) uint8."""
    import torch

    left, top, right, bottom = box
    part = frame.to_ndarray(format="rgb24")[top:bottom, left:right]
    if not part.size:
        raise UserError(f"{TABLE}: a box at {left}, {top} in pictures of {frame.width} pixels")
    maps = torch.from_numpy(part.copy()).permute(2, 0, 1)[None]  # (1, 3, H, W) uint8
    size = (PICTURE, PICTURE)
    maps = torch.nn.functional.interpolate(maps, size, mode="bilinear", antialias=True)
    return maps[0].permute(1, 2, 0).numpy()


def sources(dump_dir: Path, wavs: Mapping[str, str]) -> dict[str, str]:
    """``wavs`` with each utterance's line of ``utt2video``, possibly empty, after a tab.

    Raises UserError if no utterance has one.
    """
    path = dump_dir / TABLE
    table = read_table(path) if path.is_file() else {}
    lines = {utt: table.get(utt, "") for utt in wavs}
    if not any(lines.values()):
        raise UserError(
            f"{path}: no video is known, which feats_type audio_video needs. IEMOCAP: copy "
            "Session*/dialog/avi too and run from stage 1 on; another corpus: write "
            f"data/<corpus>/all/{TABLE} (docs/corpora.md)"
        )
    without = sum(not line for line in lines.values())
    if without:
        print(f"{path}: {without} of {len(wavs)} utterances have no video: black pictures")
    return {utt: f"{wav}\t{lines[utt]}" for utt, wav in wavs.items()}


def import_av(asked: str = "feats_type audio_video") -> Any:
    """Import PyAV; UserError that names what ``asked`` for it and says how to install it."""
    try:
        return importlib.import_module("av")
    except ImportError as err:
        raise UserError(
            f"{asked}: PyAV is not installed here ({err}): "
            ".venv/bin/python -m pip install -r requirements-apps.txt"
        ) from None
