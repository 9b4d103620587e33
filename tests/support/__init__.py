"""What several tests share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

from ser.data.tables import own_ids, read_table

ROOT = Path(__file__).resolve().parents[2]


def by_own_id(path: Path, allow_empty: bool = False) -> dict[str, str]:
    """Read a table of data/<corpus>/all, with the ids that the corpus itself has."""
    own = own_ids(path.parent)
    return {own[utt]: value for utt, value in read_table(path, allow_empty).items()}


def load_script(path: str) -> ModuleType:
    """The module of a script of the repository that is in no package, such as local/x.py."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str((ROOT / path).parent), *sys.path]):  # as for a script
        spec.loader.exec_module(module)
    return module
