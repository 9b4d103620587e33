"""ser/models/lora.py: adapters compute what Hu et al. write, and model files hold nothing else."""

import copy
import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ser.errors import UserError
from ser.models import lora as lora_module
from ser.models.lora import (
    DIGEST,
    check_lora,
    digest,
    frozen_weights,
    is_adapter,
    merge,
    read_lora,
    without_adapters,
)
from ser.models.ssl import HFFrontend
from tests.support.adapters import save_encoder
from tests.support.frontends import build, padded_batch
from tests.support.tiny import ENCODERS, TINY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
ATTENTION = {"r": 4, "alpha": 6, "targets": ["q_proj", "v_proj"]}
EVERYTHING = {
    "wav2vec2": ["q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"],
    "whisper": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
LENGTHS = [8000, 5000]


def adapted(name: str, **options) -> HFFrontend:
    """A frontend of ``build`` whose adapters are no longer zero."""
    frontend = build(name, **{"lora": ATTENTION, **options})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in frontend.named_parameters():
            if is_adapter(key):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return frontend


def adapters(frontend: HFFrontend) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in frontend.named_parameters() if is_adapter(name)}


# --- values and gradients ----------------------------------------------------------------------


def test_an_adapted_layer_computes_w_x_plus_b_plus_alpha_over_r_b_a_x():
    frontend = adapted("wav2vec2-base-like")
    layer = frontend.stages.layers[1].attention.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    w, bias = layer.base_layer.weight, layer.base_layer.bias
    assert (a.shape, b.shape) == ((4, 32), (32, 4))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    expected = x @ w.T + bias + (6 / 4) * (x @ a.T @ b.T)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert not torch.allclose(layer(x), x @ w.T + bias, atol=1e-2)


def test_a_hand_worked_example():
    """x = [5 7], A x = [19 7], B A x = [19 -5], W x = [7 5]: [7 5] + 3/2 [19 -5] = [35.5 -2.5]."""
    weights = {
        "frontend.encoder.q.lora_A.default.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        "frontend.encoder.q.lora_B.default.weight": torch.tensor([[1.0, 0.0], [-1.0, 2.0]]),
    }
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    encoder = {"frontend.encoder.q.weight": swap.clone()}
    weights["frontend.encoder_digest"] = digest({"q.weight": swap})
    merged = merge(weights, encoder, "hf", {"lora": {"r": 2, "alpha": 3}}, "here")
    assert list(merged) == ["frontend.encoder.q.weight"]
    found = merged["frontend.encoder.q.weight"] @ torch.tensor([5.0, 7.0])
    assert found.tolist() == [35.5, -2.5]
    assert torch.equal(encoder["frontend.encoder.q.weight"], swap)  # which other folds share


@pytest.mark.parametrize("name", ENCODERS)
def test_b_is_zero_at_the_start_so_that_the_first_output_is_the_encoders(name):
    batch = padded_batch(LENGTHS)
    frontend = build(name, lora=ATTENTION)
    assert all(not p.any() for n, p in adapters(frontend).items() if "lora_B" in n)
    assert all(p.any() for n, p in adapters(frontend).items() if "lora_A" in n)
    plain, lengths = build(name)(*batch)
    for found, expected, length in zip(frontend(*batch)[0], plain, lengths, strict=True):
        assert torch.allclose(found[:length], expected[:length], atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_adapter_of_every_encoder_is_trained_and_nothing_else_of_it(name):
    """WavLM's attention, as transformers has it, would pass over adapters in silence."""
    kind = "whisper" if name == "whisper" else "wav2vec2"
    frontend = adapted(name, lora={**ATTENTION, "targets": EVERYTHING[kind]}).train()
    frontend(*padded_batch(LENGTHS))[0].square().sum().backward()
    with_gradient = {n for n, p in frontend.named_parameters() if p.grad is not None}
    assert with_gradient == {*adapters(frontend), "fusion.scalars"}
    assert len(adapters(frontend)) == 2 * 6 * 3
    # of a key's constant part the softmax takes nothing, so all but that has an effect
    assert all(p.grad.abs().max() > 1e-6 for p in adapters(frontend).values())


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "wav2vec2-large-like", "hubert", "whisper"])
def test_outputs_and_gradients_are_those_of_peft_on_the_model_of_transformers(name):
    from peft import LoraConfig, get_peft_model

    frontend = adapted(name, layers="last", fast=False, normalize=False)
    model_type, config = ENCODERS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **config)
    made = WhisperEncoder(config) if name == "whisper" else AutoModel.from_config(config)
    theirs = get_peft_model(
        made, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"])
    )
    state = frontend.encoder.state_dict()
    theirs.base_model.model.load_state_dict(state)
    seconds = 30 if name == "whisper" else 1  # Whisper's own forward insists on them
    speech, lengths = padded_batch([16000 * seconds])
    ours = frontend(speech, lengths)[0]
    inputs = frontend.log_mel(speech, lengths)[0] if name == "whisper" else speech
    expected = theirs.eval()(inputs).last_hidden_state
    assert torch.allclose(ours, expected, atol=2e-5)
    ours.square().mean().backward()
    expected.square().mean().backward()
    others = dict(theirs.base_model.model.named_parameters())
    for key, parameter in adapters(frontend).items():
        grad = others[key.removeprefix("encoder.")].grad
        assert torch.allclose(parameter.grad, grad, atol=1e-6 + 1e-4 * grad.abs().max()), key


