"""Schema of corpus.yaml: its keys, their types, and consistency checks between them."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from ser.config import parse, read_yaml, suggest
from ser.corpora import ANY_CORPUS, MAKERS, READERS
from ser.errors import UserError, join_problems
from ser.provenance import EGS

DIMENSIONS = ("valence", "arousal", "dominance")
FIELDS = ("audio", "emotion", "speaker", "gender", "text", "session", "id", "split", *DIMENSIONS)
NO_NAMES = ("", ".", "..", "nan")  # pandas writes an empty cell as nan


def normalized(text: str) -> str:
    """``text`` in Unicode NFC, stripped of surrounding blanks."""
    return unicodedata.normalize("NFC", text).strip()


def _name(text: str) -> str:
    name = normalized(text)
    if name.casefold() in NO_NAMES:
        raise ValueError(f"{text!r} is no name")
    return name


def _language(text: str) -> str:
    code = text.strip().lower()
    if not re.fullmatch(r"[a-z][\w-]*", code):
        raise ValueError(f"found {text!r}; expected a code such as en, de or cmn")
    return code


def _class(text: str) -> str:
    name = _name(text)
    word = re.sub(r"[\s,]+", "_", name)
    if word != name:
        raise ValueError(
            f"{text!r}: a class is one word, without blanks and commas; write {word}, and "
            f"label_map: {{{json.dumps(text, ensure_ascii=False)}: {word}}}"
        )
    return name


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as err:
        raise ValueError(f"not a regular expression: {err}") from None
    return text


Name = Annotated[str, AfterValidator(_name)]
Class = Annotated[str, AfterValidator(_class)]
Text = Annotated[str, AfterValidator(normalized)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Count = Annotated[int, Field(ge=0)]
Counted = dict[Name, Count]


def _list_or_dict(value: Any) -> str:
    return "list" if isinstance(value, list) else "dict"


class Strict(BaseModel):
    """A mapping that allows no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(Strict):
    """How many utterances there must be; the last three are counted by iemocap alone."""

    total: Count | None = None
    session: Counted = {}
    emotion: Counted = {}
    speaker: dict[Name, Counted] = {}
    dialog: Counted = {}
    wav: Counted = {}
    label: Counted = {}


class Part(Strict):
    """The utterances of another corpus whose ids match a pattern."""

    ids: str
    total: Count | None = None


