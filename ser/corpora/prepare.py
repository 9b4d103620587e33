"""Stage 1: a corpus on disk -> ``data/<corpus>/all``."""

import importlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ser.corpora import MAKERS, READERS, Reading
from ser.corpora.emobox import add_splits
from ser.corpora.spec import Counts, Spec, choose_emotions, dumped, load_spec
from ser.corpora.texts import add_texts
from ser.data.audio import probe_files
from ser.data.tables import UNDECIDED, Utterance, read_table, write_data_dir
from ser.errors import UserError, join_problems
from ser.files import remove_leftovers
from ser.provenance import EGS
from ser.stage import digest, file_digest, is_done, read_marker


def prepare(
    corpus: str,
    data_dir: Path,
    corpus_dir: Path | None = None,
    emotions: str = "",
    allow_partial: bool = False,
    seed: int = 0,
    nj: int = 4,
    egs: Path = EGS,
    text: Path | None = None,
    undecided: bool = False,
) -> None:
    """Write ``data_dir/<corpus>/all`` from the corpus in ``corpus_dir``.

    ``emotions`` names a set of corpus.yaml (``4``, ``7``) or is a comma list in class order;
    "" takes the default set. ``allow_partial`` accepts a corpus in which things are missing
    and records them in the file ``partial``. ``seed`` matters to corpora made by the recipe.
    ``text`` is a file of transcripts that take the place of the corpus' own. ``undecided`` takes
    in utterances without a majority of the raters, under the emotion that most of them named.

    Raises UserError, before anything is written, for whatever is wrong with the corpus.
    """
    spec = load_spec(corpus, egs)
    chosen = choose_emotions(spec, emotions)
    text_settings = _text_settings(text)
    target = data_dir / corpus / "all"
    home = (data_dir / corpus).absolute()
    remove_leftovers(home)
    reader = importlib.import_module(READERS[spec.reader])
    if hasattr(reader, "Reader"):
        reader = reader.Reader(spec, egs / (spec.based_on or corpus), home)
    root = _find_root(spec, reader, corpus_dir, home / "corpus", seed)
    settings = {
        "corpus_dir": "" if corpus_dir is None and not spec.maker else str(root),
        "emotions": chosen,
        "spec": digest([json.dumps(dumped(spec), sort_keys=True)]),
        "files": fingerprint(reader.fingerprint_files(root)),
        "allow_partial": allow_partial,
        **text_settings,
        **({"undecided": True} if undecided else {}),
    }
    if is_done(target, settings):
        count = len(read_table(target / "utt2spk"))
        print(f"{target}: already done ({count} utterances); remove it to make it again")
        return

    reading = reader.read(root, spec, chosen)
    spec, edition = choose_edition(spec, reading.utterances)
    _show(reading, chosen)
    where = f"{root}: not the whole corpus that egs/{corpus}/corpus.yaml describes{edition}"
    short = _shortages(reading, spec, chosen, where, allow_partial)
    print("".join(f"warning: {line}\n" for line in short), end="")
    _choose(reading, spec, chosen, undecided, complete=not short)
    _require_each(chosen, reading.utterances, root)
    found = reading.utterances if text is None else add_texts(text, reading)
    found = add_splits(spec.official, root, found)
    utterances = add_durations(sorted(found, key=lambda u: u.utt_id), nj)
    write_data_dir(target, utterances, chosen, spec.language, settings, short, reading.tables)
    hours = sum(u.duration for u in utterances) / 3600
    print(f"{target}: {len(utterances)} utterances, {hours:.2f} hours")


def _show(reading: Reading, emotions: Sequence[str]) -> None:
    print(format_table(reading.utterances, emotions))
    for what, count in sorted(reading.skipped.items()):
        print(f"left out: {count} {what}")


def _choose(
    reading: Reading, spec: Spec, emotions: Sequence[str], undecided: bool, complete: bool
) -> None:
    """Leave in ``reading`` the part that is asked for, and take in what is undecided."""
    if spec.part:
        _take_part(reading, spec, emotions, complete)
        print(format_table(reading.utterances, emotions))
    if undecided:
        _take_undecided(reading, spec)


