"""Estimate the GPU memory for training a large speech encoder from its configuration.

Usage: python -m bench.memory [--card 24] [--seconds 10] [--batch 4] [--model ID_OR_FOLDER]

Four settings: fine-tuning all but the convolutions, and adapters (LoRA); each with and without
gradient checkpointing. float32 weights, gradients and Adam's two moments; autocast to bfloat16,
attention that stores no T x T weights, no padding. WavLM stores its position bias, T x T for each
utterance. The formula counts the tensors that autograd saves; tests/test_memory.py compares the
count with the actual tensors of small encoders. Nothing here was measured on a GPU.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from ser.models.ssl import HFFrontend

GB = 1e9
RESERVE = 1.5 * GB  # assumed: CUDA context, library workspaces, fragmentation
FRAMES = 50  # per second
RATE = 16000  # samples per second
MAP = 10  # bytes per value of the largest map: bfloat16, and float32 before and after its norm
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
LARGE = {**LARGE, "intermediate_size": 4096}
STABLE = {**LARGE, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
# From config.json of the encoders in conf/lora_*.yaml.
ENCODERS: dict[str, dict[str, Any]] = {
    "facebook/wav2vec2-large": {"model_type": "wav2vec2", "config": LARGE},
    "facebook/hubert-large-ll60k": {
        "model_type": "hubert",
        "config": {**STABLE, "conv_bias": True},
    },
    "microsoft/wavlm-large": {"model_type": "wavlm", "config": STABLE},
    "facebook/wav2vec2-xls-r-300m": {
        "model_type": "wav2vec2",
        "config": {**STABLE, "conv_bias": True},
    },
    "openai/whisper-large-v3": {
        "model_type": "whisper",
        "config": {
            **{"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20},
            **{"encoder_ffn_dim": 5120, "num_mel_bins": 128},
        },
    },
}
LORA = {"r": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}
WAYS: dict[str, dict[str, Any]] = {
    "fine-tuned": {"freeze": "cnn"},
    "fine-tuned, checkpointing": {"freeze": "cnn", "gradient_checkpointing": True},
    "LoRA": {"freeze": 0, "lora": LORA},
    "LoRA, checkpointing": {"freeze": 0, "lora": LORA, "gradient_checkpointing": True},
}


@dataclass(frozen=True)
class Layer:
    """Bytes that one transformer layer saves for the backward pass."""

    frame: float  # per frame
    pair: float  # per pair of frames of an utterance
    weights: float  # copies of the weights in bfloat16
    output: float  # the part of ``frame`` for its output, the next layer's input
    wide: float  # per frame, peak of additional memory in its backward pass


@dataclass(frozen=True)
class Need:
    """Memory of a training step, in bytes."""

    parameters: float
    states: float  # gradients and Adam's moments of the trained parameters
    kept: float  # saved by the forward pass for the backward pass
    backward: float  # additional memory of one layer's backward pass
    convolutions: float  # used before anything is saved; they are frozen

    @property
    def total(self) -> float:
        """Peak memory."""
        most = max(self.kept + self.backward, self.convolutions)
        return self.parameters + self.states + most


def layer_of(frontend: HFFrontend, bf16: bool) -> Layer:
    """Bytes saved by an encoder layer of ``frontend``, under autocast to bfloat16 or in float32.

    Frozen linear layers save only their weights; trained and adapted ones also their input.
    """
    config = frontend.encoder.config
    whisper = config.model_type == "whisper"
    d = frontend.stages.output_size
    f = config.encoder_ffn_dim if whisper else config.intermediate_size
    heads = config.encoder_attention_heads if whisper else config.num_attention_heads
    first = whisper or getattr(config, "do_stable_layer_norm", False)  # pre-norm
    n = 2 if bf16 else 4
    inner = ("fc1", "fc2") if whisper else ("intermediate_dense", "output_dense")
    keeps = ("q_proj", "k_proj", "v_proj", "out_proj", *inner)
    if frontend.lora is not None:
        keeps = tuple(frontend.lora.targets)
    frame = (2 if first else 3) * 4 * d  # inputs of two norms, in float32; the output
    frame += 4 * n * d + 4 * heads  # query, key, value and mix; sum of the exponentials
    frame += n * f + 16  # input of GELU; mean and deviation of two norms
    attention = sum(name in keeps for name in ("q_proj", "k_proj", "v_proj"))
    if attention:  # in float32 one tensor, which is the previous layer's output unless pre-norm
        frame += 2 * d * attention if bf16 else 4 * d * first
    frame += n * d * (inner[0] in keeps) + n * f * (inner[1] in keeps)
    if frontend.lora is not None:
        frame += n * frontend.lora.r * len(keeps)
    elif config.model_type == "wavlm":  # its own attention copies the projections
        frame += 4 * n * d
    frame += _masks(config, d, f)
    pair = 4 * heads if config.model_type == "wavlm" else 0
    weights = 2 * (4 * d * d + 2 * d * f) if bf16 else 0
    return Layer(frame, pair, weights, 4 * d, 2 * n * f + 8 * d)


def _masks(config: Any, d: int, f: int) -> int:
    """Bytes of dropout masks per frame in one layer: one for each value under dropout."""
    if config.model_type == "whisper":
        return 2 * d * (config.dropout > 0) + f * (config.activation_dropout > 0)
    return 2 * d * (config.hidden_dropout > 0) + f * (config.activation_dropout > 0)


def need(frontend: HFFrontend, frames: int, batch: int, bf16: bool = True) -> Need:
    """Memory of a training step with ``batch`` utterances of ``frames`` each."""
    sizes = [(p.numel(), p.requires_grad) for p in frontend.parameters()]
    trained = sum(count for count, grad in sizes if grad)
    layer, count = layer_of(frontend, bf16), frontend.num_layers
    all_frames, pairs = batch * frames, batch * frames**2
    one = layer.frame * all_frames + layer.pair * pairs + layer.weights
    kept = count * one
    if frontend.gradient_checkpointing:
        kept = count * layer.output * all_frames + one
    kept += layer.pair * pairs  # WavLM's bias before gating, shared by all layers
    kept += layer.output * all_frames  # input of the first layer
    if frontend.freeze in ("none", "cnn") and frontend.lora is None:  # positions, projection
        width = getattr(frontend.encoder.config, "conv_dim", [0])[-1]
        kept += (3 * layer.output + 8 * width) * all_frames
    return Need(
        parameters=4 * sum(size for size, _ in sizes),
        states=12 * trained,
        kept=kept,
        backward=layer.wide * all_frames,
        convolutions=MAP * _largest_map(frontend.encoder.config) * all_frames,
    )


def _largest_map(config: Any) -> float:
    """Values in the first convolution's output per encoder frame."""
    if config.model_type == "whisper":
        return 2 * config.d_model
    return RATE / FRAMES / config.conv_stride[0] * config.conv_dim[0]


