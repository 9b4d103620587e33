"""Corpora: the result of a reader, and how to add a new corpus.

To add a corpus, write ``egs/<name>/corpus.yaml`` (labels, speakers, expected counts; the existing
ones explain the keys). For paths that encode speaker and emotion, a table, lhotse manifests or a
Hugging Face dataset that is all (docs/corpora.md). For any other layout, add one module here with

- ``find(directory) -> Path``: the corpus root, given the user's --corpus-dir;
- ``fingerprint_files(root) -> iterable of Path``: the files that determine the result;
- ``read(root, spec, emotions) -> Reading``: its utterances in the chosen emotions;

and name it in READERS. ``prepare.py`` does everything else. If the first two need corpus.yaml,
the module has a class ``Reader(spec, egs, home)`` with these three as methods instead; ``egs`` is
the folder of corpus.yaml, ``home`` is data/<corpus>, and ``find`` gets None without --corpus-dir.
"""

from dataclasses import dataclass, field

from ser.data.tables import Utterance

# key "reader" of corpus.yaml -> module with find, fingerprint_files and read
READERS = {
    "iemocap": "ser.corpora.iemocap",
    "files": "ser.corpora.files",
    "table": "ser.corpora.table",
    "lhotse": "ser.corpora.lhotse",
    "huggingface": "ser.corpora.huggingface",
}
# Readers for any corpus: its corpus.yaml may omit counts and an identity label_map, and may give
# the corpus' location.
ANY_CORPUS = ("files", "table", "lhotse", "huggingface")
# key "maker" of corpus.yaml -> module with make(directory, seed), for corpora made here
MAKERS = {"mini": "ser.corpora.mini", "mini_video": "ser.corpora.mini_video"}


@dataclass
class Reading:
    """Result of a reader.

    ``found`` counts items other than utterances that corpus.yaml may fix under ``counts``
    (wav files, dialogs, labels), e.g. ``{"wav": {"Ses01": 1819}}``; ``skipped`` says how many
    items were left out and why, ``left_out`` holds the ids of those that a --text file may name;
    ``short`` has a line for each missing item. Incomplete corpora are rejected unless the user
    allows them. ``tables`` holds further values by table: ``utt2arousal`` ..., and ``utt2raters``,
    each rater's labels; they may lack utterances. ``undecided`` are the utterances whose raters
    had no majority, with the emotion that most of them named.
    """

    utterances: list[Utterance]
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    short: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    undecided: list[Utterance] = field(default_factory=list)
