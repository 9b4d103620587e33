"""Corpora: what a reader returns and how a new corpus is added.

To add a corpus, write ``egs/<name>/corpus.yaml`` (labels, speakers, counts that must hold; the
existing ones explain the keys). With paths that say who speaks and how, a table, lhotse's manifests
or a Hugging Face dataset that is all (docs/corpora.md). For any other layout, add one module here
that has

- ``find(directory) -> Path``: the corpus root, given what the user typed;
- ``fingerprint_files(root) -> iterable of Path``: the files that decide the result;
- ``read(root, spec, emotions) -> Reading``: its utterances in the chosen emotions;

and name it in READERS. ``prepare.py`` does everything else. Where the first two need corpus.yaml,
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
# Those that read any corpus: its corpus.yaml need not state counts, nor a label_map that changes
# nothing, and may say where it is.
ANY_CORPUS = ("files", "table", "lhotse", "huggingface")
# key "maker" of corpus.yaml -> module with make(directory, seed), for corpora made here
MAKERS = {"mini": "ser.corpora.mini", "mini_video": "ser.corpora.mini_video"}


@dataclass
class Reading:
    """What a reader found.

    ``found`` counts things other than utterances that corpus.yaml may fix under ``counts``
    (wav files, dialogs, labels), e.g. ``{"wav": {"Ses01": 1819}}``; ``skipped`` says how many
    items were left out and why, ``left_out`` the ids of those that a file of --text may name;
    ``short`` has a line for each thing that should be there and is not. Short corpora are refused
    unless the user allows them. ``tables`` are more of an utterance, by table: ``utt2arousal`` ...,
    and ``utt2raters``, what each rater said; they may lack utterances. ``undecided`` are those
    whose raters had no majority, with the emotion that most of them named.
    """

    utterances: list[Utterance]
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    short: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    undecided: list[Utterance] = field(default_factory=list)
