"""Import this before ESPnet.

ESPnet prints to standard output, where results may be, that it found no Flash Attention, which
nothing here uses: its attention is imported once without a word.

ESPnet's text modules import g2p_en, which asks NLTK to download data it lacks. Nothing here needs
that data, and a cluster node may have no network to wait for: g2p_en is imported once with the
download refused, and later imports find it loaded.
"""

import contextlib
import io
import warnings

from ser.lang.g2p import load_g2p_en

# a text cleaner that ESPnet imports and this recipe never calls
warnings.filterwarnings("ignore", category=SyntaxWarning, module="tacotron_cleaner")
# ESPnet 202511 still calls torch.cuda.amp
warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.cuda.amp.*")
load_g2p_en()
with contextlib.redirect_stdout(io.StringIO()):
    import espnet.nets.pytorch_backend.transformer.attention  # noqa: F401
