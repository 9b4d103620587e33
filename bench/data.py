"""Time and memory of stages 1 to 3 as the corpus grows; prints a table and keeps it.

Usage: python -m bench.data [--sizes N ...] [--nj N]

A synthetic IEMOCAP tree of each size is made: its layout, invented sentences, and wav files linked
to 64 files per speaker, with IEMOCAP-like durations, so that the audio is read from memory rather
than from disk. Each stage runs in its own process. The table goes to bench/RESULTS-data.md.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import yaml

from bench.run import ROOT, machine, say
from bench.workload import SAMPLE_RATE, durations
from ser.provenance import git_commit

IEMOCAP = 10_039  # files
SOURCES = 64  # different wav files per speaker: the audit lets no two speakers share one
TURNS = 50  # per dialog
LABELS = {"ang": "angry", "hap": "happy", "sad": "sad", "neu": "neutral"}
SENTENCES = ("I left the keys on the table.", "Who told you to get in this line?", "Excuse me.")
# Code run in the process of a stage; it prints seconds, and the peak resident memory of itself
# or of any one child process.
MEASURED = """
import json, resource, sys, time
from pathlib import Path
work, stage, nj = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
start = time.perf_counter()
if stage == "1":
    from ser.corpora.prepare import prepare
    prepare("bench", work / "data", work / "corpus", nj=nj, egs=work / "egs")
elif stage == "2":
    from ser.lang.prepare import prepare_lang
    prepare_lang(work / "data/bench", "tagged_class", 500)
else:
    from ser.data.prepare import prepare_dump
    prepare_dump(work / "data/bench", work / "dump/bench", "tagged_class", "raw", "strict", nj)
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "cpu": sum(u.ru_utime + u.ru_stime for u in usage),
    "memory": max(u.ru_maxrss for u in usage) * 1024,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[IEMOCAP, 100_000])
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes of a stage")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-data-", dir=ROOT / "bench") as folder:
        for size in args.sizes:
            work = Path(folder) / str(size)
            say(f"fabricating {size} utterances")
            fabricate(work, size)
            for stage in "123":
                result = run_stage(work, stage, args.nj)
                rows.append((size, stage, result))
                say(
                    f"{size} utterances, stage {stage}: {result['seconds']:.1f} s "
                    f"({result['cpu']:.1f} s of the processor), {result['memory'] / 1e6:.0f} MB"
                )
            shutil.rmtree(work)
    text = report(rows, args.nj)
    (ROOT / "bench/RESULTS-data.md").write_text(text, encoding="utf-8")
    print("\n" + text)


def fabricate(work: Path, size: int) -> None:
    """Make an IEMOCAP tree of ``size`` utterances in ``work/corpus`` and its corpus.yaml."""
    sources = work / "sources"
    sources.mkdir(parents=True)
    rng = np.random.default_rng(0)
    quantiles = np.quantile(durations(), (np.arange(SOURCES) + 0.5) / SOURCES)
    for speaker in [f"{session}{gender}" for session in range(1, 6) for gender in "FM"]:
        for i, seconds in enumerate(quantiles):
            wave = 0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE))
            path = sources / f"{speaker}{i}.wav"
            soundfile.write(path, wave.clip(-1, 1), SAMPLE_RATE, subtype="PCM_16")
    labels = list(LABELS)
    number = 0
    dialogs = math.ceil(size / TURNS)
    for dialog in range(dialogs):
        session = dialog % 5 + 1
        name = f"Ses{session:02d}{dialog_name(dialog // 5)}"
        root = work / "corpus" / f"Session{session}"
        wavs = root / "sentences/wav" / name
        wavs.mkdir(parents=True)
        evaluation, transcript = [], []
        for turn in range(min(TURNS, size - number)):
            gender = "FM"[turn % 2]
            utt = f"{name}_{gender}{turn // 2:03d}"
            label = labels[(turn // 2 + dialog) % 4]
            source = f"{session}{gender}{number % SOURCES}.wav"
            os.link(sources / source, wavs / f"{utt}.wav")
            evaluation.append(f"[{turn}.0000 - {turn}.9000]\t{utt}\t{label}\t[2.5, 2.5, 2.5]\n")
            sentence = SENTENCES[number % len(SENTENCES)]
            transcript.append(f"{utt} [{turn:08.4f}-{turn + 0.9:08.4f}]: {sentence}\n")
            number += 1
        for folder, lines in (("EmoEvaluation", evaluation), ("transcriptions", transcript)):
            (root / "dialog" / folder).mkdir(parents=True, exist_ok=True)
            (root / "dialog" / folder / f"{name}.txt").write_text("".join(lines))
    spec = {
        "name": "bench",
        "reader": "iemocap",
        "language": "en",
        "emotions": list(LABELS.values()),
        "label_map": LABELS,
        "skip_labels": [],
        "sessions": [f"Ses{i:02d}" for i in range(1, 6)],
        "counts": {"total": size},
    }
    path = work / "egs/bench/corpus.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")


def dialog_name(number: int) -> str:
    """Name of one of 600 improvised dialogs as in IEMOCAP: F_impro00, M_impro00, F_impro01..."""
    return f"{'FM'[number % 2]}_impro{number // 2 % 100:02d}{('', 'a', 'b')[number // 200]}"


def run_stage(work: Path, stage: str, nj: int) -> dict[str, float]:
    """Run one stage; return its seconds, CPU seconds and bytes; show its output if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(work), stage, str(nj)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"bench: stage {stage} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: list[tuple[int, str, dict[str, float]]], nj: int) -> str:
    """Format the table, with the time per utterance relative to the smallest corpus."""
    lines = [
        "# Stages 1 to 3 as the corpus grows",
        "",
        f"Written by `make bench-data`; do not edit. Machine: {machine()}; {nj} processes. "
        f"Commit {git_commit()}.",
        "",
        "| utterances | stage | seconds | of the processor | ms an utterance | largest process |",
        "|---|---|---|---|---|---|",
    ]
    for size, stage, result in rows:
        lines.append(
            f"| {size:,} | {stage} | {result['seconds']:.1f} | {result['cpu']:.1f} | "
            f"{1000 * result['seconds'] / size:.2f} | {result['memory'] / 1e6:.0f} MB |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
