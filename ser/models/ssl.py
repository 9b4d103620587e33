"""Any Hugging Face speech encoder as an ESPnet frontend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ser.config import check_arguments
from ser.errors import UserError
from ser.models.base import AbsFrontend
from ser.models.cpu.attention import NAME as FAST_ATTENTION
from ser.models.cpu.dropout import replace_dropout
from ser.models.fusion import WeightedSum, numbers_of_layers
from ser.models.layer_cache import FrameCache, digests, fingerprint
from ser.models.lora import add_adapters, is_adapter, read_lora
from ser.models.masks import beside, frame_mask, none_padded
from ser.models.pretrained import (
    UNUSED_WEIGHTS,
    load_encoder,
    load_encoder_config,
    wants_normalized,
)
from ser.models.registry import from_recipe
from ser.models.wav2vec import Wav2Vec
from ser.models.whisper import LogMel, Whisper

# Never tuned: unused weights, and Whisper's sinusoids, which its own training keeps constant too.
CONSTANTS = (*UNUSED_WEIGHTS, "embed_positions")
# Computations with a faster implementation on a CPU: frontend_conf.fast.
FAST = ("convolutions", "dropout", "attention")
# Increment it when the output of a frontend changes by more than rounding.
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
        layer_norm: Normalise every fused frame to zero mean and unit variance over its D values,
            or each concatenated layer by itself; without trainable parameters.
        freeze: ``none``; ``cnn``, the convolutions; ``all``; or a number N: the first N
            transformer layers and everything below them.
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
        lora: Low-rank adapters of the transformer layers that are not frozen, in place of training
            those layers: ``{r: 8, alpha: 16, targets: [q_proj, v_proj], dropout: 0.0}``, see
            ser/models/lora.py. Model files then hold nothing of the encoder but its digest.
        gradient_checkpointing: While training keep only what enters each transformer layer, and
            compute the rest again in the backward pass: a third more time, a fraction of the
            memory. On a CPU long batches of wav2vec 2.0 do so in any case.

    Masking and LayerDrop of pre-training are off: the paper fine-tunes without masking
    (``time_mask`` enables it), and a weighted sum needs all layers. Outputs never depend on
    padding: the group norm of the first convolution sees real frames only (MaskedGroupNorm),
    attention is masked, and convolutional position embeddings see zeros beyond the end.

    With ``cache_dir`` set, outputs of the frozen layers, or of the frozen convolutions, are cached
    there (models/layer_cache.py): for a partly frozen encoder the output of layer N and those of
    lower layers that the fusion reads.

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
        lora: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
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
        self._load(from_recipe(model), init, model_type, config or {}, normalize)
        self.time_mask = None
        if time_mask:
            from espnet2.layers.mask_along_axis import MaskAlongAxisVariableMaxWidth

            check_arguments("frontend_conf.time_mask", MaskAlongAxisVariableMaxWidth, time_mask)
            time_mask = {**time_mask, "replace_with_zero": True}
            self.time_mask = MaskAlongAxisVariableMaxWidth(dim="time", **time_mask)
        self.num_layers = len(self.stages.layers)
        self.layers, self.layer_norm = layers, layer_norm
        self.used = numbers_of_layers(layers, low_level, self.num_layers)
        if layers == "weighted_sum":
            self.fusion = WeightedSum(len(self.used))
        if freeze not in ("none", "cnn", "all") and freeze not in range(self.num_layers + 1):
            raise UserError(
                f"frontend_conf.freeze: {freeze!r}; choose none, cnn, all, or a number of layers "
                f"from 0 to {self.num_layers}"
            )
        self.freeze, self.unfreeze_after = freeze, unfreeze_after
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = read_lora(lora)
        if self.lora is not None:
            self._adapt()
        self.cache_dir: Path | None = None
        self._caches: dict[tuple, FrameCache] = {}
        self._keys: Sequence[str] | None = None  # of the current batch
        self._frozen: list[torch.nn.Module] = []
        self.set_epoch(1)

    def _load(
        self,
        model: str | None,
        init: str,
        model_type: str | None,
        config: dict[str, Any],
        normalize: bool | str,
    ) -> None:
        """Create the encoder, and ``stages``, which runs it stage by stage."""
        hf_config = load_encoder_config(model, init, model_type, config)
        self.encoder = load_encoder(model, init, hf_config)
        if hf_config.model_type == "whisper":
            self.log_mel = LogMel(hf_config.num_mel_bins)
            self.stages: Wav2Vec | Whisper = Whisper(self.encoder, self.log_mel)
        else:
            normalize = wants_normalized(model) if normalize == "auto" else bool(normalize)
            self.stages = Wav2Vec(self.encoder, normalize, "convolutions" in self.fast)
            if "dropout" in self.fast:
                replace_dropout(self.encoder)
        if "attention" in self.fast and hf_config.model_type != "wavlm":  # WavLM has its own
            self.encoder.config._attn_implementation = FAST_ATTENTION

    def _adapt(self) -> None:
        """Add adapters to the layers that are not frozen."""
        if self.freeze == self.num_layers:
            raise UserError(
                f"frontend_conf.freeze: found {self.freeze} with lora, which leaves none of the "
                f"{self.num_layers} layers to adapt; give a smaller number"
            )
        first = {"none": 0, "cnn": 0, "all": self.num_layers}.get(self.freeze, self.freeze)
        add_adapters(self, self.lora, first)
        if "dropout" in self.fast and isinstance(self.stages, Wav2Vec):
            replace_dropout(self.encoder)

    @property
    def normalize(self) -> bool:
        """Whether each utterance is scaled to zero mean and unit variance."""
        return self.stages.normalize

    def output_size(self) -> int:
        return self.stages.output_size * (1 if self.layers == "weighted_sum" else len(self.used))

    def output_lengths(self, speech_lengths: torch.Tensor) -> torch.Tensor:
        """Convert numbers of samples to numbers of the encoder's frames: (B,) -> (B,)."""
        return self.stages.output_lengths(speech_lengths)

    def layer_weights(self) -> torch.Tensor | None:
        """Softmax weights of eq. 4, H_l first if included; None without a weighted sum."""
        return self.fusion.weights().detach() if self.layers == "weighted_sum" else None

    def set_epoch(self, epoch: int) -> None:
        """Apply ``freeze`` and ``unfreeze_after`` to the parameters for ``epoch``."""
        thawed = self.unfreeze_after > 0 and epoch > self.unfreeze_after
        self._frozen = [] if thawed else self._modules_to_freeze()
        frozen = {id(p) for module in self._frozen for p in module.parameters()}
        for name, parameter in self.encoder.named_parameters():
            constant = name.split(".")[0] in CONSTANTS
            constant |= self.lora is not None and not is_adapter(name)
            parameter.requires_grad = not constant and id(parameter) not in frozen
        self.train(self.training)

    def keep_layers(self, directory: Path | str | None) -> None:
        """Cache the outputs of permanently frozen layers in ``directory``, if given.

        Call it again after loading other weights.
        """
        for_good = self._frozen_depth() is not None and self.unfreeze_after == 0
        self.cache_dir = Path(directory) if directory and for_good else None
        self._caches.clear()

    def train(self, mode: bool = True) -> "HFFrontend":
        """Set the mode; frozen parts stay in evaluation mode, so that their dropout is off."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def keys(self, speech: torch.Tensor, lengths: torch.Tensor) -> list[str] | None:
        """Cache keys of a batch, to be passed to ``forward``; None without a cache."""
        return None if self.cache_dir is None else digests(speech, lengths)

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor, keys: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples in [-1, 1] at 16 kHz, (B,) -> (B, T, D) frames, (B,).

        Args:
            keys: Output of ``keys``; without it, samples on a GPU are copied back to hash them.
            input_lengths: On the CPU, like the returned lengths.
        """
        self._keys = keys
        if self.training:  # also for layers above cached ones
            self.stages.save_memory(input, self.gradient_checkpointing)
        depth = self._frozen_depth()
        if depth is None:
            hidden, lengths = self._lower(input, input_lengths, 0)
        else:
            hidden, lengths = self._frozen_layers(input, input_lengths, depth)
        hidden |= self._upper(hidden[depth or 0], lengths, depth or 0, max(self.used))
        return self._fuse([hidden[i] for i in self.used]), lengths

    def _fuse(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """Fuse the layers ``used``, each (B, T, D), into one sequence of frames."""
        if self.layers == "weighted_sum":
            layers = [self.fusion(layers)]
        if self.layer_norm:
            layers = [F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers]
        return layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)

    def _frozen_depth(self) -> int | None:
        """Number of frozen layers up to the last used one; None if the layer input is trained."""
        if not self._frozen or self.freeze == "cnn":
            return None
        return min(self.num_layers if self.freeze == "all" else int(self.freeze), max(self.used))

    def _frozen_layers(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, depth: int
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """``_lower`` without gradients, or cached, for layer ``depth`` and used ones below it."""
        needed = sorted({i for i in self.used if i < depth} | {depth})

        def compute(
            speech: torch.Tensor, lengths: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                hidden, frames = self._lower(speech, lengths, depth)
            return torch.stack([hidden[i].float() for i in needed], dim=1), frames

        masked = self.time_mask is not None and self.training  # different in every epoch
        if self.cache_dir is not None and not masked:
            frozen = torch.nn.ModuleList(self._frozen)
            cache = self._cache("layers", frozen, speech.device, depth, needed)
            stacked, lengths = cache(speech, speech_lengths, compute, self._keys)
        else:
            stacked, lengths = compute(speech, speech_lengths)
        return dict(zip(needed, stacked.unbind(1), strict=True)), lengths

    def _cache(
        self, kind: str, module: torch.nn.Module, device: torch.device, *facts: Any
    ) -> FrameCache:
        """Cache of a frozen module, in the precision in which it is computed."""
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
        if (kind, dtype) not in self._caches:
            facts = (kind, self.normalize, self.encoder.config.to_dict(), CACHE_VERSION, *facts)
            facts += (device.type, self.fast)  # which affect rounding
            name = f"{fingerprint(module, *facts)}-{str(dtype).removeprefix('torch.')}"
            self._caches[kind, dtype] = FrameCache(self.cache_dir / name, dtype)
        return self._caches[kind, dtype]

    def _lower(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, depth: int
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """H_l as layer 0 and outputs of the first ``depth`` layers, (B, T, D); lengths (B,)."""
        if not torch.compiler.is_exporting():
            speech = speech[:, : int(speech_lengths.max())]
        stages = self.stages
        features, lengths = self._features(speech, speech_lengths)
        if stages.masks_features:
            features = self._mask_time(features, lengths)
        entry, lengths = stages.project(features, lengths)
        if not stages.masks_features:
            entry = self._mask_time(entry, lengths)
        return {0: entry, **self._run_layers(entry, lengths, 0, depth)}, lengths

    def _upper(
        self, hidden: torch.Tensor, lengths: torch.Tensor, depth: int, top: int
    ) -> dict[int, torch.Tensor]:
        """Outputs of layers ``depth`` + 1 to ``top``, given the output of layer ``depth``.

        The final layer norm, in Whisper and models with ``do_stable_layer_norm``, is part of
        H_{h,N}.
        """
        outputs = self._run_layers(hidden, lengths, depth, top)
        if top < self.num_layers:
            return outputs
        return {**outputs, self.num_layers: self.stages.leave(outputs.get(top, hidden))}

    def _run_layers(
        self, hidden: torch.Tensor, lengths: torch.Tensor, first: int, last: int
    ) -> dict[int, torch.Tensor]:
        """Outputs of layers ``first`` + 1 to ``last``, given the output of layer ``first``."""
        if first == last:
            return {}
        mask = None
        if not none_padded(lengths, hidden.size(1)):
            mask = frame_mask(lengths, hidden.size(1), hidden.device)
        hidden = self.stages.enter(hidden, mask, lengths) if first == 0 else hidden
        options = self.stages.layer_options(hidden, mask)
        outputs = {}
        for number in range(first, last):
            hidden = self.stages.layers[number](hidden, **options)
            if isinstance(hidden, tuple):
                hidden = hidden[0]
            outputs[number + 1] = hidden
        return outputs

    def _mask_time(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Set random spans of frames in (B, T, D) to 0, in training and with ``time_mask``."""
        if self.time_mask is None or not self.training:
            return features
        # drawn on the CPU, since ESPnet reads back the widest mask
        masks = self.time_mask(torch.ones(*features.shape[:2], 1), lengths)[0] == 0.0
        return features.masked_fill(beside(masks, features.device), 0.0)

    def _features(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features before ``project``, cached if frozen alone: (B, L), (B,) -> (B, T, C), (B,)."""
        alone = self.freeze == "cnn" and bool(self._frozen)
        if not alone or self.cache_dir is None or isinstance(self.stages, Whisper):
            return self.stages.features(speech, speech_lengths)

        def compute(
            speech: torch.Tensor, lengths: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                features, frames = self.stages.features(speech[:, : int(lengths.max())], lengths)
            return features.unsqueeze(1), frames

        cache = self._cache("convolutions", self.encoder.feature_extractor, speech.device)
        kept, lengths = cache(speech, speech_lengths, compute, self._keys)
        return kept.squeeze(1), lengths

    def _modules_to_freeze(self) -> list[torch.nn.Module]:
        if self.freeze in ("none", "all"):
            return [self.encoder] if self.freeze == "all" else []
        if self.freeze == "cnn":
            return self.stages.convolutions()
        below = self.stages.convolutions() + self.stages.below_layers()
        return below + list(self.stages.layers[: self.freeze])
