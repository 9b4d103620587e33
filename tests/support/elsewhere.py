"""A device that is not the CPU where there is no GPU: tensors that say they are elsewhere.

Each wraps a tensor of the CPU, on which all is computed; but as with CUDA, an operation on tensors
of both devices is an error, and what the host would wait for is counted. Registering the device
changes what torch takes for the accelerator of this machine, so it is done in a process of its own:
``process``.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from tests.support import ROOT

NAME = "elsewhere"
# CUDA too takes lengths and the source of a copy from the CPU, and an index, but no values with it.
MIXING = [f"aten::{name}" for name in ("copy_", "_to_copy", "_pack_padded_sequence")]
MIXING += ["aten::_ctc_loss", "aten::_ctc_loss_backward"]
INDEXING = [f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_")]
WRITTEN_OUT = 0  # among torch's ways to compute attention; the others are kernels of a device


@contextlib.contextmanager
def process(context: BaseContext) -> Iterator[Callable]:
    """A new process in which the device exists; calls a function there, and returns its value."""
    with context.Pool(1, initializer=_register) as pool:
        yield lambda function, *args: pool.apply(function, args)


WAITING = [f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select")]
WAITING += [f"aten::{name}" for name in ("equal", "is_nonzero", "_unique2")]
waits: list[str] = []  # for what the device was waited: the function in ser/


class Elsewhere(TorchDispatchMode):
    """Within it ``.to("elsewhere")`` and ``device="elsewhere"`` work."""

    def __enter__(self):
        waits.clear()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(leaf, _Wrapped) for leaf in tree_leaves((args, kwargs))):
            return _run(func, args, kwargs)
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type != NAME:
            return func(*args, **kwargs)
        if func._schema.name == "aten::_to_copy" and not kwargs.get("non_blocking"):
            _wait()
        return _Wrapped(func(*args, **{**kwargs, "device": "cpu"}))


def _wait() -> None:
    """Note that the host stands still until the device has computed what there is."""
    frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT / "ser"))]
    waits.append(frames[-1].name if frames else "outside ser")


class _Wrapped(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor):
        wrapped = cls._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        wrapped.raw = raw
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        _wait()
        return self.raw.tolist()


def _run(func, args: tuple, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    taken = (args[0], *args[2:]) if name in INDEXING else (args, kwargs)
    tensors = [leaf for leaf in tree_leaves(taken) if isinstance(leaf, torch.Tensor)]
    here = [t for t in tensors if not isinstance(t, _Wrapped) and t.dim() > 0]
    if here and name not in MIXING:
        found = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"{name}: tensors of two devices: {found}")
    if name == "aten::_fused_sdp_choice":
        return WRITTEN_OUT
    target = kwargs.get("device")
    masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, torch.Tensor)]
    by_mask = name in INDEXING and any(leaf.dtype == torch.bool for leaf in masks)
    to_cpu = target is not None and torch.device(target).type == "cpu"
    across = name == "aten::copy_" and (here or not isinstance(args[0], _Wrapped))
    if name in WAITING or by_mask or to_cpu or across and not kwargs.get("non_blocking"):
        _wait()
    if target is not None:
        kwargs = {**kwargs, "device": "cpu"}
    raw_args, raw_kwargs = tree_map_only(_Wrapped, lambda t: t.raw, (args, kwargs))
    result = func(*raw_args, **raw_kwargs)
    if target is not None and torch.device(target).type == "cpu":
        return result
    if name.endswith("_"):  # in place
        return args[0] if func._schema.returns else None
    if name == "aten::_pack_padded_sequence":  # batch sizes stay on the CPU
        return _Wrapped(result[0]), result[1]
    return tree_map_only(torch.Tensor, _Wrapped, result)


def _register() -> None:
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(NAME, _DummyBackendModule())
    # torch.tensor(..., device=...) calls these itself
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
    kernels.impl("_copy_from", _copy_from, "PrivateUse1")
    _register.kernels = kernels  # which are gone with the library


def _empty_strided(size, stride, *, dtype=None, **_) -> torch.Tensor:
    return _Wrapped(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False):
    if not non_blocking:
        _wait()
    target.raw.copy_(source)
    return target
