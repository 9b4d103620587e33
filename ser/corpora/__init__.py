"""Corpora: what a reader returns and how a new corpus is added.

To add a corpus, write ``egs/<name>/corpus.yaml`` (labels, speakers, counts that must hold; the
existing ones explain the keys). With a table, lhotse's manifests or a Hugging Face dataset that is
all (docs/corpora.md). If its layout on disk is new, add one module here that has

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
    "emodb": "ser.corpora.emodb",
    "casia": "ser.corpora.casia",
    "table": "ser.corpora.table",
    "lhotse": "ser.corpora.lhotse",
    "huggingface": "ser.corpora.huggingface",
}
# Those that read any corpus: its corpus.yaml need not state counts, nor a label_map that changes
# nothing, and may say where it lies.
ANY_CORPUS = ("table", "lhotse", "huggingface")
# key "maker" of corpus.yaml -> module with make(directory, seed), for corpora made here
MAKERS = {"mini": "ser.corpora.mini"}
# Keys of corpus.yaml -> what they are; docs/reference.md shows this table.
KEYS = {
    "name": "that of the folder in egs/; required",
    "reader": "how it lies on disk; required",
    "maker": "who makes it, where it is made by the recipe",
    "language": "of the transcripts: en, de, cmn ...; required",
    "licence": "for people",
    "obtain": "what to say when --corpus-dir is missing",
    "emotions": "the classes, in the order of their indices; required",
    "emotion_sets": "what --emotions may name: name -> classes",
    "label_map": "label -> emotion; required, unless a reader of any corpus finds emotions",
    "skip_labels": "labels that are left out and counted",
    "counts": "what must hold: total, and by session, emotion and speaker; iemocap and mini also "
    "dialog, wav and label. Required, but not by a reader of any corpus",
    "editions": "casia: several counts, of which those of the edition that is found must hold",
    "speakers": "speaker -> f or m",
    "free_speakers": "casia: how the full corpus spells the speakers",
    "sessions": "session -> its speakers, who validate for each other; for iemocap and mini a list",
    "dialogs": "iemocap: the dialogs of each half session",
    "sentences": "emodb: sentence -> its words",
    "based_on": "another corpus of egs/, whose keys hold here too unless they are stated",
    "part": "of that corpus: ids, a pattern of utterance ids such as *_impro*, and total, how many "
    "there are",
    "corpus_dir": "a reader of any corpus: where it lies, in place of --corpus-dir",
    "audio_dir": "a reader of any corpus: from where relative audio paths are seen",
    "columns": "a reader of any corpus: ours -> yours, of audio, emotion, speaker, gender, text, "
    "session, id; a dot goes into a field",
    "gender_map": "a reader of any corpus: value of the gender column -> f or m",
    "table": "table: the file, where there are several",
    "supervisions": "lhotse: name or pattern of the manifest",
    "recordings": "lhotse: name or pattern of the manifest",
    "cuts": "lhotse: name or pattern of the manifest, in place of the two above",
    "dataset": "huggingface: id on the hub, in place of --corpus-dir",
    "revision": "huggingface: of the dataset on the hub",
    "config": "huggingface: of the dataset on the hub",
    "splits": "huggingface: those to take; default: all",
}


@dataclass
class Reading:
    """What a reader found.

    ``found`` counts things other than utterances that corpus.yaml may fix under ``counts``
    (wav files, dialogs, labels), e.g. ``{"wav": {"Ses01": 1819}}``; ``skipped`` says how many
    items were left out and why, ``left_out`` the ids of those that a file of --text may name;
    ``short`` has a line for each thing that should be there and is not. Short corpora are refused
    unless the user allows them.
    """

    utterances: list[Utterance]
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    short: list[str] = field(default_factory=list)
