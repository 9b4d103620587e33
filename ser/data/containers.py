"""Checks of audio containers that libsndfile does not make.

libsndfile truncates files silently, reads only the first of several recordings in a file and
rejects some headers that others accept. Here the first two are errors and headers are repaired.
"""

import io
import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

from ser.errors import UserError

# Programs that write to a pipe cannot know the length and set the size of the data chunk to a
# number near the end of the 32-bit range (libsndfile then reads to the end of the file) or to 0
# (it then reads nothing).
STREAMING_SIZE = 0x7FFFF000
# Magic bytes of chunked files -> byte order of the chunk sizes, and id of the sample chunk.
CHUNKED = {b"RIFF": ("<", b"data"), b"RIFX": (">", b"data"), b"FORM": (">", b"SSND")}
CHUNKS = (b"data", b"LIST", b"fact", b"cue ", b"bext", b"id3 ", b"smpl", b"fmt ")
# In libsndfile's log: the size of the samples, or of the file if no other is given.
SHORTENED = r"(?m)^ *(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)"
CHUNK_NAME = re.compile(rb"[ -~]{4}")
# Where a file of a format begins, for formats whose parts are found by searching: FLAC, AU, CAF,
# RF64 and Sony Wave64. A match inside the samples is not a start unless it can be opened.
STARTS = {
    b"fLaC": re.compile(rb"fLaC[\0\x80]\0\0\x22"),
    b".snd": re.compile(rb"\.snd\0\0"),
    b"caff": re.compile(rb"caff\0\x01\0\0desc"),
    b"RF64": re.compile(rb"RF64[\0-\xff]{4}WAVEds64"),
    b"riff": re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"),
}
HEADERS = (*CHUNKED, b"OggS", b"ID3", *STARTS)  # first bytes of audio files
FLAC_BLOCK = 4096  # samples decoded at once to count them
FLAC_UNKNOWN = (1 << 36) - 1  # the maximum of the header field


@contextmanager
def open_sound(path: Path | str) -> Iterator[soundfile.SoundFile]:
    """Open ``path`` for decoding; the format is detected from the content, not the name.

    Headers that libsndfile does not understand are repaired in memory: those of FLAC written
    to a pipe, and of WAV files that lack the padding byte of an odd chunk.
    """
    with open(path, "rb") as stream:
        source: Any = stream.fileno()
        head = stream.read(26)
        if head[:4] == b"fLaC" and not int.from_bytes(head[18:26], "big") & FLAC_UNKNOWN:
            data = head + stream.read()
            source = io.BytesIO(_with_flac_length(data, _flac_length(data)))
        elif _in_chunks(head) and (odd := _sample_chunk(path, stream)[2]):
            stream.seek(0)
            data = stream.read()
            for end in reversed(odd):
                data = data[:end] + b"\0" + data[end:]
            source = io.BytesIO(data)
        os.lseek(stream.fileno(), 0, os.SEEK_SET)  # libsndfile reads from the current position
        with soundfile.SoundFile(source, closefd=False) as sound:
            yield sound


def check_length(path: Path | str, log: str) -> None:
    """Raise UserError if libsndfile truncated the file, which only its log says."""
    for promised, found in re.findall(SHORTENED, log):
        if int(found) < int(promised) < STREAMING_SIZE:
            raise truncated(path, f"{promised} bytes", found)


def check_container(path: Path | str, size: int) -> None:
    """Raise UserError if ``path`` has no samples, ends within a page, or has data after its end."""
    with open(path, "rb") as stream:
        head = stream.read(12)
        if _in_chunks(head):
            length, start, _ = _sample_chunk(path, stream)
            if length == 0 < (held := size - start):
                raise UserError(
                    f"{path}: its header says 0 samples, but {held} bytes follow (it was written "
                    "through a pipe); write the length: ffmpeg -ignore_length 1 -i FILE FIXED.wav"
                )
            _check_rest(path, stream, length, start + length)
            _check_parts(path, stream, _chunked_parts(stream))
        elif b"RIFF".startswith(head[:4]):
            raise truncated(path, "a RIFF header of 44 bytes", f"{size} bytes")
        elif head[:4] == b"OggS":
            _check_parts(path, stream, _ogg_parts(path, stream, size))
        elif begins := STARTS.get(head[:4]):
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                starts = [match.start() for match in begins.finditer(data)]
            _check_parts(path, stream, starts)
        elif head[:3] == b"ID3" or _is_mpeg(head):
            _check_parts(path, stream, _mp3_parts(stream))
        elif head[:7] == b"NIST_1A":
            _check_sphere(path, stream, size)


def _in_chunks(head: bytes) -> bool:
    return head[:4] in CHUNKED and (len(head) < 12 or head[8:11] in (b"WAV", b"AIF"))


def _sample_chunk(path: Path | str, stream: BinaryIO) -> tuple[int, int, list[int]]:
    """Length and offset of the samples in bytes, and the ends of odd chunks without padding."""
    stream.seek(0)
    order, wanted = CHUNKED[stream.read(12)[:4]]
    odd = []
    while True:
        chunk = stream.read(8)
        if len(chunk) < 8:
            raise truncated(path, "a chunk of samples", "none")
        name, length = struct.unpack(f"{order}4sI", chunk)
        if name == wanted:
            return length, stream.tell(), odd
        end = stream.seek(length, os.SEEK_CUR)
        if length % 2:  # chunks start at even offsets, or should
            if stream.read(4) in CHUNKS:
                odd.append(end)
                stream.seek(end)
            else:
                stream.seek(end + 1)


