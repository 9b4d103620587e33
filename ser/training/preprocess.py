"""Convert table entries to model inputs."""

import ser.training.espnet_import  # noqa: F401, I001 (has to come first)

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from espnet2.train.preprocessor import AbsPreprocessor

from ser.data.audio import FULL_SCALE
from ser.models.heads import IGNORE_ID


class SERPreprocessor(AbsPreprocessor):
    """Scale samples, and turn labels and units into indices.

    Args:
        train: ESPnet's flag for the training set (nothing here is random).
        emotions: The classes in index order.
        unit_id: The index of each CTC unit, None when no head needs them.
        waveform: True when ``speech`` holds int16 sample values, which become [-1, 1).
        targets: For each batch entry, the values of utterances that have any, and the default of
            the others, whose dtype is used. ESPnet's own tables may not have gaps.
        unlabelled: Utterances whose emotion is withheld.
    """

    def __init__(
        self,
        train: bool,
        emotions: list[str],
        unit_id: Mapping[str, int] | None,
        waveform: bool,
        targets: Mapping[str, tuple[Mapping[str, Sequence[float]], np.ndarray]] | None = None,
        unlabelled: Collection[str] = (),
    ):
        super().__init__(train)
        self.targets, self.unlabelled = targets or {}, unlabelled
        self.emotion_id = {name: i for i, name in enumerate(emotions)}
        self.unit_id = unit_id
        self.waveform = waveform

    def __call__(self, uid: str, data: dict) -> dict[str, np.ndarray]:
        if self.waveform and "speech" in data:
            data["speech"] = data["speech"] / np.float32(FULL_SCALE)
        if "emotion" in data:
            known = uid not in self.unlabelled
            emotion = self.emotion_id[data["emotion"]] if known else IGNORE_ID
            data["emotion"] = np.array([emotion], dtype=np.int64)
        for entry, (known, unknown) in self.targets.items():
            data[entry] = np.asarray(known.get(uid, unknown), dtype=unknown.dtype)
        if "text" in data:
            if self.unit_id is None:
                del data["text"]
            else:
                ids = [self.unit_id[unit] for unit in data["text"].split()]
                data["text"] = np.array(ids, dtype=np.int64)
        return data
