"""The mini corpus with videos: both speakers of a dialog side by side, as drawn faces.

As in IEMOCAP's videos, the speaker with the markers is on the left. The current speaker's mouth
and brows follow from the emotion and vary, so that classes overlap; the listener looks neutral.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser.console import progress
from ser.corpora import mini
from ser.corpora.iemocap import LABELS, LEFT_FACE, RIGHT_FACE, VIDEOS
from ser.data.video import import_av
from ser.files import atomic_dir
from ser.stage import file_digest, is_done, mark_done

WIDTH, HEIGHT, RATE = 720, 480, 15  # pixels, frames per second
# emotion -> upward curve of the mouth, slope of the brows to the nose; both vary by SPREAD
LOOKS = {
    **{"neu": (0.0, 0.0), "hap": (0.8, 0.1), "exc": (1.0, -0.1), "ang": (-0.3, 0.9)},
    **{"sad": (-0.9, -0.6), "xxx": (0.0, 0.2), "fru": (-0.4, 0.5)},
}
SPREAD = 0.35
SKIN, INK, BACK = (214, 170, 140), (40, 30, 30), (90, 110, 120)


def make(directory: Path, seed: int) -> None:
    """Write the mini corpus with videos to ``directory`` unless it exists already.

    Raises UserError like mini.make, and if PyAV is not installed.
    """
    mini.make(directory, seed)
    for session in sorted(directory.glob("Session?")):
        target = session / VIDEOS
        settings = {"seed": seed, "code": file_digest(__file__)}
        if is_done(target, settings):
            continue
        progress(f"mini corpus: drawing {session.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_dir(target) as temporary:
            for labels in sorted((session / LABELS).glob("Ses*.txt")):
                generator = random.Random(f"{seed} video {labels.stem}")
                draw_dialog(labels, temporary / f"{labels.stem}.avi", generator)
            mark_done(temporary, settings)


def draw_dialog(labels: Path, path: Path, generator: random.Random) -> None:
    """Write the video of the dialog whose labels are in the file ``labels`` to ``path``."""
    turns = []  # (start, end, whether on the left, mouth, brows)
    for line in labels.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            times, utt, label, _ = line.split("\t")
            start, end = map(float, times.strip("[]").split(" - "))
            looks = [generator.gauss(mean, SPREAD) for mean in LOOKS.get(label, (0.0, 0.0))]
            turns.append((start, end, utt[-4] == labels.stem[5], *looks))
    _write(path, _pictures(turns))


def _pictures(turns: Sequence[tuple[float, float, bool, float, float]]):
    """Yield the frames of a dialog; the picture changes where a turn begins or ends."""
    empty = np.full((HEIGHT, WIDTH, 3), BACK, np.uint8)
    boxes = {True: _corners(LEFT_FACE), False: _corners(RIGHT_FACE)}
    for box in boxes.values():
        _draw_face(empty, box, 0.0, 0.0)
    count = int((turns[-1][1] + 1) * RATE) if turns else RATE
    picture, speaking = empty, None
    for number in range(count):
        now = next((t for t in turns if t[0] <= number / RATE < t[1]), None)
        if now is not speaking:
            picture, speaking = empty.copy(), now
            if now is not None:
                _draw_face(picture, boxes[now[2]], *now[3:])
        yield picture


def _corners(box: str) -> tuple[int, ...]:
    return tuple(map(int, box.split()))


def _draw_face(picture: np.ndarray, box: Sequence[int], mouth: float, brows: float) -> None:
    """Draw a face into ``box`` of ``picture``, (H, W, 3): skin, eyes, brows and mouth."""
    left, top, right, bottom = box
    part = picture[top:bottom, left:right]
    y, x = np.mgrid[-1 : 1 : part.shape[0] * 1j, -1 : 1 : part.shape[1] * 1j]
    part[x**2 + y**2 < 1] = SKIN
    part[(np.abs(x) - 0.35) ** 2 + (y + 0.2) ** 2 < 0.01] = INK
    across = np.abs(x) - 0.35
    part[(np.abs(across) < 0.22) & (np.abs(y + 0.5 + 0.6 * brows * across) < 0.04)] = INK
    curve = 0.45 + 0.25 * mouth * (1 - (x / 0.45) ** 2)
    part[(np.abs(x) < 0.45) & (np.abs(y - curve) < 0.05)] = INK


def _write(path: Path, pictures) -> None:
    av = import_av("maker mini_video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
