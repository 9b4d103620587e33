"""Download models from the Hugging Face hub."""

import re
from pathlib import Path

from ser.errors import UserError
from ser.predict.files import CONFIG
from ser.training.experiment import NETWORK, UNITS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def download(hub_id: str, cache_dir: str | Path | None) -> Path:
    """Download a model snapshot from the hub; files already cached need no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id,
                cache_dir=cache_dir,
                allow_patterns=[CONFIG, NETWORK, UNITS, "*.safetensors", "*.onnx"],
            )
        )
    except GatedRepoError:
        raise UserError(
            f"{hub_id}: this model of the Hugging Face hub is given on request; ask for it on its "
            "page, log in (hf auth login) and try again"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{hub_id}: neither a folder here nor a model on the Hugging Face hub; check the "
            "spelling, or log in if it is a private one (hf auth login)"
        ) from None
    except Exception as err:  # the hub client and its transport raise many kinds of errors
        if not isinstance(err, OSError | ValueError) and "httpx" not in type(err).__module__:
            raise
        what = " ".join(str(err.__cause__ or err).split())[:80]
        raise UserError(
            f"{hub_id}: no folder of this name here, and the Hugging Face hub cannot be reached "
            f"({what}); check the network, or download the model on another machine (hf download) "
            "and give its folder"
        ) from None