def _shortages(
    reading: Reading, spec: Spec, chosen: Sequence[str], where: str, allowed: bool
) -> list[str]:
    """What is missing of a corpus, in words; UserError beginning with ``where`` unless allowed."""
    differences = check_counts(reading, spec, chosen)
    short = reading.short + differences
    whole = []
    if short and not check_counts(reading, _without(spec, reading.found), chosen):
        number = f"all {len(reading.utterances)} utterances in {', '.join(chosen)}"
        whole = [f"not affected: the labels and wav files of {number}"]
    short += whole
    if not short or (allowed and reading.utterances):
        return short
    parts = [part for part in (reading.short, differences, whole) if part]
    lines = [where, *(join_problems(part, most=12) for part in parts)]
    cure = "copy what is missing"
    if reading.utterances:
        cure += ", or go on without it: --allow-partial true (the results will say so)"
    raise UserError(join_problems(lines, cure))


def _require_each(emotions: Sequence[str], utterances: Sequence[Utterance], root: Path) -> None:
    """Raise UserError for classes that nobody says, which no system can be trained on."""
    said = {u.emotion for u in utterances}
    missing = [emotion for emotion in emotions if emotion not in said]
    if missing:
        raise UserError(
            f"{root}: no utterance is {' or '.join(missing)}; correct label_map, copy what is "
            "missing, or leave the class out: emotions in corpus.yaml, or --emotions"
        )


def choose_edition(spec: Spec, utterances: Sequence[Utterance]) -> tuple[Spec, str]:
    """``spec`` with the ``counts`` of one of its ``editions``, if it has any, and which in words.

    It is the one whose numbers are nearest to those of the speakers and emotions found.
    """
    if not spec.editions:
        return spec, ""
    found = Counter((u.speaker, u.emotion) for u in utterances)

    def distance(name: str) -> int:
        table = spec.editions[name].speaker
        return sum(abs(number - table[s].get(e, 0)) for (s, e), number in found.items())

    name = min(spec.editions, key=distance)
    return spec.model_copy(update={"counts": spec.editions[name]}), f" as edition {name!r}"


def require_same_options(
    corpus: str, data_dir: Path, emotions: str = "", text: Path | None = None, egs: Path = EGS
) -> None:
    """Raise UserError if stage 1 was run with other ``emotions`` or another ``text`` than these.

    An option that is not given says nothing.
    """
    target = data_dir / corpus / "all"
    made = read_marker(target) or {}
    if not made:
        return
    again = "run from stage 1 on, in another --data-dir and --dump-dir if both are to stay"
    if emotions and made["emotions"] != choose_emotions(load_spec(corpus, egs), emotions):
        raise UserError(
            f"--emotions {emotions}: {target} was made with {','.join(made['emotions'])}; {again}"
        )
    if text and made.get("text_digest") != _text_settings(text)["text_digest"]:
        raise UserError(f"--text {text}: {target} was made with other transcripts; {again}")


def check_counts(reading: Reading, spec: Spec, emotions: Sequence[str]) -> list[str]:
    """A line for each of the ``spec.counts`` that the reading does not meet.

    ``total`` and ``session`` hold for the default emotions and are left out for others.
    """
    utterances = reading.utterances
    found: dict[str, Any] = {
        "session": Counter(u.session for u in utterances),
        "emotion": Counter(u.emotion for u in utterances),
        **reading.found,
    }
    short = []
    for where, expected in spec.counts.model_dump(exclude_unset=True).items():
        if where in ("total", "session") and set(emotions) != set(spec.emotions):
            continue
        if where == "speaker":
            short += _check_speakers(utterances, expected, emotions)
        elif where == "total":
            short += _differs("total", len(utterances), expected)
        else:
            names = emotions if where == "emotion" else {**expected, **found[where]}
            for name in names:
                short += _differs(f"{where} {name}", found[where][name], expected.get(name, 0))
    return short


def _take_part(reading: Reading, spec: Spec, emotions: Sequence[str], complete: bool) -> None:
    """Leave in ``reading`` the utterances of ``spec.part``.

    Raises UserError if there is none, or, of a complete corpus in the default emotions, not as
    many as stated.
    """
    part, whole = spec.part, reading.utterances
    reading.utterances = [u for u in whole if fnmatchcase(u.utt_id, part.ids)]
    found = len(reading.utterances)
    reading.left_out |= {u.utt_id for u in whole} - {u.utt_id for u in reading.utterances}
    print(f"{spec.name}: {found} of {len(whole)} utterances, {part.ids}")
    default = set(emotions) == set(spec.emotions)
    if not found or (complete and default and part.total not in (None, found)):
        raise UserError(
            f"egs/{spec.name}/corpus.yaml: part: {found} utterances are called {part.ids}, "
            f"{part.total or 'some'} expected; correct the pattern or the number"
        )