class Spec(Strict):
    """A corpus.yaml; docs/reference.md shows the descriptions."""

    name: Name = Field(description="that of the folder in egs/; required")
    reader: Literal[tuple(READERS)] = Field(description="which reads its layout on disk; required")
    maker: Literal[tuple(MAKERS)] | None = Field(
        None, description="who makes it, where it is made by the recipe"
    )
    language: Annotated[str, AfterValidator(_language)] = Field(
        description="of the transcripts: en, de, cmn ...; required"
    )
    licence: str | None = Field(None, description="for people")
    obtain: str = Field("see its README", description="what to say when --corpus-dir is missing")
    emotions: list[Class] = Field(
        description="the classes, in the order of their indices; required"
    )
    emotion_sets: dict[Text, list[Class]] = Field(
        {}, description="what --emotions may name: name -> classes"
    )
    label_map: dict[Text, Name] = Field(
        description="label -> emotion; required, unless a reader of any corpus finds emotions"
    )
    skip_labels: list[Text] = Field([], description="labels that are left out and counted")
    undecided_labels: list[Text] = Field(
        [], description="of skip_labels, those of utterances whose raters had no majority"
    )
    counts: Counts = Field(
        Counts(),
        description="what must hold: total, and by session, emotion and speaker; iemocap and mini "
        "also dialog, wav and label. Required, but not by a reader of any corpus",
    )
    editions: dict[Text, Counts] = Field(
        {},
        description="several counts, of which those of the edition that is found must hold",
    )
    speakers: dict[Name, Text] = Field({}, description="speaker -> f or m")
    sessions: Annotated[
        Annotated[list[Name], Tag("list")] | Annotated[dict[Name, list[Name]], Tag("dict")],
        Discriminator(_list_or_dict),
    ] = Field(
        {},
        description="session -> its speakers, who validate for each other; for iemocap and mini a "
        "list",
    )
    same_speakers: list[list[Text]] = Field(
        [],
        description="a reader of any corpus: lists of names of one person, e.g. [[Anna, anna]]; "
        "the first is used",
    )
    distinct_speakers: list[list[Text]] = Field(
        [], description="a reader of any corpus: lists of like names of different people"
    )
    dialogs: dict[str, list[str]] = Field(
        {}, description="iemocap: the dialogs of each half session"
    )
    based_on: str | None = Field(
        None,
        description="another corpus of egs/, whose keys hold here too unless they are stated",
    )
    part: Part | None = Field(
        None,
        description="of that corpus: ids, a pattern of utterance ids such as *_impro*, and total, "
        "how many there are",
    )
    corpus_dir: str | None = Field(
        None, description="a reader of any corpus: where it is, in place of --corpus-dir"
    )
    audio_dir: str | None = Field(
        None,
        description="a reader of any corpus: from where relative audio paths are seen, a folder of "
        "the corpus",
    )
    columns: dict[Literal[FIELDS], str | None] = Field(
        {},
        description="a reader of any corpus: ours -> yours, of audio, emotion, speaker, gender, "
        "text, session, id, split; valence, arousal, dominance (numbers); a dot goes into a field, "
        "braces make one of several: dia{Dialogue_ID}_utt{Utterance_ID}.wav; null: there is none, "
        "whatever a column of that name holds",
    )
    gender_map: dict[Text, str] = Field(
        {}, description="a reader of any corpus: value of the gender column -> f or m"
    )
    pattern: Pattern | None = Field(
        None,
        description="files: a regular expression for paths below the corpus folder, with groups "
        "(?P<speaker>...), (?P<emotion>...) and, optionally, gender, session, text and others; "
        "(?i) makes capitals irrelevant",
    )
    ignore: Pattern | None = Field(
        None,
        description="files, table: a regular expression found in paths of audio that is left out",
    )
    texts: dict[Text, str] = Field({}, description="files: what the group text holds -> its words")
    table: Annotated[
        Annotated[str, Tag("text")] | Annotated[dict[Text, str], Tag("dict")],
        Discriminator(lambda value: "dict" if isinstance(value, dict) else "text"),
    ] = Field(
        "",
        description="table: the file, where there are several; or split -> file, which are read "
        "together",
    )
    split_map: dict[Text, Literal["train", "valid", "test", "unused"]] = Field(
        {}, description="value of the split column -> train, valid, test or unused"
    )
    official: str | None = Field(
        None,
        description="folder of EmoBox's folds for --protocol official, seen from the corpus folder",
    )
    supervisions: str | None = Field(None, description="lhotse: name or pattern of the manifest")
    recordings: str | None = Field(None, description="lhotse: name or pattern of the manifest")
    cuts: str | None = Field(
        None, description="lhotse: name or pattern of the manifest, in place of the two above"
    )
    dataset: str | None = Field(
        None, description="huggingface: id on the hub, in place of --corpus-dir"
    )
    revision: str | None = Field(None, description="huggingface: of the dataset on the hub")
    config: str | None = Field(None, description="huggingface: of the dataset on the hub")
    splits: list[str] = Field([], description="huggingface: those to take; default: all")

    @property
    def any_corpus(self) -> bool:
        """Whether the reader accepts any corpus, so that counts and label_map may be missing."""
        return self.reader in ANY_CORPUS

    @property
    def session_of(self) -> dict[str, str]:
        """Speaker -> session, as given in ``sessions``."""
        if isinstance(self.sessions, list):
            return {}
        return {s: name for name, members in self.sessions.items() for s in members}


