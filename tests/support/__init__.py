"""What several tests share."""

from pathlib import Path

from ser.data.tables import own_ids, read_table

ROOT = Path(__file__).resolve().parents[2]


def by_own_id(path: Path, allow_empty: bool = False) -> dict[str, str]:
    """Read a table of data/<corpus>/all, with the ids that the corpus itself has."""
    own = own_ids(path.parent)
    return {own[utt]: value for utt, value in read_table(path, allow_empty).items()}