@pytest.mark.parametrize("name", ENCODERS)
def test_merged_weights_compute_the_same_without_peft(name):
    frontend, batch = adapted(name), padded_batch(LENGTHS)
    state = {f"frontend.{key}": value for key, value in frontend.state_dict().items()}
    frozen = {f"frontend.encoder.{k}": v for k, v in build(name).encoder.state_dict().items()}
    before = copy.deepcopy(frozen)
    merged = merge(state, frozen, "hf", {"lora": ATTENTION}, "here")
    plain = build(name)
    plain.load_state_dict({k.removeprefix("frontend."): v for k, v in merged.items()})
    expected, lengths = frontend(*batch)
    for found, wanted, length in zip(plain(*batch)[0], expected, lengths, strict=True):
        assert torch.allclose(found[:length], wanted[:length], atol=2e-5)
    assert all(torch.equal(frozen[key], value) for key, value in before.items())


def test_wavlms_attention_by_modules_is_that_of_transformers_with_padding_and_gradients():
    from ser.models.lora import _attend_by_modules

    batch, found = padded_batch(LENGTHS), []
    for by_modules in (False, True):
        frontend = build("wavlm")
        if by_modules:
            _attend_by_modules(frontend.stages.layers)
        frames, lengths = frontend(*batch)
        frames = torch.cat([row[:n] for row, n in zip(frames, lengths.tolist(), strict=True)])
        frames.square().sum().backward()
        grads = {n: p.grad for n, p in frontend.named_parameters() if p.grad is not None}
        found.append((frames, grads))
    (frames, grads), (others, other_grads) = found
    assert torch.allclose(frames, others, atol=1e-5)
    assert grads.keys() == other_grads.keys()
    for key, grad in grads.items():
        assert torch.allclose(grad, other_grads[key], atol=1e-4 * (1 + grad.abs().max())), key


def test_dropout_of_adapters_is_the_quick_one_on_a_cpu():
    frontend = build("wav2vec2-base-like", lora={**ATTENTION, "dropout": 0.25})
    dropout = frontend.stages.layers[0].attention.q_proj.lora_dropout["default"]
    assert (type(dropout).__module__, dropout.p) == ("ser.models.cpu.dropout", 0.25)


def test_under_autocast_an_adapter_keeps_its_input_as_it_is():
    """peft by itself would convert it to float32 and autocast back again, into a copy."""
    frontend = build("wav2vec2-base-like", lora={**ATTENTION, "targets": ["out_proj"]})
    layer, kept = frontend.stages.layers[0].attention.out_proj, []
    x = torch.randn(2, 5, 32, dtype=torch.bfloat16, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, id),
        torch.autocast("cpu", torch.bfloat16),
    ):
        assert layer(x).dtype == torch.bfloat16
    assert x.data_ptr() in kept