def _take_undecided(reading: Reading, spec: Spec) -> None:
    """Add the utterances that raters disagree on, and name them in utt2undecided."""
    fitting = spec.part.ids if spec.part else "*"
    added = [u for u in reading.undecided if fnmatchcase(u.utt_id, fitting)]
    if not added:
        raise UserError(
            f"--undecided: {spec.name} has no utterance without a majority whose raters are known; "
            "leave the option out (IEMOCAP has some)"
        )
    print(f"undecided: {len(added)} of the utterances left out, to train on soft targets")
    said = reading.tables["utt2raters"]
    reading.tables[UNDECIDED] = {u.utt_id: str(len(said[u.utt_id].split())) for u in added}
    reading.left_out -= {u.utt_id for u in added}
    reading.utterances = [*reading.utterances, *added]


def _without(spec: Spec, left_out: Collection[str]) -> Spec:
    kept = {w: n for w, n in dumped(spec).get("counts", {}).items() if w not in left_out}
    return spec.model_copy(update={"counts": Counts(**kept)})


def _check_speakers(
    utterances: Sequence[Utterance],
    expected: Mapping[str, Mapping[str, int]],
    emotions: Sequence[str],
) -> list[str]:
    found = Counter((u.speaker, u.emotion) for u in utterances)
    short = []
    for speaker in sorted({u.speaker for u in utterances} | set(expected)):
        row = expected.get(speaker)
        if row is None:
            short.append(f"speaker {speaker}: not a speaker of this corpus")
            continue
        for emotion in emotions:
            if emotion in row:
                name = f"speaker {speaker} {emotion}"
                short += _differs(name, found[speaker, emotion], row[emotion])
    return short


def _differs(what: str, found: int, expected: int) -> list[str]:
    return [] if found == expected else [f"{what}: {found} found, {expected} expected"]


def format_table(utterances: Sequence[Utterance], emotions: Sequence[str]) -> str:
    """Speakers by classes, with sums, as aligned text."""
    found = Counter((u.speaker, u.emotion) for u in utterances)
    rows = [["speaker", "sex", "session", *emotions, "all"]]
    for speaker, gender, session in sorted({(u.speaker, u.gender, u.session) for u in utterances}):
        numbers = [found[speaker, e] for e in emotions]
        rows.append([speaker, gender, session, *map(str, numbers), str(sum(numbers))])
    totals = [sum(u.emotion == e for u in utterances) for e in emotions]
    rows.append(["all", "", "", *map(str, totals), str(len(utterances))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def add_durations(utterances: Sequence[Utterance], nj: int) -> list[Utterance]:
    """The utterances with ``duration`` in seconds, from the headers of their files.

    Raises UserError that lists the unreadable files.
    """
    try:
        headers = probe_files([u.wav for u in utterances], nj)
    except UserError as err:
        cure = "what cannot be mended: ignore in corpus.yaml leaves it out (file names, tables)"
        raise UserError(f"{err}\n  {cure}") from err
    return [replace(u, duration=h.duration) for u, h in zip(utterances, headers, strict=True)]


def _text_settings(text: Path | None) -> dict[str, str]:
    """What the done-marker says of --text: the file's path and digest."""
    if text is None:
        return {}
    if not text.is_file():
        raise UserError(f"--text {text}: no such file; give one with lines '<utterance id> words'")
    return {"text": str(text.absolute()), "text_digest": file_digest(text)}


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of names, sizes and modification times: cheap, and changes with the corpus."""
    stats = ((path, path.stat()) for path in paths)
    return digest(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def _find_root(spec: Spec, reader: Any, corpus_dir: Path | None, home: Path, seed: int) -> Path:
    if spec.maker:
        made = (corpus_dir or home).absolute()
        importlib.import_module(MAKERS[spec.maker]).make(made, seed)
        return made
    if corpus_dir is None and spec.any_corpus:
        return reader.find(None)
    if corpus_dir is None:
        raise UserError(f"--corpus-dir: needed for {spec.name}; {spec.obtain}")
    given = corpus_dir.absolute()
    if ".." in given.parts:  # readers look at the names of parents
        given = given.resolve()
    if not given.is_dir() and not (spec.any_corpus and given.is_file()):
        raise UserError(f"--corpus-dir {corpus_dir}: no such folder; give the corpus folder")
    root = reader.find(given)
    if root != given:
        print(f"--corpus-dir {corpus_dir}: the corpus lies in {root}; using that")
    return root
