"""From what the tables hold to what the model takes."""

import ser.training.espnet_import  # noqa: F401, I001 (has to come first)

from collections.abc import Collection, Mapping

import numpy as np
from espnet2.train.preprocessor import AbsPreprocessor

from ser.models.heads import IGNORE_ID

INT16_SCALE = 32768.0


class SERPreprocessor(AbsPreprocessor):
    """Scale samples, and turn labels and units into indices.

    Args:
        train: ESPnet's flag for the training set (nothing here is random).
        emotions: The classes in index order.
        unit_id: The index of each CTC unit, None when no head needs them.
        waveform: True when ``speech`` holds int16 sample values, which become [-1, 1).
        labels: For each entry that a head of labels wants, the class index of every utterance
            whose value is known. ESPnet's own tables may have no gaps, these may.
        unlabelled: Utterances whose emotion is not told.
    """

    def __init__(
        self,
        train: bool,
        emotions: list[str],
        unit_id: Mapping[str, int] | None,
        waveform: bool,
        labels: Mapping[str, Mapping[str, int]] | None = None,
        unlabelled: Collection[str] = (),
    ):
        super().__init__(train)
        self.labels, self.unlabelled = labels or {}, unlabelled
        self.emotion_id = {name: i for i, name in enumerate(emotions)}
        self.unit_id = unit_id
        self.waveform = waveform

    def __call__(self, uid: str, data: dict) -> dict[str, np.ndarray]:
        if self.waveform and "speech" in data:
            data["speech"] = data["speech"] / np.float32(INT16_SCALE)
        if "emotion" in data:
            known = uid not in self.unlabelled
            emotion = self.emotion_id[data["emotion"]] if known else IGNORE_ID
            data["emotion"] = np.array([emotion], dtype=np.int64)
        for entry, index in self.labels.items():
            data[entry] = np.array([index.get(uid, IGNORE_ID)], dtype=np.int64)
        if "text" in data:
            if self.unit_id is None:
                del data["text"]
            else:
                ids = [self.unit_id[unit] for unit in data["text"].split()]
                data["text"] = np.array(ids, dtype=np.int64)
        return data