# Keys of corpus.yaml -> what they are; docs/reference.md shows this table.
KEYS = {name: field.description or "" for name, field in Spec.model_fields.items()}


def load_spec(corpus: str, egs: Path = EGS) -> Spec:
    """Read ``egs/<corpus>/corpus.yaml``.

    A corpus ``based_on`` another inherits its keys, except those that it states itself.

    Raises:
        UserError: An unknown corpus, or a corpus.yaml that is not YAML, lacks keys, has unknown
            keys or values of the wrong type, or contradicts itself; each with its line.
    """
    path = egs / corpus / "corpus.yaml"
    content, lines = _content(corpus, egs, ())
    if content.get("reader") in ANY_CORPUS:
        listed = content["emotions"] if isinstance(content.get("emotions"), list) else []
        names = [name for name in listed if isinstance(name, str)]
        content.setdefault("label_map", {name: name for name in names})
    spec = parse(Spec, content, path, lines)
    problems = [
        f"{path}:{lines.get(key, lines.get(key.partition('.')[0], 1))}: {key}: {what}"
        for key, what in _contradictions(spec, corpus)
    ]
    if problems:
        raise UserError(join_problems(problems))
    return spec


def _content(
    corpus: str, egs: Path, before: Sequence[str]
) -> tuple[dict[str, Any], dict[str, int]]:
    path = egs / corpus / "corpus.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in egs.glob("*/corpus.yaml")))
        raise UserError(f"--corpus {corpus}: there is no {path}; corpora that exist: {known}")
    content, lines = read_yaml(path, as_text=True)
    if "based_on" not in content:
        return content, lines
    base = str(content["based_on"])
    if base in (corpus, *before):
        raise UserError(f"{path}: based_on: names the corpus itself; name another of egs/")
    return {**_content(base, egs, (corpus, *before))[0], **content}, lines