# --- which layers, together with other options -------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "layers"), [("none", 3), ("cnn", 3), (0, 3), (2, 1), ("all", 0)]
)
def test_only_layers_that_are_not_frozen_have_adapters(freeze, layers):
    frontend = build("wav2vec2-base-like", lora=ATTENTION, freeze=freeze)
    assert len(adapters(frontend)) == 2 * 2 * layers
    assert all(p.requires_grad for p in adapters(frontend).values())
    frontend.set_epoch(9)
    trained = {n for n, p in frontend.encoder.named_parameters() if p.requires_grad}
    assert trained == {n.removeprefix("encoder.") for n in adapters(frontend)}


def test_kept_layers_are_shared_with_trainings_without_adapters(tmp_path):
    batch = padded_batch(LENGTHS)
    for options in ({}, {"lora": ATTENTION}):
        frontend = build("wav2vec2-base-like", freeze=2, **options).train()
        frontend.keep_layers(tmp_path)
        frontend(*batch)[0].sum().backward()
    assert len(list(tmp_path.glob("*"))) == 1
    assert len(list(tmp_path.rglob("*.npy"))) == 2


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "wavlm", "whisper"])
def test_gradient_checkpointing_makes_the_same_step_and_computes_layers_twice(name):
    """With dropout: what is computed again draws what was drawn before."""
    batch, found = padded_batch(LENGTHS), []
    for wanted in (False, True):
        frontend = adapted(name, gradient_checkpointing=wanted, freeze=1).train()
        seen, layers = [], frontend.stages.layers
        for layer in layers:
            part = layer.fc1 if name == "whisper" else layer.feed_forward.intermediate_dense
            part.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        torch.manual_seed(3)
        frontend(*batch)[0].square().sum().backward()
        found.append(({n: p.grad for n, p in adapters(frontend).items()}, len(seen)))
        frontend.eval()(*batch)
        assert len(seen) == found[-1][1] + 3
    (plain, once), (again, twice) = found
    assert (once, twice) == (3, 3 + 2)  # the frozen one keeps nothing anyway
    assert all(torch.allclose(plain[n], again[n], rtol=1e-4, atol=1e-6) for n in plain)


# --- what model files hold ---------------------------------------------------------------------


def test_a_state_dict_holds_adapters_fusion_and_a_digest_only():
    frontend = adapted("wav2vec2-base-like")
    state = frontend.state_dict()
    assert set(state) == {*adapters(frontend), "fusion.scalars", DIGEST}
    numbers = sum(value.numel() for value in state.values())
    assert numbers == 3 * 2 * 2 * 4 * 32 + 4 + 32  # layers, targets, A and B, r, D
    assert numbers < 0.1 * sum(p.numel() for p in frontend.parameters())


def test_a_state_dict_is_loaded_into_the_same_encoder_and_refused_by_another():
    frontend = adapted("wav2vec2-base-like")
    other = build("wav2vec2-base-like", lora=ATTENTION)
    other.load_state_dict(frontend.state_dict())
    batch = padded_batch(LENGTHS)
    assert torch.equal(other(*batch)[0], frontend(*batch)[0])
    stranger = build("wav2vec2-base-like", lora=ATTENTION)
    with torch.no_grad():
        stranger.stages.layers[2].feed_forward.output_dense.bias[0] += 1e-3
    with pytest.raises(
        UserError, match=r"trained on another encoder \([0-9a-f]{12}\) than the one"
    ):
        stranger.load_state_dict(frontend.state_dict())


def test_the_mean_over_models_keeps_the_digest():
    digests = [digest({"w": torch.arange(5.0)}) for _ in range(3)]
    mean = (digests[0] + digests[1] + digests[2]) / 3
    assert torch.equal(mean, digests[0])
    assert not torch.equal(digest({"w": torch.arange(5.0) + 1e-6}), digests[0])
    assert not torch.equal(digest({"v": torch.arange(5.0)}), digests[0])


def test_a_weight_that_a_checkpoint_lacks_and_nothing_uses_is_no_part_of_the_digest(tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder/model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, tmp_path / "encoder/model.safetensors", metadata={"format": "pt"})
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(HFFrontend(model=folder, lora=ATTENTION))
    one, other = (frontend.encoder.masked_spec_embed for frontend in found)
    assert not torch.equal(one, other)
    found[1].load_state_dict(found[0].state_dict())


