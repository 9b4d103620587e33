"""Transcripts given by the user: the --text file."""

import codecs
import re
from dataclasses import replace
from pathlib import Path

from ser.corpora import Reading
from ser.data.tables import Utterance
from ser.errors import UserError, join_problems, not_utf8


def add_texts(path: Path, reading: Reading) -> list[Utterance]:
    """Replace the transcripts of ``reading`` with those of ``path``.

    A line is ``<utterance id> words`` or, in corpora with sentence codes, ``<sentence> words`` for
    all of its utterances without their own line. An utterance without a line has no words, and a
    line of no utterance is left out, since copies of a corpus may lack recordings; both are
    counted.

    Raises UserError, with the lines, for a file that is empty or in an encoding other than UTF-8
    or UTF-16 with BOM, a repeated key, and keys of which the corpus has none.
    """
    lines = _read_lines(path)
    utterances = reading.utterances
    known = {u.utt_id for u in utterances} | {u.sentence for u in utterances if u.sentence}
    words: dict[str, str] = {}
    problems, others = [], []
    for number, key, text in lines:
        if key in words:
            problems.append(f"{path}:{number}: {key} stands here a second time")
        elif key not in known and key not in reading.left_out:
            others.append(f"{path}:{number}: no utterance of the corpus is called {key!r}")
        words[key] = text
    if others and known.isdisjoint(words):
        problems += others
    elif others:
        print(f"left out: {len(others)} lines of --text, e.g. {others[0]}")
    if problems:
        expected = f"expected '<utterance id> words', e.g. '{utterances[0].utt_id} ...'"
        sentences = sorted(u.sentence for u in utterances if u.sentence)
        if sentences:
            expected += f", or '<sentence> words', e.g. '{sentences[0]} ...'"
        raise UserError(join_problems(problems, f"{expected}; correct the file of --text"))
    result = [replace(u, text=words.get(u.utt_id, words.get(u.sentence, ""))) for u in utterances]
    spoken = sum(bool(u.text.strip()) for u in result)
    message = f"{path}: words for {spoken} of {len(result)} utterances"
    if spoken < len(result):
        message += f"; the other {len(result) - spoken} count as without words"
    print(message)
    return result


def _read_lines(path: Path) -> list[tuple[int, str, str]]:
    """Read (line number, key, words) of every non-blank line."""
    lines = []
    for number, line in enumerate(re.split("\r\n|\r|\n", _decode(path)), start=1):
        key, *words = line.removeprefix("\ufeff").split(maxsplit=1)[:2] or [""]
        if key:
            lines.append((number, key, " ".join(words).strip()))
    if not lines:
        raise UserError(f"--text {path}: the file is empty; expected lines '<utterance id> words'")
    return lines


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Windows' "Unicode"
            return content.decode("utf-16")
        text = content.decode("utf-8-sig")  # editors on Windows write a BOM
    except UnicodeDecodeError as err:
        cure = "convert it, e.g. from the usual Western or Chinese encoding: iconv -f CP1252"
        raise not_utf8(path, err, f"{cure} (or GB18030) -t UTF-8 {path.name} > utf8.txt") from err
    if "\0" in text:
        raise UserError(
            f"{path}: holds zero bytes, as UTF-16 does; convert it: iconv -f UTF-16LE -t UTF-8 "
            f"{path.name} > utf8.txt"
        )
    return text
