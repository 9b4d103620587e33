"""Import this before transformers.

Where SciPy is installed, transformers imports its optimisers for losses of object detection, which
takes nearly a second and nothing here uses.
"""

import transformers.utils

transformers.utils.is_scipy_available = lambda: False

from transformers.initialization import no_init_weights  # noqa: E402

__all__ = ["no_init_weights"]
