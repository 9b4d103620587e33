"""Done-markers, written by a finished stage and checked by the next one.

A stage writes ``<dir>/.done`` last. It is JSON and holds everything that determines the stage's
output (options, digests of its inputs), so that a rerun can distinguish "already done" from
"done with other settings".
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ser.errors import UserError
from ser.files import atomic_write

MARKER = ".done"


def digest(lines: Iterable[str]) -> str:
    """SHA-256 over ``lines``, which hold no line break, as hex."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def file_digest(*paths: Path | str) -> str:
    """SHA-256 over the contents of ``paths`` in the given order, as hex."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return whole.hexdigest()


def read_marker(directory: Path | str) -> dict[str, Any] | None:
    """Read the settings recorded by the stage that finished in ``directory``; None if none did."""
    try:
        return json.loads((Path(directory) / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # absent or damaged
        return None


def is_done(directory: Path | str, settings: dict[str, Any]) -> bool:
    """True if the stage finished in ``directory`` with exactly these ``settings``."""
    return read_marker(directory) == json.loads(json.dumps(settings))


def mark_done(directory: Path | str, settings: dict[str, Any]) -> None:
    """Record that the stage finished in ``directory``; call after everything is written."""
    with atomic_write(Path(directory) / MARKER) as stream:
        json.dump(settings, stream, indent=1, sort_keys=True)
        stream.write("\n")


def require_done(directory: Path | str, stage: int, what: str) -> dict[str, Any]:
    """Read the marker of ``directory``; UserError that says which stage makes ``what``."""
    marker = read_marker(directory)
    if marker is None:
        raise UserError(
            f"{directory}: {what} not found (or not finished); make it first: "
            f"./run.sh --stage {stage} --stop-stage {stage} with the same --corpus and options"
        )
    return marker