def _check_rest(path: Path | str, stream: BinaryIO, length: int, end: int) -> None:
    """Reject data after the samples that the header counts, unless it is another chunk."""
    stream.seek(end)
    rest = stream.read()
    name = rest[length % 2 :][:4]
    if len(rest) < length // 100 or len(rest) < 8 or not any(rest) or CHUNK_NAME.fullmatch(name):
        return
    with soundfile.SoundFile(path) as sound:
        lost = sound.frames / sound.samplerate * len(rest) / length
    raise UserError(
        f"{path}: its header counts {length} bytes of samples, but {len(rest)} more follow, and "
        f"{lost:.2f} s would be lost; write it anew: ffmpeg -ignore_length 1 -i FILE NEW.wav"
    )


def _chunked_parts(stream: BinaryIO) -> list[int]:
    """Byte offsets of the RIFF or AIFF files in a file."""
    starts: list[int] = []
    place = 0
    while True:
        stream.seek(place)
        head = stream.read(12)
        if len(head) < 12 or not _in_chunks(head):
            return starts
        starts.append(place)
        size = struct.unpack(f"{CHUNKED[head[:4]][0]}I", head[4:8])[0]
        place += 8 + size + size % 2


def _ogg_parts(path: Path | str, stream: BinaryIO, size: int) -> list[int]:
    """Byte offsets of the chained streams in an Ogg file."""
    starts: list[int] = []
    place, in_header = 0, False
    while place < size:
        stream.seek(place)
        page = stream.read(27)
        if page[:4] != b"OggS":
            break  # a tag
        lengths = stream.read(page[26]) if len(page) == 27 else b""
        if len(page) < 27 or len(lengths) < page[26]:
            raise truncated(path, "another page", f"{size - place} bytes of it")
        begins = bool(page[5] & 2)
        if begins and not in_header:
            starts.append(place)
        in_header = begins
        place += 27 + len(lengths) + sum(lengths)
    if place > size:
        raise truncated(path, f"{place} bytes", f"{size}")
    return starts


def _mp3_parts(stream: BinaryIO) -> list[int]:
    """Byte offsets of concatenated MP3 files, if the first states its length."""
    starts = []
    place = 0
    while True:
        stream.seek(place)
        head = stream.read(10)
        if head[:3] == b"ID3":  # a tag; its size has seven bits per byte
            place += 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:10])))
        elif head[:3] == b"TAG" and starts:
            place += 128
        elif not _is_mpeg(head):
            return starts
        else:
            starts.append(place)
            stream.seek(place)
            frame = stream.read(64)
            mark = max(frame.find(b"Xing"), frame.find(b"Info"))
            if mark < 0 or not frame[mark + 7] & 2:
                return starts  # libmpg123 reads to the end of the file
            field = mark + 8 + 4 * (frame[mark + 7] & 1)
            place += max(1, int.from_bytes(frame[field : field + 4], "big"))


def _check_sphere(path: Path | str, stream: BinaryIO, size: int) -> None:
    """Reject SPHERE files with fewer or more bytes of samples than their header says."""
    stream.seek(0)
    head = stream.read(1024)
    numbers = (b"sample_count", b"channel_count", b"sample_n_bytes")
    found = [re.search(rb"(?m)^%s -\w+ (\d+)" % name, head) for name in numbers]
    start = re.match(rb"NIST_1A\s+(\d+)", head)
    if not start or not all(found) or b"shorten" in head:
        return  # rejected by libsndfile
    promised, held = math.prod(int(match[1]) for match in found), size - int(start[1])
    if held < promised:
        raise truncated(path, f"{promised} bytes", f"{held}")
    if held > promised + promised // 100:
        raise UserError(
            f"{path}: its header counts {promised} bytes of samples, but {held - promised} more "
            "follow, which would be read as sound; copy it again, or cut them off"
        )


def _is_mpeg(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _check_parts(path: Path | str, stream: BinaryIO, starts: Sequence[int]) -> None:
    """Reject several recordings in one file; libsndfile reads only the first."""
    if len(starts) < 2:
        return
    stream.seek(0)
    data = stream.read()
    lost = 0.0
    for start, end in zip(starts[1:], [*starts[2:], len(data)], strict=True):
        try:
            with soundfile.SoundFile(io.BytesIO(data[start:end])) as sound:
                lost += sound.frames / sound.samplerate
        except soundfile.SoundFileError:
            continue
    if lost:
        raise UserError(
            f"{path}: {len(starts)} recordings in one file; only the first would be read, and "
            f"{lost:.2f} s lost; join them properly: ffmpeg -i FILE NEW.wav"
        )


def _with_flac_length(data: bytes, samples: int) -> bytes:
    described = int.from_bytes(data[18:26], "big") & ~FLAC_UNKNOWN
    return data[:18] + (described | samples).to_bytes(8, "big") + data[26:]


def _flac_length(data: bytes) -> int:
    """Count the samples of a FLAC file whose header does not; one if none can be decoded.

    Reading up to the very end or beyond fails, so the length is one more than can be read.
    """
    endless = _with_flac_length(data, FLAC_UNKNOWN)
    readable = 0
    with soundfile.SoundFile(io.BytesIO(endless)) as sound, suppress(soundfile.SoundFileError):
        while True:
            sound.read(FLAC_BLOCK, dtype="int16")
            readable += FLAC_BLOCK
    step = FLAC_BLOCK
    while step := step // 2:
        with soundfile.SoundFile(io.BytesIO(endless)) as sound, suppress(soundfile.SoundFileError):
            sound.seek(readable)
            sound.read(step, dtype="int16")
            readable += step
    return readable + 1


def truncated(path: Path | str, promised: str, found: str) -> UserError:
    """Error for a file that ends too soon."""
    return UserError(
        f"{path}: truncated: its header promises {promised}, the file holds {found}; "
        "copy it again from where it came"
    )
