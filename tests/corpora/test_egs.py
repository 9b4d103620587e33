"""Every corpus of egs/ on a fabricated tree in its layout: stage 1, folds and their audit."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser.corpora import prepare
from ser.data.folds import make_folds
from ser.data.tables import read_lines, read_table, write_table
from ser.provenance import EGS
from tests.support import by_own_id

OWN_TESTS = {"iemocap", "iemocap_improvised", "mini", "mini_video"}  # of a reader of their own


def paths(pattern: str, *values) -> list[str]:
    """``pattern`` with each combination of the values in its braces; text is words or letters."""
    listed = [v.split() if isinstance(v, str) and " " in v else v for v in values]
    return [pattern.format(*chosen) for chosen in product(*listed)]


def ravdess() -> list[str]:
    actors = paths("Actor_{0:02d}/03-01-{1:02d}-01-02-01-{0:02d}.wav", range(1, 5), range(1, 9))
    return [*actors, "Actor_01/03-02-01-01-01-01-01.wav"]  # a song


def esd(speaker: str, folder: str = "") -> list[str]:
    emotions = ["Neutral", "Angry", "Sad", "Happy", "Surprise"]
    return [
        f"{speaker}/{emotion}/{folder}{speaker}_{350 * i + 1:06d}.wav"
        for i, emotion in enumerate(emotions)
    ]


# Corpus -> protocol of the folds, files, and for one id: speaker, gender, emotion, words.
LAYOUTS = {
    "emodb": (
        "strict",
        paths("wav/{}a01{}a.wav", ["03", "08", "09", "10"], "WFTNL"),
        ("03a01Fa", "03", "m", "happy", "Der Lappen liegt auf dem Eisschrank."),
    ),
    "casia": (
        "strict",
        paths(
            "{}/{}/201.wav",
            ["liuchanhg", "wangzhe", "zhaoquanyin", "zhaozuoxiang"],
            ["angry", "happy", "sad", "neutral", "fear", "Surprise"],
        ),
        ("ZhaoZuoxiang_surprise_201", "ZhaoZuoxiang", "m", "surprise", ""),
    ),
    "ravdess": (
        "strict",
        ravdess(),
        ("03-01-06-01-02-01-02", "02", "f", "fear", "Dogs are sitting by the door."),
    ),
    "crema_d": (
        "session",
        paths("AudioWAV/{}_WSI_{}_XX.wav", [1001, 1002, 1003, 1004],
              ["ANG", "HAP", "SAD", "NEU", "FEA", "DIS"]),
        ("1002_WSI_HAP_XX", "1002", "f", "happy", "We'll stop in a couple of minutes."),
    ),
    "savee": (
        "strict",
        paths("AudioData/{}/{}01.wav", ["DC", "JE", "JK", "KL"], "a h sa n f d su"),
        ("KL_sa01", "KL", "m", "sad", ""),
    ),
    "tess": (
        "paper",
        [*paths("{}AF_back_{}.wav", "OY", "angry happy sad neutral fear disgust ps"),
         "OA_bite_neutral.wav"],
        ("OA_bite_neutral", "OAF", "f", "neutral", "Say the word bite."),
    ),
    "emovo": (
        "strict",
        paths("{1}/{0}-{1}-b1.wav", "rab gio tri neu pau dis sor",
              ["f1", "f2", "m1", "m2"]),
        ("sor-m2-b1", "m2", "m", "surprise", "Gli operai si alzano presto."),
    ),
    "esd_en": (
        "official_shared",
        [*esd("0011", "train/"), *esd("0015", "train/"), "0001/Sad/test/0001_000003.wav",
         "0015/Sad/evaluation/0015_000702.wav", "0011/Sad/test/0011_000703.wav"],
        ("0015_000702", "0015", "f", "sad", ""),
    ),
    "esd_zh": (
        "strict",
        [path for speaker in ("0001", "0002", "0004", "0005") for path in esd(speaker)],
        ("0004_001401", "0004", "m", "surprise", ""),
    ),
    "jl": (
        "strict",
        paths("JL(wav+txt)/{}_{}_10a_1.wav", ["female1", "female2", "male1", "male2"],
              ["angry", "happy", "sad", "neutral", "excited", "anxious"]),
        ("female2_excited_10a_1", "female2", "f", "excited", ""),
    ),
    "shemo": (
        "strict",
        [*paths("female/{}{}01.wav", ["F01", "F02"], "AHSNWF"),
         *paths("male/{}{}01.wav", ["M01", "M02"], "AHSNWF")],
        ("M01W01", "M01", "m", "surprise", ""),
    ),
    "urdu": (
        "strict",
        paths("Any/{}_F1_{}010.wav", ["SM1", "SM2", "SF1", "SF2"], "AHSN"),
        ("SF2_F1_H010", "SF2", "f", "happy", ""),
    ),
    "nemo": (
        "strict",
        paths("samples/{0}_{1}_1.wav", "EB0 IC0 KD0 KS0 MK0 MP0 SM0 TP0 WR0",
              ["anger", "happiness", "sadness", "neutral"]),
        ("EB0_anger_1", "EB0", "f", "angry", "Cześć."),
    ),
    "meld": (
        "official_shared",
        paths("wav/{}/dia{}_utt0.wav", ["train", "dev", "test"], range(8)),
        ("wav_dev_dia1_utt0", "Joey", "u", "happy", "Well, hello."),
    ),
    "msp_podcast": (
        "official",
        paths("Audios/{}_{}.wav", ["Train", "Development", "Test1", "Test2"], "AHSNUFDCX"),
        ("Test1_C", "Test1", "f", "contempt", ""),
    ),
}  # fmt: skip


def write_tables(corpus: str, root: Path, files: list[str]) -> None:
    """The tables of ``files``, where the corpus has some."""
    names = [Path(file).stem for file in files]
    if corpus == "nemo":
        rows = [f"{n}.wav\t{n.split('_')[1]}\t{n[:3]}\tfemale\tCześć." for n in names]
        (root / "data.tsv").write_text(
            "\n".join(["file_id\temotion\tspeaker_id\tgender\traw_text", *rows]), encoding="utf-8"
        )
    if corpus == "meld":
        emotions = ["anger", "joy", "sadness", "neutral", "surprise", "fear", "disgust"]
        rows = [f'{i},"Well, hello.",Joey,{e},{i},0' for i, e in enumerate(emotions)]
        for split in ("train", "dev", "test"):
            more = ["9,No video.,Phoebe Sr.,joy,110,7"] * (split == "dev")
            more += ["9,Hi.,Phoebe Sr,joy,7,0"] * (split == "test")
            head = "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID"
            text = "\n".join([head, *rows, *more])
            (root / f"{split}_sent_emo.csv").write_text(text, encoding="utf-8")
    if corpus == "msp_podcast":
        parts = [name.split("_") for name in names]
        rows = [f"{split}_{e}.wav,{e},4.0,{split},Female,{split}" for split, e in parts]
        (root / "Labels").mkdir()
        text = "\n".join(["FileName,EmoClass,EmoAct,SpkrID,Gender,Split_Set", *rows])
        (root / "Labels/labels_consensus.csv").write_text(text, encoding="utf-8")


def write_files(root: Path, files: list[str]) -> Path:
    """A recording of 50 ms, of its own noise, for each path; and files that are not the corpus'."""
    generator = np.random.default_rng(0)
    for file in [*files, "._x.wav", "__MACOSX/y.wav"]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        noise = generator.uniform(-0.1, 0.1, 800)
        soundfile.write(root / file, noise, 16000, "PCM_16")
    (root / "readme.txt").write_text("x")
    return root


