"""Import this before transformers.

If SciPy is installed, transformers imports its optimisers for object detection losses, which takes
nearly a second and is not needed here.
"""

import transformers.utils

transformers.utils.is_scipy_available = lambda: False

from transformers.initialization import no_init_weights  # noqa: E402

__all__ = ["no_init_weights"]
