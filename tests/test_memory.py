"""bench/memory.py: the formula counts what autograd keeps, within a tenth, of small encoders."""

import contextlib
import importlib.util

import pytest
import torch

from bench import memory
from ser.models.ssl import HFFrontend
from tests.support.tiny import ENCODERS

LORA = {"r": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
DROPOUTS = ("attention_dropout", "activation_dropout")  # whose masks are larger on a CPU
WAYS = {
    "fine-tuned": {"freeze": "cnn"},
    "lora": {"freeze": 0, "lora": LORA},
    "lora-everywhere": {"freeze": 0, "lora": LORA},
    "checkpointing": {"freeze": 0, "lora": LORA, "gradient_checkpointing": True},
}
TOLERANCE = 0.1
needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)


def small(name: str, way: str, layers: int = 6) -> HFFrontend:
    """A frontend as bench/memory.py makes them, of 6 layers of 64 values."""
    model_type, config = ENCODERS[name]
    own = {"hidden_size": 64, "num_hidden_layers": layers, "intermediate_size": 256}
    names = (*DROPOUTS, "hidden_dropout", "feat_proj_dropout")
    if name == "whisper":
        own = {"d_model": 64, "encoder_layers": layers, "encoder_ffn_dim": 256}
        names = (*DROPOUTS, "dropout")
    conf = {**WAYS[way]}
    if way == "lora-everywhere":
        inner = ["fc1", "fc2"] if name == "whisper" else ["intermediate_dense", "output_dense"]
        conf["lora"] = {**LORA, "targets": ["q_proj", "k_proj", "v_proj", "out_proj", *inner]}
    config = {**config, **own, **dict.fromkeys(names, 0.0)}
    torch.manual_seed(0)
    frontend = HFFrontend(init="random", model_type=model_type, config=config, fast=False, **conf)
    for module in frontend.modules():
        if isinstance(module, torch.nn.LayerNorm):  # under autocast in float32, as on a GPU
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return frontend.train()


def kept_bytes(frontend: HFFrontend, batch: int, seconds: float, bf16: bool) -> tuple[int, int]:
    """What autograd keeps of a forward pass beside the parameters; and frames of an utterance."""
    parameters = {p.untyped_storage().data_ptr() for p in frontend.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage
        return tensor

    speech = 0.1 * torch.randn(batch, int(16000 * seconds))
    lengths = torch.full((batch,), speech.size(1))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext(),
    ):
        _, frames = frontend(speech, lengths)
    return sum(storage.nbytes() for storage in found.values()), int(frames[0])


@needs_peft
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["fine-tuned", "lora", "lora-everywhere"])
@pytest.mark.parametrize("name", ["wav2vec2-base-like", "wav2vec2-large-like", "wavlm", "whisper"])
def test_the_formula_counts_what_autograd_keeps(name, way, bf16):
    if (name, way, bf16) == ("wavlm", "fine-tuned", True):
        pytest.skip("its softmax is in float32 on a GPU, in bfloat16 on a CPU")
    frontend = small(name, way)
    measured, frames = kept_bytes(frontend, 3, 4.0, bf16)
    counted = memory.need(frontend, frames, 3, bf16).kept
    assert counted == pytest.approx(measured, rel=TOLERANCE)


@needs_peft
@pytest.mark.parametrize("name", ["wav2vec2-base-like", "whisper"])
def test_with_checkpointing_layers_keep_their_inputs_and_one_of_them_all(name):
    """The input of each layer is what the fusion keeps; the last is computed again alone."""
    frontend = small(name, "checkpointing")
    measured, frames = kept_bytes(frontend, 3, 4.0, True)
    alone, _ = kept_bytes(small(name, "lora", layers=1), 3, 4.0, True)
    outputs = 2 * 4 * 64 * 3 * frames  # of one layer and before it, in both
    counted = memory.need(frontend, frames, 3, True).kept
    assert counted == pytest.approx(measured + alone - outputs, rel=TOLERANCE)


@needs_peft
@pytest.mark.parametrize("way", ["fine-tuned", "lora"])
def test_parameters_gradients_and_moments_are_those_of_an_adam_step(way):
    frontend = small("hubert", way)
    counted = memory.need(frontend, 10, 1)
    optimizer = torch.optim.Adam(p for p in frontend.parameters() if p.requires_grad)
    frames, _ = frontend(0.1 * torch.randn(1, 16000), torch.tensor([16000]))
    frames.square().sum().backward()
    optimizer.step()
    assert counted.parameters == sum(p.nbytes for p in frontend.parameters())
    moments = [s[key].nbytes for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    grads = [p.grad.nbytes for p in frontend.parameters() if p.grad is not None]
    assert counted.states == sum(moments) + sum(grads)


@needs_peft
def test_a_hand_worked_layer_of_wav2vec2_large():
    """LoRA of q and v in bfloat16, D = 1024, F = 4096, 16 heads, dropout of three kinds."""
    frontend = memory.make(init="random", **memory.ENCODERS["facebook/wav2vec2-large"],
                           freeze=0, lora=LORA)  # fmt: skip
    layer = memory.layer_of(frontend, bf16=True)
    residual, attention, gelu = 3 * 4 * 1024, 4 * 2 * 1024 + 4 * 16, 2 * 4096
    inputs, low, masks = 2 * 2 * 1024, 2 * 2 * 4, 2 * 1024 + 4096
    assert layer.frame == residual + attention + gelu + 16 + inputs + low + masks
    assert layer.weights == 2 * 12 * 1024**2
    assert sum(p.numel() for p in frontend.parameters()) == pytest.approx(317e6, rel=0.01)
    adapters = sum(p.numel() for p in frontend.parameters() if p.requires_grad)
    assert adapters == 24 * 2 * 4 * 2048 + 25  # and the fusion


@needs_peft
def test_the_table_says_what_fits(capsys, monkeypatch):
    model_type, config = ENCODERS["wav2vec2-base-like"]
    small = {"tiny": {"model_type": model_type, "config": config}}
    monkeypatch.setattr(memory, "ENCODERS", small)
    monkeypatch.setattr("sys.argv", ["memory", "--card", "1.6", "--batch", "2"])
    memory.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][4:] == ["2 x 10 s", "in 1.6 GB |"]
    fit = {row[1]: int(row[-1].strip(" |")) for row in rows[2:]}
    assert list(fit) == list(memory.WAYS)
    assert fit["LoRA, checkpointing"] >= fit["LoRA"] >= fit["fine-tuned"] > 0


def test_a_long_batch_is_limited_by_the_convolutions():
    """A second of wav2vec 2.0 is 3200 frames of 512 values after the first of them."""
    frontend = memory.make(init="random", **memory.ENCODERS["facebook/wav2vec2-large"])
    found = memory.need(frontend, 50, 2)
    assert found.convolutions == 10 * 2 * 3200 * 512
    bare = memory.Need(parameters=1, states=2, kept=10, backward=5, convolutions=20)
    assert bare.total == 1 + 2 + 20
    assert memory.Need(1, 2, 10, 5, 14).total == 1 + 2 + 15
