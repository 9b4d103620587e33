"""Files of a packed model: in a folder, in a zip that is read in place, or from the hub."""

from __future__ import annotations

import contextlib
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from ser.errors import UserError, one_line
from ser.training.experiment import NETWORK, UNITS

if TYPE_CHECKING:
    import torch

CONFIG, CARD = "config.json", "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LFS_POINTER = b"version https://git-lfs"  # first bytes of a Git LFS pointer file
TEXT_LIMIT = 16 << 20  # bytes of a text file or of the header of a weight file
ZIP_LIMIT = 100  # unpacked bytes per byte of the archive; weights hardly compress
AGAIN = "copy or download it again, or pack it again: ser pack exp/<corpus>/<tag>"
WHAT = "a packed model (folder or zip), a hub id such as owner/name, or exp/<corpus>/<tag>"


class Folder:
    """A folder."""

    def __init__(self, path: Path):
        self.where = str(path)
        self.path = path

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        return open(self.path / name, "rb")

    def graph(self, name: str) -> str | bytes:
        """The graph as onnxruntime opens it: a path or its bytes."""
        return str(self.path / name)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path / name)


class Zip:
    """A zip that is read in place after its members are checked to be harmless."""

    def __init__(self, path: Path):
        self.where = str(path)
        try:
            self.file = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise UserError(
                f"{path}: not a model: no zip archive, or one that was cut short; give {WHAT}"
            ) from None
        self.members = {info.filename: info for info in self.file.infolist()}
        refuse_members(path, self.file.infolist())
        if any(name.endswith("/data.pkl") for name in self.members):
            raise UserError(f"{path}: a checkpoint of PyTorch, which is not unpickled; give {WHAT}")
        within = [name for name in self.members if name.endswith(f"/{CONFIG}")]
        # a zip of the folder itself rather than of its files
        nested = CONFIG not in self.members and len(within) == 1
        self.folder = within[0].removesuffix(CONFIG) if nested else ""

    def has(self, name: str) -> bool:
        return self.folder + name in self.members

    def size(self, name: str) -> int:
        return self.members[self.folder + name].file_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self.file.open(self.folder + name) as stream:
                yield stream
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as err:
            raise UserError(f"{self.where}: {name}: damaged ({err}); {AGAIN}") from None

    def graph(self, name: str) -> str | bytes:
        with self.open(name) as stream:
            return stream.read()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load

        with self.open(name) as stream:
            return load(stream.read())


Files = Folder | Zip


def refuse_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Reject an archive that would write outside its folder, or is a zip bomb.

    Raises:
        UserError: Absolute names, names with ``..``, links, devices, duplicate names, or members
            whose stated size is more than ZIP_LIMIT times the archive.
    """
    cure = "do not unpack it; get it again from somebody whom you trust"
    seen = set()
    for info in members:
        name = info.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise UserError(f"{path}: its member {name!r} leads out of the folder; {cure}")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path}: its member {name!r} is a link or a device; {cure}")
        if name in seen:
            raise UserError(f"{path}: its member {name!r} is there twice; {cure}")
        seen.add(name)
    unpacked, packed = sum(info.file_size for info in members), path.stat().st_size
    if unpacked > ZIP_LIMIT * packed:
        raise UserError(
            f"{path}: {packed} bytes that unpack to {unpacked}, more than {ZIP_LIMIT} times as "
            f"many; {cure}"
        )


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
        what = one_line(err.__cause__ or err, 80)
        raise UserError(
            f"{hub_id}: no folder of this name here, and the Hugging Face hub cannot be reached "
            f"({what}); check the network, or download the model on another machine (hf download) "
            "and give its folder"
        ) from None


def read_text(files: Files, name: str) -> bytes:
    """Read the bytes of a text file; UserError if it is missing, too large or an LFS pointer."""
    if not files.has(name):
        raise UserError(f"{files.where}: {name} is missing in it; {AGAIN}")
    if files.size(name) > TEXT_LIMIT:
        raise UserError(f"{files.where}: {name} has {files.size(name)} bytes of text; {AGAIN}")
    with files.open(name) as stream:
        content = stream.read()
    if content.startswith(LFS_POINTER):
        raise _is_pointer(files, name)
    return content


def _is_pointer(files: Files, name: str) -> UserError:
    return UserError(
        f"{files.where}: {name} is a pointer of Git LFS, not the file itself; get the file with "
        "`git lfs pull` in the cloned folder, and pack the zip again if it is one"
    )


def read_shapes(files: Files, name: str) -> dict[str, list[int]]:
    """Read the tensor shapes of a safetensors file: 8 bytes of length, JSON, data."""
    where = f"{files.where}: {name}"
    if not files.has(name):
        raise UserError(f"{where} is missing, which {CONFIG} names; {AGAIN}")
    size = files.size(name)
    with files.open(name) as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise _is_pointer(files, name)
        length = int.from_bytes(start[:8], "little")
        text = (start[8:] + stream.read(min(length, TEXT_LIMIT)))[:length]
    try:
        header = {key: entry for key, entry in json.loads(text).items() if key != "__metadata__"}
        shapes = {key: list(entry["shape"]) for key, entry in header.items()}
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f"{where}: not a safetensors file, or cut short ({size} bytes); {AGAIN}"
        ) from None
    if end != size:
        raise UserError(f"{where}: cut short or damaged: {size} bytes instead of {end}; {AGAIN}")
    return shapes


def read_tensors(files: Files, name: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file, memory-mapped from a folder; UserError if it is damaged."""
    from safetensors import SafetensorError

    try:
        return files.tensors(name)
    except SafetensorError as err:
        raise UserError(f"{files.where}: {name}: damaged ({err}); {AGAIN}") from None