def most_audio(frontend: HFFrontend, card: float, seconds: float) -> int:
    """Maximum batch size of utterances of ``seconds`` on a GPU with ``card`` bytes."""
    frames, batch = round(FRAMES * seconds), 0
    while need(frontend, frames, batch + 1).total <= card - RESERVE:
        batch += 1
    return batch


def make(**conf: Any) -> HFFrontend:
    """Make a frontend without allocating its weights."""
    with torch.device("meta"):
        return HFFrontend(**conf)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--card", type=float, default=24, help="GB of the GPU")
    parser.add_argument("--seconds", type=float, default=10, help="of an utterance")
    parser.add_argument("--batch", type=int, default=4, help="utterances of a batch")
    parser.add_argument("--model", help="another encoder: hub id or folder")
    options = parser.parse_args()
    encoders = ENCODERS
    if options.model:
        encoders = {options.model: {"model": options.model}}
    audio = f"{options.batch} x {options.seconds:g} s"
    print(
        f"| encoder | trained | weights | with gradients, Adam | {audio} | in {options.card:g} GB |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, encoder in encoders.items():
        for way, changes in WAYS.items():
            frontend = make(init="random", **encoder, **changes)
            found = need(frontend, round(FRAMES * options.seconds), options.batch)
            states = found.parameters + found.states
            most = most_audio(frontend, options.card * GB, options.seconds)
            print(
                f"| {name} | {way} | {found.parameters / GB:.1f} GB | {states / GB:.1f} GB | "
                f"{found.total / GB:.1f} GB | {most} |"
            )


if __name__ == "__main__":
    main()
