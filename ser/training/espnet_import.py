"""Import this before ESPnet.

ESPnet prints to standard output, where results may be, that it found no Flash Attention, which
nothing here uses: its attention is imported once without a word.

Most of the time of its import would go into things that nothing here needs. typeguard rewrites
each function so that it checks the types of its arguments; here it leaves them as they are, as it
does under ``python -O``. Some modules are empty while ESPnet is imported: g2p_en, with NLTK and
pandas, which asks for a download where a cluster node may have no network (stage 2, which does use
it, finds the real one), SciPy's filters, and a speech synthesiser's alignments, with Numba. wandb
is imported when it is first used.
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
    """Let a module be one that only has ``contents``."""
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