def _contradictions(spec: Spec, folder: str) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for inconsistencies in a corpus.yaml."""
    if spec.name != folder:
        yield "name", f"{spec.name!r}, but its folder is {folder!r}; they must be the same"
    if not {"counts", "editions"} & spec.model_fields_set and not spec.any_corpus:
        yield "counts", "missing keys: counts"
    yield from _wrong_classes(spec)
    yield from _wrong_people(spec)
    yield from _wrong_pattern(spec)
    yield from _keys_of_other_readers(spec)
    for name, counts in _all_counts(spec).items():
        only_iemocap = {"dialog", "wav", "label"} & counts.model_fields_set
        if only_iemocap and spec.reader != "iemocap":
            yield f"{name}.{min(only_iemocap)}", "counted by the reader iemocap alone"
        for where, number, total in _sums(counts, spec.emotions):
            if number != total:
                yield f"{name}.{where}", f"is {number}, but {name}.speaker sums to {total}"


def _wrong_classes(spec: Spec) -> Iterator[tuple[str, str]]:
    lists = {
        "emotions": spec.emotions,
        **{f"emotion_sets.{name}": classes for name, classes in spec.emotion_sets.items()},
    }
    classes = {name: None for names in lists.values() for name in names}
    for key, names in lists.items():
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            yield key, f"{twice[0]!r} is named twice; classes are unique"
        elif len(names) < 2:
            yield key, f"found {names}; expected two classes or more"
        for name in names:
            if name not in spec.label_map.values():
                yield key, f"no label of label_map becomes {name!r}"
    for label, name in spec.label_map.items():
        if name not in classes:
            yield (
                f"label_map.{label}",
                f"{name!r} is in neither emotions nor emotion_sets; {suggest(name, classes)} "
                "(labels to be left out belong in skip_labels)",
            )
    for label in sorted(spec.label_map.keys() & set(spec.skip_labels)):
        yield "skip_labels", f"{label!r} is in label_map as well; take it out of one"
    for label in sorted(set(spec.undecided_labels) - set(spec.skip_labels)):
        yield "undecided_labels", f"{label!r} is not in skip_labels; add it there"
    for name, counts in _all_counts(spec).items():
        rows = {f"speaker.{speaker}": row for speaker, row in counts.speaker.items()}
        for where, row in {"emotion": counts.emotion, **rows}.items():
            for emotion in row:
                if emotion not in classes:
                    yield f"{name}.{where}.{emotion}", f"no class; {suggest(emotion, classes)}"


def _wrong_people(spec: Spec) -> Iterator[tuple[str, str]]:
    if isinstance(spec.sessions, list):
        if spec.reader != "iemocap":
            yield "sessions", "found a list; expected session -> speakers, e.g. Ses01: [anna, ben]"
        return
    found: dict[str, str] = {}
    for session, members in spec.sessions.items():
        for speaker in members:
            before = found.setdefault(speaker, session)
            if before != session or members.count(speaker) > 1:
                where = f"also in {before}" if before != session else "twice in it"
                yield f"sessions.{session}", f"{speaker!r} is {where}; a speaker has one session"
    for key, names in (("sessions", found), ("counts.speaker", spec.counts.speaker)):
        if spec.speakers and not spec.any_corpus:
            for name in names:
                if name not in spec.speakers:
                    yield key, f"{name!r} is not in speakers; {suggest(name, spec.speakers)}"
    for name in spec.counts.session:
        if spec.sessions and name not in spec.sessions:
            yield f"counts.session.{name}", f"no session; {suggest(name, spec.sessions)}"


def _wrong_pattern(spec: Spec) -> Iterator[tuple[str, str]]:
    if spec.reader != "files":
        return
    if spec.pattern is None:
        yield "pattern", "missing keys: pattern, a regular expression for paths of audio files"
        return
    groups = re.compile(spec.pattern).groupindex
    for field in ("speaker", "emotion"):
        if field not in groups and field not in spec.columns:
            yield "pattern", f"has no group (?P<{field}>...); the {field} is in each file's path"


def _keys_of_other_readers(spec: Spec) -> Iterator[tuple[str, str]]:
    for key in sorted(spec.model_fields_set):
        readers = KEYS[key].partition(": ")[0].split(", ")  # descriptions begin with them
        if set(readers) <= READERS.keys() and spec.reader not in readers:
            yield key, f"of the reader {' or '.join(readers)}, not of {spec.reader}; take it out"


def _all_counts(spec: Spec) -> dict[str, Counts]:
    editions = {f"editions.{name}": counts for name, counts in spec.editions.items()}
    return editions or {"counts": spec.counts}


def _sums(counts: Counts, emotions: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    """(name, number, sum over the speaker table) for each total that corpus.yaml states."""
    table = counts.speaker.values()
    for emotion, number in counts.emotion.items():
        if table and all(emotion in row for row in table):
            yield f"emotion.{emotion}", number, sum(row[emotion] for row in table)
    if table and counts.total is not None and all(e in row for row in table for e in emotions):
        yield "total", counts.total, sum(row[e] for row in table for e in emotions)


def choose_emotions(spec: Spec, wanted: str) -> list[str]:
    """Choose the emotions in class order: a named set of ``spec``, a comma list, or the default.

    Raises:
        UserError: An emotion that the corpus does not have, or fewer than two.
    """
    if not wanted:
        return list(spec.emotions)
    if wanted in spec.emotion_sets:
        return list(spec.emotion_sets[wanted])
    chosen = [normalized(name) for name in wanted.split(",")]
    known = list(dict.fromkeys(spec.label_map.values()))
    if len(set(chosen)) != len(chosen) or len(chosen) < 2 or not set(chosen) <= set(known):
        options = [*spec.emotion_sets, f"at least two of {','.join(known)}, joined by commas"]
        raise UserError(f"--emotions {wanted}: {spec.name} has {', or '.join(options)}")
    return chosen


def dumped(spec: Spec) -> Mapping[str, Any]:
    """The keys that corpus.yaml states, as plain values."""
    return spec.model_dump(exclude_unset=True)
