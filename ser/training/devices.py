"""Device checks before anything is computed."""

import sys

from ser.errors import UserError


def require_gpu(ngpu: int) -> None:
    """Check that torch finds a GPU unless ``ngpu`` is 0.

    Raises:
        UserError: there is none; says whether the torch build or the driver is the reason.
    """
    import torch

    if ngpu <= 0 or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = "is a build for the CPU; make TORCH=cuda install brings the one for GPUs"
    else:
        why = (
            "finds no CUDA GPU on this machine; check nvidia-smi, and that its driver is new "
            f"enough for CUDA {torch.version.cuda}"
        )
    raise UserError(f"--ngpu {ngpu}: torch {torch.__version__} {why}; --ngpu 0 uses the CPU")


def lacks_bfloat16(ngpu: int) -> str | None:
    """Name the device if it only emulates bfloat16; None if it supports it.

    GPUs before Ampere emulate it, as do Intel and AMD processors without AMX or AVX-512 BF16.
    """
    import torch

    if ngpu > 0:
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if real else "GPU"
    has = torch.cpu.get_capabilities()
    if has.get("architecture") != "x86_64" or has.get("amx_bf16") or has.get("avx512_bf16"):
        return None
    return "processor"


def find_device(name: str | None) -> str:
    """Return ``name`` if it is a working device of this machine.

    ``auto``, or None, is a GPU if there is one, or the CPU, with a warning, if this build of torch
    cannot use it. TF32 convolutions are disabled on a GPU, for 32 bits as on the CPU.

    Raises:
        UserError: no such device, or it does not work.
    """
    import torch

    gpu = torch.cuda.is_available()
    automatic = name is None or name == "auto"
    if automatic:
        name = "cuda" if gpu else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and not gpu:
            raise RuntimeError(f"torch {torch.__version__} finds no CUDA GPU on this machine")
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, ImportError) as err:
        what = str(err).splitlines()[0]
        if automatic and name != "cpu":
            print(f"warning: the GPU does not compute ({what}); using the CPU", file=sys.stderr)
            return "cpu"
        raise UserError(f"--device {name}: {what}; use cpu, or auto for what there is") from None
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return name
