"""Import this before ESPnet.

ESPnet prints to standard output, where results may go, that it found no Flash Attention, which is
not used here: its attention is imported once with output suppressed.

Most of its import time would be spent on things that are not needed here. typeguard's runtime type
checks are disabled, as under ``python -O``. Some modules are replaced by empty ones while ESPnet
is imported: g2p_en, with NLTK and pandas, which tries to download data although a cluster node may
have no network (stage 2, which uses it, imports the real one), SciPy's filters, and a speech
synthesiser's alignments, with Numba. wandb is imported on first use.
"""

import ser.models.transformers_import  # noqa: F401, I001 (has to come first)

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import Any

import typeguard

# a text cleaner that ESPnet imports and this recipe never calls
warnings.filterwarnings("ignore", category=SyntaxWarning, module="tacotron_cleaner")
# ESPnet 202511 still calls torch.cuda.amp
warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.cuda.amp.*")

typeguard.typechecked = lambda target: target


@contextlib.contextmanager
def _replaced(name: str, **contents: object) -> Iterator[None]:
    """Temporarily replace a module by one that only has ``contents``."""
    real = sys.modules.get(name)
    sys.modules[name] = module_from_spec(ModuleSpec(name, None))
    vars(sys.modules[name]).update(contents)
    yield
    del sys.modules[name]
    if real is not None:
        sys.modules[name] = real


def _of_wandb(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(importlib.import_module("wandb"), name)


with (
    _replaced("g2p_en"),
    _replaced("scipy.signal"),
    _replaced("espnet2.gan_tts.jets.alignments", AlignmentModule=type("AlignmentModule", (), {})),
    _replaced("wandb", __getattr__=_of_wandb),
    contextlib.redirect_stdout(io.StringIO()),
):
    for name in ("espnet2.train.preprocessor", "espnet2.tasks.abs_task"):
        importlib.import_module(name)
