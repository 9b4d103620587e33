"""This recipe's S1 training step: wav2vec2-base, weighted sum, emotion and phoneme classes."""

import torch

from bench.system import EMOTIONS, UNITS, System
from bench.workload import durations, representative, sorted_batches
from ser.encoders.identity import IdentityEncoder
from ser.frontends.hf import HFFrontend
from ser.heads import read_heads
from ser.model import SERModel
from ser.pooling import MeanPooling

BATCH, ACCUMULATE, BATCHES = 4, 4, 8  # as conf/train_s1_mtl_phoneme.yaml; two updates a round


def build(device: str, freeze: str = "none") -> System:
    torch.manual_seed(0)
    frontend = HFFrontend(
        init="random",
        model_type="wav2vec2",
        freeze=freeze,
    )
    size = frontend.output_size()
    inventory = ["<blank>", *(f"u{i}" for i in range(1, UNITS))]
    heads = read_heads({"pr": {"type": "ctc", "weight": 0.1}})
    model = SERModel(
        emotions=[f"e{i}" for i in range(EMOTIONS)],
        frontend=frontend,
        encoder=IdentityEncoder(size),
        pooling=MeanPooling(size),
        aux_heads={name: head.cls(size, size, inventory) for name, head in heads.items()},
        aux_weights={name: head.weight for name, head in heads.items()},
        amp_dtype="bfloat16",
    ).to(device)
    model.train()
    model.begin_epoch(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-5, fused=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        loss, _, _ = model(**batch)
        (loss / ACCUMULATE).backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    def infer(speech: torch.Tensor, lengths: torch.Tensor) -> object:
        model.eval()
        try:
            return model.infer(speech, lengths)
        finally:
            model.train()

    epoch = sorted_batches(durations(), BATCH)
    frozen = "" if freeze == "none" else ", convolutions frozen"
    return System(
        name=f"this recipe, S1{frozen}",
        batches=representative(epoch, BATCHES),
        epoch=epoch,
        step=step,
        update=update,
        accumulate=ACCUMULATE,
        infer=infer,
        notes=f"bfloat16, batches of {BATCH} by length, Adam after every {ACCUMULATE}{frozen}",
    )


def build_frozen(device: str) -> System:
    return build(device, freeze="cnn")
