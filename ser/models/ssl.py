"""Any Hugging Face speech encoder as an ESPnet frontend."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_bidirectional_mask

from ser.config import check_arguments
from ser.data.audio import SAMPLE_RATE
from ser.errors import UserError
from ser.models.base import AbsFrontend
from ser.models.cpu.attention import NAME as FAST_ATTENTION
from ser.models.cpu.conv_stack import conv_features
from ser.models.cpu.dropout import replace_dropout
from ser.models.cpu.malloc import return_freed_memory
from ser.models.fusion import WeightedSum
from ser.models.layer_cache import FrameCache, fingerprint
from ser.models.masks import MaskedGroupNorm, frame_mask, none_padded
from ser.models.pretrained import (
    UNUSED_WEIGHTS,
    load_encoder,
    load_encoder_config,
    wants_normalized,
)
from ser.models.registry import from_recipe
from ser.models.whisper import LogMel, whisper_attention_mask, whisper_stem

# Never tuned: those, and Whisper's sinusoids, which are constant in its own training as well.
CONSTANTS = (*UNUSED_WEIGHTS, "embed_positions")
# What is computed by other means on a CPU, where that is quicker: frontend_conf.fast.
FAST = ("convolutions", "dropout", "attention")
# On a CPU a longer batch, padding included, keeps only what enters each transformer layer, and
# computes the rest again in the backward pass. Four times 16 s, which few batches are.
KEPT_SAMPLES = 64 * SAMPLE_RATE
# Of what a cache holds: raised with every change of what a frontend computes, but for rounding.
CACHE_VERSION = 2


class HFFrontend(AbsFrontend):
    """Speech encoder from the Hugging Face hub or a folder, fused over its layers.

    Args:
        model: Hub id (``facebook/wav2vec2-base``) or folder with ``config.json``, relative to the
            working directory or the recipe. May be None with ``init: random`` and a
            ``model_type``.
        init: ``pretrained`` loads weights; ``random`` builds the same architecture untrained.
        model_type: Architecture when there is no ``model``: wav2vec2, hubert, wavlm,
            data2vec-audio or whisper.
        config: Overrides of the encoder's own configuration (``hidden_size: 64``,
            ``attention_dropout: 0.0``...).
        layers: ``weighted_sum`` (eq. 4); ``last``; the number of one transformer layer; or
            several side by side, D values of a frame each: ``concat``, all of them, or a list of
            their numbers, such as [2, 4, 6], 0 being H_l.
        low_level: With ``weighted_sum`` and ``concat``, whether H_l, the projected output of the
            convolutions, takes part (a_0 of eq. 4).
        layer_norm: Scale every frame that leaves the fusion to zero mean and unit variance over
            its D values; of layers side by side each by itself. Nothing in it is trained.
        freeze: ``none``; ``cnn``, the convolutions; ``all``; or a number N: the first N
            transformer layers and all that lies below them.
        unfreeze_after: With 0 the freezing lasts; with E > 0 everything is tuned from epoch
            E + 1 on.
        time_mask: Options of ESPnet's MaskAlongAxisVariableMaxWidth, e.g. ``{num_mask: 5,
            mask_width_ratio_range: [0.0, 0.05]}``: while training, set so many stretches of each
            utterance to 0, in the projected features (wav2vec 2.0) or the log-mels (Whisper).
        normalize: Scale each utterance to zero mean and unit variance. ``auto`` follows the
            model's preprocessor_config.json, and is true for wav2vec 2.0-like models without
            one.
        fast: On a CPU: the convolutions of wav2vec 2.0 and its relatives as matrix products
            without padding (ser/models/cpu/conv_stack.py), cheap random numbers for their dropout
            (dropout.py) and, while training, other ways to compute attention (attention.py). True
            for all, false for none, or a list of ``convolutions``, ``dropout``, ``attention``.
            Convolutions and attention give the same numbers to rounding, dropout other draws
            from the same distribution.

    The masks and LayerDrop of pre-training are off: the paper fine-tunes without masks
    (``time_mask`` brings some back), and a dropped layer has no place in a weighted sum. Outputs
    never depend on padding: the group norm of the first convolution sees real frames only
    (MaskedGroupNorm), attention is masked, and convolutional positions see zeros beyond the end.

    With ``cache_dir`` set, what the frozen layers, or the frozen convolutions, make of an utterance
    is kept there and not computed again (models/layer_cache.py): of a partly frozen encoder what
    enters layer N + 1, and what the fusion reads below.

    Raises:
        UserError: no such model, an unsupported architecture, weights that do not fit, or an
            option out of range.
    """

    reads = ("raw",)

    def __init__(
        self,
        model: str | None = None,
        init: str = "pretrained",
        model_type: str | None = None,
        config: dict[str, Any] | None = None,
        layers: str | int | list[int] = "weighted_sum",
        low_level: bool = True,
        layer_norm: bool = False,
        freeze: str | int = "none",
        unfreeze_after: int = 0,
        normalize: bool | str = "auto",
        time_mask: dict[str, Any] | None = None,
        fast: bool | list[str] = True,
    ):
        super().__init__()
        if init not in ("pretrained", "random"):
            raise UserError(f"frontend_conf.init: {init!r}; choose pretrained or random")
        if normalize not in (True, False, "auto"):
            raise UserError(f"frontend_conf.normalize: {normalize!r}; choose true, false or auto")
        self.fast = (FAST if fast else ()) if isinstance(fast, bool) else tuple(fast)
        unknown = [name for name in self.fast if name not in FAST]
        if unknown:
            raise UserError(
                f"frontend_conf.fast: {unknown[0]!r}; choose true, false or a list of "
                f"{', '.join(FAST)}"
            )
        model = from_recipe(model)
        hf_config = load_encoder_config(model, init, model_type, config or {})
        self.is_whisper = hf_config.model_type == "whisper"
        self.encoder = load_encoder(model, init, hf_config)
        if self.is_whisper:
            self.log_mel = LogMel(hf_config.num_mel_bins)
            self.normalize = False
            self._output_size = hf_config.d_model
        else:
            self.normalize = wants_normalized(model) if normalize == "auto" else bool(normalize)
            self._output_size = hf_config.hidden_size
            self._make_padding_neutral()
            if "dropout" in self.fast:
                replace_dropout(self.encoder)
        if "attention" in self.fast and hf_config.model_type != "wavlm":  # which has its own
            self.encoder.config._attn_implementation = FAST_ATTENTION
        self.time_mask = None
        if time_mask:
            from espnet2.layers.mask_along_axis import MaskAlongAxisVariableMaxWidth

            check_arguments("frontend_conf.time_mask", MaskAlongAxisVariableMaxWidth, time_mask)
            self.time_mask = MaskAlongAxisVariableMaxWidth(dim="time", **time_mask)
        self.num_layers = len(self._transformer_layers())
        self.layers, self.layer_norm = layers, layer_norm
        self.used = _numbers_of_layers(layers, low_level, self.num_layers)
        if layers == "weighted_sum":
            self.fusion = WeightedSum(len(self.used))
        else:
            self._output_size *= len(self.used)
        if freeze not in ("none", "cnn", "all") and freeze not in range(self.num_layers + 1):
            raise UserError(
                f"frontend_conf.freeze: {freeze!r}; choose none, cnn, all, or a number of layers "
                f"from 0 to {self.num_layers}"
            )
        self.freeze, self.unfreeze_after = freeze, unfreeze_after
        self.cache_dir: Path | None = None
        self._caches: dict[tuple, FrameCache] = {}
        self._frozen: list[torch.nn.Module] = []
        self.set_epoch(1)

    def output_size(self) -> int:
        return self._output_size

    def output_lengths(self, speech_lengths: torch.Tensor) -> torch.Tensor:
        """Samples -> frames, by the encoder's own arithmetic: (B,) -> (B,)."""
        if self.is_whisper:
            return (speech_lengths // 160 + 1) // 2
        lengths = speech_lengths
        for kernel, stride in self._conv_geometry():
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def layer_weights(self) -> torch.Tensor | None:
        """Softmax weights of eq. 4, low level first when it takes part; None if not fused."""
        return self.fusion.weights().detach() if self.layers == "weighted_sum" else None

    def set_epoch(self, epoch: int) -> None:
        """Freeze or release parameters as ``freeze`` and ``unfreeze_after`` say for ``epoch``."""
        thawed = self.unfreeze_after > 0 and epoch > self.unfreeze_after
        self._frozen = [] if thawed else self._modules_to_freeze()
        frozen = {id(p) for module in self._frozen for p in module.parameters()}
        for name, parameter in self.encoder.named_parameters():
            constant = name.split(".")[0] in CONSTANTS
            parameter.requires_grad = not constant and id(parameter) not in frozen
        self.train(self.training)

    def plain(self) -> None:
        """Evaluate by the modules of transformers alone, as with ``fast: false``."""
        self.fast = ()
        self.encoder.config._attn_implementation = "sdpa"

    def keep_layers(self, directory: Path | str | None) -> None:
        """Keep what layers that are frozen for good make of utterances in ``directory``, if any.

        Call it again when other weights have been loaded.
        """
        for_good = self._frozen_depth() is not None and self.unfreeze_after == 0
        self.cache_dir = Path(directory) if directory and for_good else None
        self._caches.clear()

    def train(self, mode: bool = True) -> "HFFrontend":
        """Frozen parts stay in evaluation mode, so that their dropout is off."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples in [-1, 1] at 16 kHz, (B,) -> (B, T, D) frames, (B,)."""
        if not self.is_whisper:
            self._save_memory(input)  # of layers above kept ones as well
        depth = self._frozen_depth()
        if depth is None:
            hidden, lengths = self._lower(input, input_lengths, 0)
        else:
            hidden, lengths = self._frozen_layers(input, input_lengths, depth)
        hidden |= self._upper(hidden[depth or 0], lengths, depth or 0, max(self.used))
        return self._fuse([hidden[i] for i in self.used]), lengths

    def hidden_states(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The inputs of eq. 4: H_l and H_{h,1} .. H_{h,N}, each (B, T, D), and lengths (B,).

        They are those of transformers' ``output_hidden_states``, but for index 0: there it is the
        sum with the convolutional positions, here H_l itself.
        """
        hidden, lengths = self._lower(speech, speech_lengths, 0)
        hidden |= self._upper(hidden[0], lengths, 0, self.num_layers)
        return [hidden[i] for i in range(self.num_layers + 1)], lengths

    def _fuse(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """The layers ``used``, each (B, T, D), as one sequence of frames."""
        if self.layers == "weighted_sum":
            layers = [self.fusion(layers)]
        if self.layer_norm:
            layers = [F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers]
        return layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)

    def _frozen_depth(self) -> int | None:
        """How many layers that are used are frozen with all below; None if the entry is not."""
        if not self._frozen or self.freeze == "cnn":
            return None
        return min(self.num_layers if self.freeze == "all" else int(self.freeze), max(self.used))

    def _frozen_layers(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, depth: int
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """``_lower`` without gradients, of layer ``depth`` and those below that are used."""
        needed = sorted({i for i in self.used if i < depth} | {depth})

        def compute(
            speech: torch.Tensor, lengths: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                hidden, frames = self._lower(speech, lengths, depth)
            return torch.stack([hidden[i].float() for i in needed], dim=1), frames

        masked = self.time_mask is not None and self.training  # other frames in every epoch
        if self.cache_dir is not None and not masked:
            frozen = torch.nn.ModuleList(self._frozen)
            cache = self._cache("layers", frozen, speech.device, depth, needed)
            stacked, lengths = cache(speech, speech_lengths, compute)
        else:
            stacked, lengths = compute(speech, speech_lengths)
        return dict(zip(needed, stacked.unbind(1), strict=True)), lengths

    def _cache(
        self, kind: str, module: torch.nn.Module, device: torch.device, *facts: Any
    ) -> FrameCache:
        """What is remembered of a frozen module, in the precision that it is computed in."""
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
        if (kind, dtype) not in self._caches:
            facts = (kind, self.normalize, self.encoder.config.to_dict(), CACHE_VERSION, *facts)
            facts += (device.type, self.fast)  # on which rounding depends
            name = f"{fingerprint(module, *facts)}-{str(dtype).removeprefix('torch.')}"
            self._caches[kind, dtype] = FrameCache(self.cache_dir / name, dtype)
        return self._caches[kind, dtype]

    def _lower(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, depth: int
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """H_l as number 0 and the first ``depth`` layers' outputs, each (B, T, D); lengths (B,)."""
        if not torch.compiler.is_exporting():
            speech = speech[:, : int(speech_lengths.max())]
        if self.is_whisper:
            mels, frames = self.log_mel(speech, speech_lengths)
            mels = self._mask_time(mels.transpose(1, 2), frames).transpose(1, 2)
            entry, lengths = whisper_stem(self.encoder, mels, frames)
        else:
            lengths = self.output_lengths(speech_lengths)
            if not torch.compiler.is_exporting() and lengths.min() < 1:
                shortest = 1000 * speech_lengths.min().item() / SAMPLE_RATE
                raise UserError(
                    f"an utterance of {shortest:.0f} ms is too short for this encoder, which makes "
                    "no frame of it; leave it out, or give more of the recording"
                )
            entry = self.encoder.feature_projection(self._convolve(speech, speech_lengths))
            if isinstance(entry, tuple):  # wav2vec 2.0 also returns the unprojected features
                entry = entry[0]  # (B, T, D)
            entry = self._mask_time(entry, lengths)
        return {0: entry, **self._run_layers(entry, lengths, 0, depth)}, lengths

    def _upper(
        self, hidden: torch.Tensor, lengths: torch.Tensor, depth: int, top: int
    ) -> dict[int, torch.Tensor]:
        """The outputs of layers ``depth`` + 1 to ``top``, from that of ``depth``.

        What follows the last layer, in Whisper and models with ``do_stable_layer_norm``, is part
        of H_{h,N}.
        """
        outputs = self._run_layers(hidden, lengths, depth, top)
        if top < self.num_layers:
            return outputs
        last = outputs.get(top, hidden)
        if self.is_whisper:
            last = self.encoder.layer_norm(last)
        elif self._normalizes_last():
            last = self.encoder.encoder.layer_norm(last)
        return {**outputs, self.num_layers: last}

    def _run_layers(
        self, hidden: torch.Tensor, lengths: torch.Tensor, first: int, last: int
    ) -> dict[int, torch.Tensor]:
        """The outputs of layers ``first`` + 1 .. ``last`` by number, from that of ``first``."""
        if first == last:
            return {}
        mask = frame_mask(lengths, hidden.size(1))
        mask = None if none_padded(mask) else mask
        options: dict[str, Any] = {}
        if self.is_whisper:
            options["attention_mask"] = whisper_attention_mask(mask)
        else:
            hidden = self._add_positions(hidden, mask, lengths) if first == 0 else hidden
            options = self._layer_options(hidden, mask)
        outputs = {}
        for number in range(first, last):
            hidden = self._transformer_layers()[number](hidden, **options)
            if isinstance(hidden, tuple):
                hidden = hidden[0]
            outputs[number + 1] = hidden
        return outputs

    def _add_positions(
        self, low_level: torch.Tensor, mask: torch.Tensor | None, lengths: torch.Tensor
    ) -> torch.Tensor:
        """What enters the first transformer layer of wav2vec 2.0 and its relatives."""
        encoder = self.encoder.encoder
        if mask is not None:
            low_level = low_level * mask.unsqueeze(-1)
        self._lengths = lengths
        try:
            hidden = low_level + encoder.pos_conv_embed(low_level)
        finally:
            self._lengths = None
        if not self._normalizes_last():
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden)

    def _layer_options(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> dict[str, Any]:
        """What transformers passes to each layer of wav2vec 2.0 and its relatives."""
        if self.encoder.config.model_type != "wavlm":
            return {
                "attention_mask": create_bidirectional_mask(
                    config=self.encoder.config, inputs_embeds=hidden, attention_mask=mask
                )
            }
        batch, frames, _ = hidden.shape
        bias = self.encoder.encoder.layers[0].attention.compute_bias(frames, frames)  # (H, T, T)
        return {"attention_mask": mask, "position_bias": bias.repeat(batch, 1, 1)}

    def _normalizes_last(self) -> bool:
        """Whether the transformer's layer norm follows its layers, and does not precede them."""
        return getattr(self.encoder.config, "do_stable_layer_norm", False)

    def _save_memory(self, speech: torch.Tensor) -> None:
        """Trade time for memory where a batch (B, L) is long, see KEPT_SAMPLES."""
        if not self.training:  # nor would an exported graph have a use for the comparison
            return
        wanted = speech.numel() > KEPT_SAMPLES and speech.device.type == "cpu"
        layers = self.encoder.encoder.layers
        if wanted == layers[0].gradient_checkpointing:
            return
        for layer in layers:
            layer.gradient_checkpointing = wanted
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        return_freed_memory(wanted)

    def _mask_time(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D) with stretches of time set to 0, in training and where it is asked for."""
        if self.time_mask is None or not self.training:
            return features
        return self.time_mask(features, lengths)[0]

    def _transformer_layers(self) -> torch.nn.ModuleList:
        return self.encoder.layers if self.is_whisper else self.encoder.encoder.layers

    def _conv_geometry(self) -> list[tuple[int, int]]:
        config = self.encoder.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def _make_padding_neutral(self) -> None:
        """Swap in or hook what would otherwise let zero padding reach real frames."""
        self._masked_norm = None
        first = self.encoder.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), torch.nn.GroupNorm):
            first.layer_norm = self._masked_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)
        self._lengths: torch.Tensor | None = None
        # data2vec stacks positional convolutions: the padding is zero for the first of them only
        for layer in getattr(self.encoder.encoder.pos_conv_embed, "layers", []):
            layer.register_forward_hook(self._zero_padding)

    def _convolve(self, speech: torch.Tensor, speech_lengths: torch.Tensor) -> torch.Tensor:
        """The convolutional features, (B, L), (B,) -> (B, T, C)."""
        extractor = self.encoder.feature_extractor
        alone = extractor in self._frozen and self._frozen_depth() is None
        if alone and self.cache_dir is not None:
            cache = self._cache("convolutions", extractor, speech.device)
            return cache(speech, speech_lengths, self._stacked_features)[0].squeeze(1)
        return self._features(speech, speech_lengths)

    def _stacked_features(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        speech = speech[:, : int(speech_lengths.max())]
        with torch.no_grad():
            features = self._features(speech, speech_lengths)
        return features.unsqueeze(1), self.output_lengths(speech_lengths)

    def _features(self, speech: torch.Tensor, speech_lengths: torch.Tensor) -> torch.Tensor:
        if self.normalize:
            speech = _normalize(speech, speech_lengths)
        if "convolutions" in self.fast and speech.device.type == "cpu":
            return conv_features(self.encoder.feature_extractor, speech, speech_lengths)
        if self._masked_norm is None:
            return self.encoder.feature_extractor(speech).transpose(1, 2)
        kernel, stride = self._conv_geometry()[0]
        self._masked_norm.lengths = (speech_lengths - kernel) // stride + 1
        try:
            return self.encoder.feature_extractor(speech).transpose(1, 2)
        finally:
            self._masked_norm.lengths = None

    def _zero_padding(self, _module, _inputs, output: torch.Tensor) -> torch.Tensor:
        if self._lengths is None:  # called outside hidden_states, nothing is padded
            return output
        return output * frame_mask(self._lengths, output.size(-1)).unsqueeze(1)  # (B, D, T)

    def _modules_to_freeze(self) -> list[torch.nn.Module]:
        if self.freeze == "none":
            return []
        if self.freeze == "all":
            return [self.encoder]
        encoder = self.encoder
        if self.is_whisper:
            cnn, entry = [encoder.conv1, encoder.conv2], []
        else:
            cnn = [encoder.feature_extractor]
            transformer = encoder.encoder
            entry = [encoder.feature_projection, transformer.pos_conv_embed, transformer.dropout]
            entry += [] if self._normalizes_last() else [transformer.layer_norm]
        if self.freeze == "cnn":
            return cnn
        return cnn + entry + list(self._transformer_layers()[: self.freeze])


def _numbers_of_layers(layers: str | int | list[int], low_level: bool, count: int) -> list[int]:
    """The layers that ``layers`` asks for, of ``count``; 0 is H_l."""
    if layers in ("weighted_sum", "concat"):
        return list(range(0 if low_level else 1, count + 1))
    if layers == "last":
        return [count]
    if isinstance(layers, list) and layers and all(n in range(count + 1) for n in layers):
        return layers
    if layers in range(1, count + 1):
        return [layers]
    raise UserError(
        f"frontend_conf.layers: {layers!r}; choose weighted_sum, concat, last, a layer from 1 to "
        f"{count}, or a list of layers from 0 to {count}"
    )


def _normalize(speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over each utterance's own samples; padding becomes zero."""
    mask = frame_mask(lengths, speech.size(1))
    count = lengths.unsqueeze(1)
    mean = speech.masked_fill(~mask, 0.0).sum(1, keepdim=True) / count
    centred = (speech - mean).masked_fill(~mask, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()  # 1e-7 as in transformers' feature extractor