def test_adapters_that_fit_nothing_are_refused():
    frontend = adapted("wav2vec2-base-like")
    state = {f"frontend.{key}": value for key, value in frontend.state_dict().items()}
    encoder = build("wav2vec2-base-like").encoder.state_dict()
    frozen = {f"frontend.encoder.{k}": v for k, v in encoder.items()}
    key = next(name for name in state if name.endswith("lora_B.default.weight"))
    for damaged in (state | {key: state[key][:-1]}, {n: v for n, v in state.items() if n != key}):
        with pytest.raises(UserError, match="here: .*lora_A.* fits nothing in the encoder"):
            merge(damaged, frozen, "hf", {"lora": ATTENTION}, "here")


def test_frozen_weights_come_from_the_encoders_folder(tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    conf = {"model": folder, "lora": ATTENTION}
    frontend = HFFrontend(**conf)
    frozen = frozen_weights("hf", conf)
    names = {key.removeprefix("frontend.encoder."): value for key, value in frozen.items()}
    assert torch.equal(digest(names), frontend.state_dict()[DIGEST])
    several = {"upstreams": [{"model": folder}, conf]}
    assert {key.split(".encoder")[0] for key in frozen_weights("upstreams", several)} == {
        "frontend.upstreams.1"
    }
    assert without_adapters(several) == {"upstreams": [{"model": folder}] * 2}
    assert frozen_weights("hf", {"model": folder}) == {}


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, r"lora.r: found 0; expected a whole number from 1"),
        ({"r": 1.5}, r"lora.r: found 1.5; expected a whole number"),
        ({"alpha": 0}, r"lora.alpha: found 0; expected a number above 0"),
        ({"alpha": "x"}, r"lora.alpha: found 'x'; expected a number"),
        ({"dropout": 1.0}, r"lora.dropout: found 1.0; expected 0.0 to below 1"),
        ({"targets": []}, r"lora.targets: found \[\]; expected a list of linear layers"),
        ({"targets": "q_proj"}, r"lora.targets: found 'q_proj'; expected a list"),
        ({"rank": 3}, r"frontend_conf.lora: Lora has no option 'rank'; it takes: r, alpha"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read_lora({**ATTENTION, **changes})


def test_no_mapping_is_refused():
    with pytest.raises(UserError, match="frontend_conf.lora: found 8; expected a mapping"):
        read_lora(8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wav2vec2-base-like", "no linear layer of wav2vec2; choose from k_proj, v_proj, q_proj"),
        ("whisper", "no linear layer of whisper; choose from k_proj, v_proj, q_proj, .*fc1, fc2"),
    ],
)
def test_an_unknown_target_names_those_there_are(name, message):
    with pytest.raises(UserError, match=f"lora.targets: query: {message}"):
        build(name, lora={**ATTENTION, "targets": ["q_proj", "query"]})


def test_no_layer_to_adapt_is_refused():
    with pytest.raises(UserError, match="freeze: found 3 with lora, which leaves none of the 3"):
        build("wav2vec2-base-like", lora=ATTENTION, freeze=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "random", "model_type": "wav2vec2"}, "with init: random the encoder is nowhere"),
        ({"freeze": "all"}, "freeze: all leaves no layer to adapt; set freeze: 0"),
        ({"unfreeze_after": 2}, "unfreeze_after: 2 would train the encoder itself"),
    ],
)
def test_what_contradicts_adapters_is_refused_before_any_job(changes, message):
    with pytest.raises(UserError, match=f"frontend_conf.lora: {message}"):
        check_lora({"model": "facebook/wav2vec2-large", "lora": ATTENTION, **changes})
    check_lora({"model": "facebook/wav2vec2-large", **changes})


def test_without_peft_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(lora_module.importlib.util, "find_spec", lambda name: None)
    conf = {"model": "facebook/wav2vec2-large", "lora": ATTENTION}
    message = "frontend_conf.lora: the package peft is not installed; make install APPS=1"
    with pytest.raises(UserError, match=message):
        check_lora(conf)
    with pytest.raises(UserError, match=message):
        build("wav2vec2-base-like", lora=ATTENTION)
    assert TINY["hidden_size"] == build("wav2vec2-base-like").output_size()
