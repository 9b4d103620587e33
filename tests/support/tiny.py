"""Tiny random encoders and corpora, so that real training code runs in seconds."""

from pathlib import Path

import numpy as np
import soundfile

from ser.data.tables import Utterance, write_data_dir

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
# Two convolutions, which torch's exporter traces in a moment, of the same stride.
SHORT = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [40, 8]}
# name -> (model_type, configuration): one encoder of each kind that behaves differently
ENCODERS = {
    "wav2vec2-base-like": ("wav2vec2", TINY),
    "wav2vec2-large-like": (
        "wav2vec2",
        {
            **TINY,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
        },
    ),
    "hubert": ("hubert", TINY),
    "wavlm": ("wavlm", TINY),
    "data2vec": (
        "data2vec-audio",
        {**TINY, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 9},
    ),
    "whisper": (
        "whisper",
        {
            "d_model": 32,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
        },
    ),
}
EMOTIONS = ["angry", "happy", "sad", "neutral"]
SAMPLE_RATE = 16000


def write_tone_corpus(root: Path, per_class: int = 2, sessions: int = 2) -> Path:
    """A data directory of two-speaker sessions whose emotions are tones of different loudness."""
    rng = np.random.default_rng(0)
    records = []
    for session in range(1, sessions + 1):
        for gender in "FM":
            for c, emotion in enumerate(EMOTIONS):
                for i in range(per_class):
                    speaker = f"Ses{session:02d}{gender}"
                    utt_id = f"{speaker}_{emotion}{i}"
                    seconds = 0.4 + 0.1 * i + 0.02 * c
                    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
                    wave = 0.02 * 3**c * np.sin(2 * np.pi * (200 + 50 * i) * t)
                    wave = wave + 0.001 * rng.standard_normal(len(t))
                    path = root / "wav" / f"{utt_id}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
                    records.append(
                        Utterance(
                            utt_id=utt_id,
                            wav=str(path),
                            text="no words" if i else "",
                            speaker=speaker,
                            emotion=emotion,
                            gender=gender.lower(),
                            session=f"Ses{session:02d}",
                            duration=len(t) / SAMPLE_RATE,
                        )
                    )
    directory = root / "data/tones/all"
    write_data_dir(directory, records, EMOTIONS, "en", {"corpus": "tones"}, [])
    return directory.parent
