"""Import this before ESPnet.

ESPnet prints to standard output, where results may be, that it found no Flash Attention, which
nothing here uses: its attention is imported once without a word.

Half of the time of its import would go into two things that nothing here needs. typeguard rewrites
each function so that it checks the types of its arguments; here it leaves them as they are, as it
does under ``python -O``. And ESPnet's text modules import g2p_en, with NLTK and pandas, which asks
for a download where a cluster node may have no network: they are given an empty module instead.
Stage 2, which does use g2p_en, finds the real one.
"""

import contextlib
import importlib
import io
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec

import typeguard

# a text cleaner that ESPnet imports and this recipe never calls
warnings.filterwarnings("ignore", category=SyntaxWarning, module="tacotron_cleaner")
# ESPnet 202511 still calls torch.cuda.amp
warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.cuda.amp.*")

typeguard.typechecked = lambda target: target
with contextlib.redirect_stdout(io.StringIO()):
    importlib.import_module("espnet.nets.pytorch_backend.transformer.attention")
real = sys.modules.get("g2p_en")
sys.modules["g2p_en"] = module_from_spec(ModuleSpec("g2p_en", None))
importlib.import_module("espnet2.text.phoneme_tokenizer")
del sys.modules["g2p_en"]
if real is not None:
    sys.modules["g2p_en"] = real