def test_every_corpus_is_tested():
    assert {path.parent.name for path in EGS.glob("*/corpus.yaml")} == {*LAYOUTS, *OWN_TESTS}


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_a_corpus_goes_through_stage_1_and_its_folds(corpus, tmp_path, capsys):
    protocol, files, expected = LAYOUTS[corpus]
    root = write_files(tmp_path / "corpus", files)
    write_tables(corpus, root, files)
    prepare.prepare(corpus, tmp_path / "data", root, allow_partial=True, nj=1)
    assert "does not fit" not in capsys.readouterr().out
    data = tmp_path / "data" / corpus / "all"
    tables = [by_own_id(data / n) for n in ("utt2spk", "utt2gender", "utt2emo")]
    text = by_own_id(data / "text", allow_empty=True)
    assert expected == (expected[0], *(t[expected[0]] for t in (*tables, text)))
    spec = prepare.load_spec(corpus)
    spoken = {e for e in tables[2].values()}
    assert spoken == set(read_lines(data / "emotions")) == set(spec.emotions)
    utts = read_table(data / "utt2spk")
    write_table(data / "utt2hash", {utt: f"sha-{utt}" for utt in utts})
    write_table(data / "utt2num_samples", dict.fromkeys(utts, 800))
    make_folds(protocol, data)
    audit = read_lines(data / "folds" / protocol / "audit.txt")
    mark = " (speaker-dependent)" if protocol == "official_shared" else ""
    assert audit[0].startswith(f"protocol {protocol}{mark}: ")


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_a_corpus_says_where_it_is_from_and_how_it_is_run(corpus):
    spec, folder = prepare.load_spec(corpus), EGS / corpus
    assert spec.licence and "obtain" in spec.model_fields_set
    assert f"egs/{corpus}/run.sh --corpus-dir" in (folder / "README.md").read_text(encoding="utf-8")
    for counts in (spec.editions or {"": spec.counts}).values():
        stated = counts.emotion or dict.fromkeys(spec.label_map.values())
        assert set(spec.emotions) <= set(stated)
