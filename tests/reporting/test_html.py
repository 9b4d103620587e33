"""The HTML report: what is on the page, and, in headless Chromium, what is drawn."""

import base64
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
import soundfile

from ser.cli.app import make_app
from ser.cli.options import call
from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.reporting import figures, tracks, utterance
from ser.reporting.html import build_page, make_html_report
from ser.reporting.inputs import curve, read_input
from ser.reporting.sections import system_difference
from ser.scoring.compare import Scored, System, compare_systems
from ser.scoring.infer import infer_folds
from ser.scoring.predictions import Prediction
from ser.scoring.score import score_experiment
from tests.support.browser import chromium, needs_chromium
from tests.support.fake_experiment import (
    FOLDS,
    HOP,
    LABELS,
    LEVELS,
    FakeModel,
    make_experiment,
    write_history,
)
from tests.support.fake_scores import RATERS, VALENCE, make_scores

VOID = {"link", "meta", "img", "br", "input"}  # elements without an end tag
HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>&amp;\u202e"


class Confused(FakeModel):
    """Takes angry for happy and happy for angry; its units are as sure as can be."""

    def infer(self, speech, speech_lengths):
        out = super().infer(speech, speech_lengths)
        out["aux"] = {name: (frames + 1e-9).log() for name, frames in out["aux"].items()}
        out["emotion_logp"] = out["emotion_logp"][:, [1, 0, 2, 3]]
        return out


class Headless(Confused):
    """Has no head of units."""

    def __init__(self):
        super().__init__()
        self.aux_units = {}


class Reader(HTMLParser):
    """The page as a tree; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.stack = [ET.Element("root")]
        self.feed(text)
        assert len(self.stack) == 1, [e.tag for e in self.stack]

    def handle_starttag(self, name, attributes):
        element = ET.SubElement(self.stack[-1], name, {k: v or "" for k, v in attributes})
        if name not in VOID:
            self.stack.append(element)

    def handle_endtag(self, name):
        assert self.stack.pop().tag == name

    def handle_data(self, data):
        element = self.stack[-1]
        if len(element):
            element[-1].tail = (element[-1].tail or "") + data
        else:
            element.text = (element.text or "") + data


def read(text):
    return Reader(text).stack[0]


def words(element):
    return " ".join(" ".join(element.itertext()).split())


def by(root, name, **attributes):
    """Elements whose attributes are these; a class need be one of several."""
    return [
        e
        for e in root.iter(name)
        if all(
            v in e.get("class", "").split() if k == "class_" else e.get(k.replace("_", "-")) == v
            for k, v in attributes.items()
        )
    ]


def section(root, name):
    return next(e for e in root.iter() if e.get("id") == name)


def rows(element):
    return [[words(cell) for cell in row] for row in element.iter("tr")]


def put(root, **changes):
    """An experiment of which there is nothing but its scores."""
    scores = make_scores(**changes)
    directory = root / "exp/toy" / f"tag{len(list(root.glob('exp/toy/*')))}"
    directory.mkdir(parents=True)
    (directory / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return directory


def no_model(*_):
    raise UserError("there is no model")


def build(*directories, **options):
    inputs = [read_input(directory) for directory in directories]
    return build_page(inputs, **{"load_model": no_model, **options})


def score(root, model=Confused, **options):
    """An experiment with everything, scored; angry and happy are all mistaken."""
    exp, dump, data = make_experiment(root, **options)
    own = {u: f"own_{u}" for u in read_table(dump / "utt2orig")}
    write_table(dump / "utt2orig", own)
    infer_folds(exp, dump, build_model=lambda *_: model())
    score_experiment(exp, dump, data)
    for i, fold in enumerate(FOLDS):
        write_history(exp / fold, epochs=4, offset=0.1 * i)
    table = {u: f"words of {u}" for u in read_input(exp).experiment.emotions}
    write_table(data / "all/text", table)
    return exp


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return score(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def page(scored):
    return build(scored, load_model=lambda *_: Confused())


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """An experiment of scores alone, with three and four right of four in its folds; its page."""
    directory = put(tmp_path_factory.mktemp("simple"), correct=3)
    return directory, read(build(directory))


# --- content -----------------------------------------------------------------------------------


def test_the_headline_is_wa_and_ua_of_scores_json_with_their_intervals(simple):
    directory, root = simple
    scores = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
    low, high = (100 * b for b in scores["summary"]["wa_ci"])
    (wa,), (ua,) = by(root, "dd", data_score="wa"), by(root, "dd", data_score="ua")
    assert words(wa) == f"87.5% 95%: {low:.1f} to {high:.1f}"
    assert words(ua).startswith("87.5% 95%: ")
    header = words(next(root.iter("header")))
    for text in ("protocol strict: ", "corpus toy", "speakers tested 2", "utterances tested 8"):
        assert text in header
    assert "PER / UER 25.0 / 50.0%" in header


def test_the_table_of_folds_has_a_row_for_each_fold_and_for_the_means(simple):
    found = rows(section(simple[1], "folds"))
    assert found[1][:7] == ["Ses01F", "4", "75.0", "75.0", "3", "2", "10"]
    assert found[2][:7] == ["Ses01M", "4", "100.0", "100.0", "3", "2", "10"]
    # sd of 75 and 100: 25 / sqrt(2) = 17.7
    assert [row[:4] for row in found[3:5]] == [
        ["mean", "", "87.5", "87.5"],
        ["sd", "", "17.7", "17.7"],
    ]
    assert found[-1][:4] == ["pooled", "8", "87.5", "87.5"]


def test_the_confusion_matrix_holds_counts_and_shares_and_shades_by_share(simple):
    # The last of the first fold's four, neutral, is taken for angry: half of the two neutral.
    root = section(simple[1], "confusion")
    cells = {e.get("data-cell"): e for e in by(root, "g") if e.get("data-cell")}
    assert len(cells) == 16
    filled = {key: e.find("path") for key, e in cells.items()}
    share = {
        key: 0 if e.get("fill") == "none" else float(e.get("fill-opacity", 1))
        for key, e in filled.items()
    }
    assert share["3,0"] == share["3,3"] == 0.5
    assert share["0,0"] == 1 and share["0,1"] == 0
    assert [words(t) for t in root.iter("text")].count("50.0") == 2
    assert words(cells["3,0"].find("title")) == "neutral recognised as angry: 1 of 2, 50.0 %"
    assert ["neutral", "2", "100.0", "50.0", "66.7"] in rows(root)  # precision, recall, F1


def test_a_matrix_of_twelve_long_names_keeps_every_cell_apart():
    labels = [f"some long emotion {i}" for i in range(12)]
    chart = figures.confusion_chart(labels, np.eye(12, dtype=int).tolist(), "matrix")
    chart.figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in chart.axes[0].patches]
    inch = chart.figure.dpi
    assert len(boxes) == 144 and min(box.width for box in boxes) * 72 / inch > 30
    assert chart.is_wide and chart.figure.get_figwidth() * 72 > 12 * 37
    names = [tick.get_window_extent() for tick in chart.axes[0].get_xticklabels()]
    assert all(a.x0 < b.x0 for a, b in zip(names[:-1], names[1:], strict=True))


def test_the_interval_of_a_speaker_is_wilsons():
    # 3 of 4, z^2 = 3.8415: centre (0.75 + 3.8415 / 8) / (1 + 3.8415 / 4) = 0.62753, half
    # 1.96 / 1.96036 sqrt(0.75 0.25 / 4 + 3.8415 / 64) = 0.32688. 0 of 4: 3.8415 / 7.8415.
    assert figures.wilson(3, 4) == pytest.approx((0.30065, 0.95441), abs=1e-4)
    assert figures.wilson(0, 4) == pytest.approx((0, 0.48990), abs=1e-4)
    assert figures.wilson(4, 4) == pytest.approx((1 - 0.48990, 1), abs=1e-4)


def test_a_speaker_who_is_tested_in_several_folds_has_one_bar():
    entries = [
        {"fold": "1", "speaker": "A", "ref": "01", "hyp": "00"},
        {"fold": "2", "speaker": "A", "ref": "33", "hyp": "33"},
        {"fold": "2", "speaker": "B", "ref": "2", "hyp": "1"},
    ]
    assert figures.speaker_accuracy({"speakers": entries}) == {"A": (3, 4), "B": (0, 1)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leaky": ["train and test share speakers"]}, "LEAKY not comparable: train and test"),
        ({"corpus_partial": ["Ses03 is missing"], "partial": True}, "PARTIAL the corpus is not"),
        ({"protocol": "kfold5"}, "SPEAKER-DEPENDENT the speakers tested are among"),
    ],
)
def test_what_must_be_known_first_stands_above_every_number(tmp_path, changes, said):
    text = build(put(tmp_path, **changes))
    root = read(text)
    (mark,) = by(root, "p", class_="mark")
    assert words(mark).startswith(said)
    assert text.index('class="mark"') < text.index("data-score")
    word = said.partition(" ")[0]
    for name in ("folds", "confusion", "speakers", "calibration"):
        assert f"({word.lower()})" in words(section(root, name)).lower()


def test_a_page_of_a_synthetic_corpus_says_so_first(tmp_path):
    (mark,) = by(read(build(put(tmp_path, corpus="mini"))), "p", class_="mark")
    assert words(mark).startswith("Synthetic speech: no person speaks in this corpus")


def test_a_sound_complete_experiment_has_no_marks(simple):
    assert not by(simple[1], "p", class_="mark")


def test_what_an_experiment_lacks_is_said_and_the_rest_is_shown(simple):
    _, root = simple
    assert "no history.json" in words(section(root, "learning"))
    assert "does not fuse layers" in words(section(root, "layers"))
    assert "errors.tsv: no such file" in words(section(root, "errors"))
    assert "Not drawn" in words(section(root, "utterance"))
    assert "no decisions but the emotion head's" in words(section(root, "decisions"))
    assert "gender: women" in words(section(root, "slices"))


def test_the_page_shows_ccc_and_divergence_from_raters(tmp_path):
    said = words(read(build(put(tmp_path, auxiliary={"valence": VALENCE}, raters=RATERS))))
    assert "valence CCC 0.500 [0.250 to 0.750]" in said and "raters KL 0.500, JSD" in said


def test_the_provenance_tells_how_to_get_the_numbers_again(tmp_path):
    known = {"total": 94_000_000, "trained": 89_500_000}
    changes = {"parameters": known, "train_seconds": 4000.0, "auxiliary": {}}
    said = words(section(read(build(put(tmp_path, **changes))), "provenance"))
    for text in (
        "./run.sh --corpus toy --config conf/train_s1.yaml --seed 1",
        "commit 0123456789ab",
        "torch 2.13.0",
        "a processor, 2 cores",
        "1 h 7 min, all folds",
        "94,000,000, of which 89,500,000 were trained",
    ):
        assert text in said


def test_the_calibration_is_that_of_scores_json(simple):
    # All eight decisions are 0.7 sure, seven of them right: ECE 0.875 - 0.7.
    root = section(simple[1], "calibration")
    assert "ECE 17.5% (10 bins), mean confidence 70.0%, accuracy 87.5%" in words(root)
    (group,) = by(root, "g", data_bin="60")
    assert words(group.find("title")) == (
        "60 to 70 % sure: 8 decisions, mean confidence 70.0 %, accuracy 87.5 %"
    )


def test_learning_curves_are_means_over_folds_of_each_history(scored):
    histories = read_input(scored).histories
    panels = [name for _, name, _ in figures.learning_panels(histories)]
    assert panels == ["emotion loss", "WA (%)", "UA (%)"]
    # Epoch 1 of 4: 1.4 - 0.25 + (0, 0.1, 0.2)
    mean = figures.mean_curve([curve(h, "train", "loss_er") for h in histories.values()])
    assert mean[1] == pytest.approx(1.25) and list(mean) == [1, 2, 3, 4]
    assert len([h for h in histories.values() if curve(h, "valid", "UA")]) == 3


def test_the_mean_curve_goes_on_with_the_folds_that_train_longer():
    assert figures.mean_curve([{1: 1.0, 2: 2.0}, {1: 3.0}]) == {1: 2.0, 2: 2.0}


def test_a_loss_that_is_no_number_leaves_a_gap():
    values = ((1, 1.0), (2, float("nan")))
    history = [{"epoch": e, "phase": "", "train": {"loss_er": v}} for e, v in values]
    assert curve(history, "train", "loss_er") == {1: 1.0}


def test_layer_weights_are_those_after_the_last_epoch(page):
    # write_history: 0.3, 0.3 - 0.1, 0.4 + 0.1 in every fold
    root = section(read(page), "layers")
    tips = [words(e.find("title")) for e in by(root, "g") if e.get("data-layer")]
    assert [tip.partition(" (")[0] for tip in tips] == [
        "low-level: mean 0.3000",
        "layer 1: mean 0.2000",
        "layer 2: mean 0.5000",
    ]
    drawn = [words(e) for e in root.iter("text")]
    assert {"0.300", "0.200", "0.500"} <= set(drawn)


def test_two_systems_stand_side_by_side_with_their_difference(tmp_path):
    first, second = put(tmp_path, correct=2), put(tmp_path, correct=3, tag="other")
    root = read(build(first, second))
    assert len(by(section(root, "confusion"), "svg")) == 2
    assert len(by(root, "dd", data_score="wa")) == 2
    table = rows(next(root.iter("header")))
    # 50 and 100 against 75 and 100 in the two folds: 75.0, 87.5
    assert table[1][:4] == ["WA", "75.0", "87.5", "+12.5"]
    assert ["recall, sad", "50.0", "100.0", "+50.0"] in [row[:4] for row in table]


def test_the_difference_is_that_of_the_comparison(tmp_path):
    first, second = (read_input(put(tmp_path, correct=c)) for c in (1, 3))
    speakers, systems = {}, []
    for m in (first, second):
        fold, decided = {}, {}
        for entry in m.scores["speakers"]:
            for i, (ref, hyp) in enumerate(zip(entry["ref"], entry["hyp"], strict=True)):
                utt = f"{entry['speaker']}_{i}"
                speakers[utt], fold[utt] = entry["speaker"], entry["fold"]
                decided[utt] = Prediction(utt, LABELS[int(ref)], LABELS[int(hyp)], ())
        systems.append(System([Scored(m.exp_dir, m.scores, fold, decided)]))
    expected = compare_systems(*systems, speakers)["scores"]["wa"]["difference"]
    row = system_difference(first, second)["rows"][0]
    assert row[3:5] == [
        f"+{100 * expected['value']:.1f}",
        f"{100 * expected['low']:+.1f} to {100 * expected['high']:+.1f}",
    ]


def test_systems_that_were_tested_on_other_utterances_have_no_difference(tmp_path):
    first, second = put(tmp_path), put(tmp_path, test_sha256="other")
    said = words(next(read(build(first, second)).iter("header")))
    assert "not tested on the same utterances" in said and "McNemar" not in said


def test_equal_experiments_give_equal_bytes(scored, page):
    assert build(scored, load_model=lambda *_: Confused()) == page


def test_the_page_nests_and_every_chart_has_a_name_and_a_description(page):
    root = read(page)
    names = [e.get("id") for e in root.iter() if e.get("id")]
    described = [e for e in root.iter("svg") if e.get("role") == "img"]
    assert described
    for svg in described:
        for name in svg.get("aria-labelledby").split():
            assert name in names
        assert words(svg.find("title")) and words(svg.find("desc"))
    links = [e.get("href")[1:] for e in root.iter("a")]
    assert set(links) <= set(names) and all(names.count(link) == 1 for link in links)


# --- errors and recordings ---------------------------------------------------------------------


def test_the_worst_errors_are_those_of_errors_tsv_in_its_order(scored, page):
    lines = (scored / "errors.tsv").read_text(encoding="utf-8").splitlines()[1:]
    shown = [words(e) for e in by(section(read(page), "errors"), "li")]
    assert len(shown) == min(len(lines), 9)
    for line, card in zip(lines, shown, strict=False):
        utt, ref, hyp, sure, missed, _, own = line.split("\t")
        assert card == (
            f"{utt} ({own}) recognised as {hyp} ({100 * float(sure):.1f}%), is {ref} "
            f"({100 * float(missed):.1f}%) “words of {utt}”"
        )


def test_a_player_holds_the_samples_that_the_model_heard(scored, page):
    found = read_input(scored)
    card = by(section(read(page), "errors"), "li")[0]
    kind, _, content = next(card.iter("audio")).get("src").partition(",")
    assert kind == "data:audio/flac;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="int16")
    assert rate == 16000
    utt = words(next(card.iter("strong"))).split()[0]
    assert set(samples) == {LEVELS[found.experiment.emotions[utt]]}
    assert "shared" not in words(card) and "--no-audio" in words(section(read(page), "errors"))


def test_without_audio_the_page_holds_neither_recordings_nor_words(scored):
    text = build(scored, audio=False, load_model=lambda *_: Confused())
    root = read(text)
    assert not by(root, "audio") and "words of" not in text
    assert "licences do not allow" in words(section(root, "errors"))
    assert len(by(section(root, "errors"), "li")) > 0


def test_the_number_of_errors_can_be_chosen(scored):
    assert len(by(section(read(build(scored, errors=2)), "errors"), "li")) == 2
    assert not by(section(read(build(scored, errors=0)), "errors"), "li")


def test_recordings_stop_where_the_page_would_become_too_large(scored):
    found = utterance.find_recordings(read_input(scored).dump_dir, {})
    utt = next(iter(found.dumped))
    found.left = len(found.flac(utt))
    assert found.player(utt).src.startswith("data:audio/flac") and found.left == 0
    assert not found.player(utt).src and "too large to pass on" in found.player(utt).problem


def test_a_recording_that_is_gone_leaves_a_sentence(tmp_path):
    found = utterance.Recordings({}, {"a": str(tmp_path / "gone.wav")})
    for utt in ("a", "b"):
        player = found.player(utt)
        assert not player.src and "on the machine that wrote this page" in player.problem
        assert str(tmp_path) not in player.problem


def test_errors_of_other_scores_are_not_shown(tmp_path):
    exp = score(tmp_path)
    with open(exp / "errors.tsv", "a", encoding="utf-8") as stream:
        stream.write("more\tangry\thappy\t0.5\t0.1\tx.wav\tmore\n")
    said = words(section(read(build(exp)), "errors"))
    assert "wrong decisions, scores.json has" in said


# --- one utterance over time -------------------------------------------------------------------


def pictures_of(root):
    """The pictures of the first chart over time, from above."""
    pictures = by(root, "svg", class_="desk")[0].iter("image")
    return [e.get("data-track") for e in pictures if e.get("data-track")]


def test_the_most_confident_error_is_drawn_with_its_models_posteriors(scored, page):
    root = section(read(page), "utterance")
    first = (scored / "errors.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")
    utt, ref, hyp, *_, own = first
    title = f"{utt} ({own}), tested in fold {utt[:6]}: {ref} recognised as {hyp}"
    assert title in words(root)
    assert pictures_of(root) == ["spectrogram", "emotions", "units"]
    digit = LABELS.index(first[1])
    assert f"Decoded units: V{digit}" in words(root)
    # Frames alternate between blank and the unit of the emotion: the picture does so too.
    picture = by(root, "image", data_track="units")[0].get("href")
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    palette_ends = pixels[:, :, :3].reshape(-1, 3)
    assert pixels.shape[0] == 5  # V0 to V3, then the blank
    assert len(np.unique(palette_ends, axis=0)) == 2
    np.testing.assert_array_equal(
        pixels[4, ::2], np.broadcast_to(pixels[4, 0], pixels[4, ::2].shape)
    )
    assert (pixels[4, 0] == pixels[digit, 1]).all() and (pixels[4, 1] == pixels[digit, 0]).all()


def test_an_utterance_can_be_chosen_and_one_that_was_not_tested_is_refused(scored, tmp_path):
    utt = next(iter(read_input(scored).experiment.references(FOLDS[2])))
    for name in (utt, f"own_{utt}"):  # or by the id that the corpus itself has
        output = make_html_report(
            [scored], tmp_path / "a.html", utterance=name, load_model=lambda *_: Confused()
        )
        title = f"{utt} (own_{utt}), tested in fold {FOLDS[2]}"
        assert title in output.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="--utterance nobody: not tested"):
        make_html_report([scored], tmp_path / "b.html", utterance="nobody")
    assert not (tmp_path / "b.html").exists()


def test_a_model_without_a_head_of_units_has_no_posteriors(scored):
    root = section(read(build(scored, load_model=lambda *_: Headless())), "utterance")
    assert "no head of units (CTC)" in words(root)
    assert pictures_of(root) == ["spectrogram"]


def test_without_a_model_the_utterance_is_left_out_with_a_sentence(scored):
    root = section(read(build(scored)), "utterance")
    assert "Not drawn for sys_strict_seed1" in words(root) and not by(root, "svg")


def test_emotions_share_what_is_not_blank():
    units = ["<blank>", "V0", "F0", "V1", "F1"]
    posteriors = np.array([[0.6, 0.1, 0.2, 0.1, 0.0], [0.0, 0.25, 0.25, 0.0, 0.5]])  # (T, V)
    np.testing.assert_allclose(
        tracks.emotion_shares(posteriors, units, 2), [[0.75, 0.5], [0.25, 0.5]]
    )
    assert tracks.emotion_shares(posteriors, ["<blank>", "a", "b", "c", "d"], 2) is None


def test_units_are_drawn_by_emotion_and_the_blank_last():
    order, tags = tracks.unit_rows(np.zeros((3, 5)), ["<blank>", "V0", "V1", "F0", "F1"], 2)
    assert order == [1, 3, 2, 4, 0] and list(tags) == [-1, 0, 1, 0, 1]


def test_of_a_large_inventory_the_surest_units_are_drawn():
    posteriors = np.zeros((2, 200))
    posteriors[1, [7, 150]] = 0.9
    order, _ = tracks.unit_rows(posteriors, ["<blank>", *map(chr, range(0x4E00, 0x4E00 + 199))], 4)
    assert len(order) == tracks.MOST_UNITS + 1 and {7, 150, 0} <= set(order)


def test_a_tone_is_bright_where_its_frequency_is():
    t = np.arange(8000) / 16000
    loud = tracks.spectrogram((0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32))
    assert loud.shape == (257, 51)
    assert (loud[:, 5:-5].argmax(axis=0) == 32).all()  # 1000 Hz / (16000 / 512)
    assert loud[200, 25] < 0.1 < 0.9 < loud[32, 25]


# --- safety ------------------------------------------------------------------------------------


def test_hostile_names_are_text_wherever_they_stand(tmp_path):
    speakers = [
        {**entry, "speaker": f"{entry['speaker']}{HOSTILE}"} for entry in make_scores()["speakers"]
    ]
    keys = ("tag", "corpus", "system", "command", "hardware", "commit")
    directory = put(tmp_path, speakers=speakers, leaky=[HOSTILE], **dict.fromkeys(keys, HOSTILE))
    (directory / "errors.tsv").write_text(
        f"utt_id\tref\thyp\tconfidence\tp_ref\twav\torig_id\n{HOSTILE}\t{HOSTILE}\tangry\t0.9\t0.1\tx\t{HOSTILE}\n",
        encoding="utf-8",
    )
    text = build(directory)
    root = read(text)
    assert not by(root, "script") and not by(root, "img")
    for element in root.iter():
        assert not [k for k in element.attrib if k.startswith("on") or k == "style"]
    assert text.count("&lt;script&gt;alert(") > 10
    assert "\u202e" not in text


def test_the_page_may_load_nothing_and_refers_to_nothing(page):
    root = read(page)
    head = list(root.iter("head"))[0]
    policy = by(head, "meta", http_equiv="Content-Security-Policy")[0].get("content")
    assert [e.tag for e in head][:2] == ["meta", "meta"] and "default-src 'none'" in policy
    (style,) = head.iter("style")
    digest = base64.b64encode(hashlib.sha256(style.text.encode("utf-8")).digest()).decode("ascii")
    assert f"style-src 'sha256-{digest}'" in policy and "unsafe" not in policy
    for element in root.iter():
        for key in ("src", "href", "action", "poster", "srcset", "data"):
            value = element.get(key)
            assert value is None or value.startswith(("#", "data:")), (element.tag, value)
    assert "url(" not in style.text and "@import" not in style.text


def test_no_path_of_this_machine_is_on_the_page(scored, page):
    assert str(scored.parents[2]) not in page


def test_the_page_is_small_enough_to_pass_on(page):
    assert len(page.encode("utf-8")) < 5_000_000
    assert 4 / 3 * utterance.MOST_BYTES < 4_500_000


# --- the command -------------------------------------------------------------------------------


def test_the_page_goes_where_it_is_asked_for_or_into_the_experiment(tmp_path):
    first, second = put(tmp_path), put(tmp_path, tag="other")
    assert make_html_report([first], load_model=no_model) == first / "report.html"
    assert make_html_report([first, second], load_model=no_model) == first / "report_other.html"
    chosen = make_html_report([first], tmp_path / "new/page.html", load_model=no_model)
    assert chosen.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_command_takes_its_options(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "ser.reporting.html.make_html_report", lambda dirs, **o: asked.update(o, of=dirs)
    )
    with pytest.raises(SystemExit, match="0"):
        call(
            make_app("report"),
            ["report", "exp/a/b", "exp/a/c", "--errors", "3", "--no-audio"],
            "ser",
        )
    assert [str(path) for path in asked["of"]] == ["exp/a/b", "exp/a/c"]
    assert (asked["errors"], asked["audio"]) == (3, False)


@pytest.mark.parametrize("count", ["-1", "x", "1.5"])
def test_a_number_of_errors_that_is_none_is_a_usage_error(count, capsys):
    with pytest.raises((SystemExit, UserError)) as stop:
        call(make_app("report"), ["report", "exp/a/b", "--errors", count], "ser")
    assert "--errors" in capsys.readouterr().err + str(stop.value)


def test_a_folder_for_a_page_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"^--output {tmp_path}: a folder; give the name of a file"):
        make_html_report([put(tmp_path)], tmp_path, load_model=no_model)


def test_folders_of_data_that_were_named_must_be_such(scored, tmp_path):
    root = scored.parents[2]
    for option in ("dump_dir", "data_dir"):
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(UserError, match=f"^{flag} {tmp_path}: there is no .*; expected d"):
            make_html_report([scored], tmp_path / "a.html", **{option: tmp_path})
    assert not (tmp_path / "a.html").exists()
    places = {"dump_dir": root / "dump/toy", "data_dir": str(root / "data/toy")}
    page = make_html_report([scored], tmp_path / "a.html", load_model=no_model, **places)
    assert "words of " in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [0, 3])
def test_a_page_is_of_one_experiment_or_two(tmp_path, count):
    with pytest.raises(UserError, match="of one, or of two"):
        make_html_report([put(tmp_path) for _ in range(count)])


def test_an_experiment_named_twice_or_not_scored_is_refused(tmp_path):
    directory = put(tmp_path)
    with pytest.raises(UserError, match="given twice"):
        make_html_report([directory, directory / "../tag0"])
    with pytest.raises(UserError, match="scores.json: no such directory; score first"):
        make_html_report([tmp_path / "exp/toy/nothing"])
    (directory / "scores.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="schema None"):
        make_html_report([directory])
    assert not (directory / "report.html").exists()


# --- what is drawn -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory, page):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory, scored):
    """Two systems, one with a long name, both with a mark."""
    root = tmp_path_factory.mktemp("pair")
    paths = [put(root, tag=tag_, leaky=["why"]) for tag_ in ("a" * 60, "second")]
    return make_html_report([*paths], root / "pair.html", load_model=no_model)


TEXTS_CUT = """
const cut = [];
for (const svg of document.querySelectorAll("svg")) {
  if (svg.parentElement.closest("svg")) continue;
  const outer = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll("text")) {
    const r = text.getBoundingClientRect();
    if (r.left < outer.left - 1 || r.right > outer.right + 1 || r.top < outer.top - 2
        || r.bottom > outer.bottom + 3) cut.push(text.textContent);
  }
}
return cut;
"""
OVERFLOWING = """
const wide = [];
for (const e of document.querySelectorAll("body *")) {
  const inside = s => e.closest(s) && !e.matches(s);
  if (inside(".scroll") || inside("svg")) continue;
  if (e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    wide.push(e.tagName + "." + e.getAttribute("class"));
}
return [document.documentElement.scrollWidth, innerWidth, wide];
"""


@needs_chromium
def test_the_page_opens_without_a_request_or_a_complaint(browser, file):
    browser.open("about:blank")
    browser.requests(), browser.log("browser")
    browser.open(file)
    assert browser.requests() == [file.resolve().as_uri()]
    assert browser.log("browser") == []
    assert browser.ask("return document.scripts.length") == 0


@needs_chromium
def test_nothing_is_fetched_even_if_an_address_got_into_the_page(browser, tmp_path, page):
    spoilt = tmp_path / "spoilt.html"
    added = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script><main>'
    spoilt.write_text(page.replace("<main>", added), encoding="utf-8")
    browser.open(spoilt)
    assert browser.ask("return document.title") != "run"
    assert "Content Security Policy" in json.dumps(browser.log("browser"))


@needs_chromium
def test_the_bars_are_as_long_as_the_speakers_accuracy(browser, file, scored):
    browser.open(file)
    drawn = browser.ask("""
      const svg = document.querySelector("#speakers svg");
      const box = e => e.getBoundingClientRect();
      const x = [...svg.querySelectorAll("g[data-grid] path")].map(e => box(e).left);
      return [Math.min(...x), Math.max(...x), [...svg.querySelectorAll("g[data-speaker]")].map(g =>
        [g.dataset.speaker, ...["left", "width"].map(k => box(g.querySelector("path"))[k])])];
    """)
    left, right, bars = drawn
    expected = figures.speaker_accuracy(read_input(scored).scores)
    assert [name for name, _, _ in bars] == list(expected)
    for name, start, width in bars:
        true, n = expected[name]
        assert start == pytest.approx(left, abs=1)
        assert width / (right - left) == pytest.approx(true / n, abs=0.01)


@needs_chromium
def test_the_bars_of_the_reliability_diagram_are_as_high_as_the_accuracy(browser, file, scored):
    browser.open(file)
    drawn = browser.ask("""
      const svg = document.querySelector("#calibration svg");
      const box = e => e.getBoundingClientRect();
      const y = [...svg.querySelectorAll("g[data-grid] path")].map(e => box(e).top);
      return [Math.max(...y) - Math.min(...y), [...svg.querySelectorAll("g[data-bin]")].map(g =>
        [g.dataset.bin, box(g.querySelector("path")).height])];
    """)
    height, bars = drawn
    bins = [b for b in read_input(scored).scores["calibration"]["bins"] if b["n"]]
    assert [name for name, _ in bars] == [f"{100 * b['low']:.0f}" for b in bins]
    for (_, tall), b in zip(bars, bins, strict=True):
        assert tall / height == pytest.approx(b["accuracy"], abs=0.01)


@needs_chromium
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_overflows_and_no_label_is_cut(browser, file, pair, width):
    for path in (file, pair):
        browser.open(path, width)
        scroll, inner, wide = browser.ask(OVERFLOWING)
        assert scroll <= inner and not wide, path.name
        assert browser.ask(TEXTS_CUT) == [], path.name


@needs_chromium
def test_text_on_a_phone_is_not_scaled_down(browser, file):
    browser.open(file, 360)
    sizes = browser.ask("""
      return [...document.querySelectorAll("svg.chart:not(.desk)")].map(
        svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)
    """)
    assert len(sizes) >= 6 and min(sizes) > 0.98


@needs_chromium
def test_two_matrices_stand_side_by_side_on_a_desktop_and_below_each_other_on_a_phone(
    browser, pair
):
    places = """return [...document.querySelectorAll("#confusion svg")].map(
      e => [e.getBoundingClientRect().left, e.getBoundingClientRect().top])"""
    browser.open(pair, 1280)
    (left, top), (right, same) = browser.ask(places)
    assert right > left + 300 and same == pytest.approx(top, abs=40)
    browser.open(pair, 360)
    (left, top), (right, below) = browser.ask(places)
    assert right == left and below > top + 300


def pixels_of(browser, selector):
    """The pixels of an element, (H, W, 3) from 0 to 255, as they are on the screen."""
    box = browser.ask(
        "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
        "const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]",
        selector,
    )
    left, top, right, bottom = (round(v) for v in box)
    image = matplotlib.image.imread(io.BytesIO(browser.screenshot()))
    return np.round(255 * image[top:bottom, left:right, :3]).astype(int)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_charts_are_not_blank_and_contrast_with_the_paper(browser, file, dark):
    browser.open(file, dark=dark)
    paper = (0x14, 0x18, 0x1D) if dark else (255, 255, 255)
    for name in ("#confusion svg", "#speakers svg", "#learning svg", "#layers svg",
                 "#calibration svg", "#utterance .tracks"):  # fmt: skip
        found = pixels_of(browser, name)
        distance = np.abs(found - np.array(paper)).sum(axis=-1)
        assert 0.01 < (distance > 150).mean() < 0.95, name
        assert len(np.unique(found.reshape(-1, 3), axis=0)) > 10, name


@needs_chromium
def test_the_picture_of_posteriors_alternates_on_the_screen_as_the_frames_do(browser, file):
    browser.open(file)
    browser.ask("document.querySelector('.desk image[data-track=units]').id = 'under-test'")
    found = pixels_of(browser, "#under-test")
    blank = found[-6, 2:-2]  # (W, 3), a line of pixels through the lowest row
    changes = (np.abs(np.diff(blank, axis=0)).sum(axis=-1) > 100).sum()
    frames = browser.ask("""
      const image = new Image();
      image.src = document.querySelector("#under-test").getAttribute("href");
      return image.decode().then(() => image.naturalWidth);
    """)
    assert frames > 2 and changes == frames - 1


@needs_chromium
def test_the_recordings_can_be_played(browser, file, scored):
    browser.open(file)
    seconds = browser.ask("""
      const audio = document.querySelector("#errors audio");
      audio.preload = "auto";
      return new Promise(done => {
        if (audio.readyState >= 1) done(audio.duration);
        audio.onloadedmetadata = () => done(audio.duration);
        audio.onerror = () => done(audio.error.message);
      });
    """)
    found = read_input(scored)
    first = found.errors[0].utt_id
    samples = (found.dump_dir / "utt2num_samples").read_text(encoding="utf-8")
    expected = int(re.search(rf"^{first} (\d+)$", samples, re.M)[1])
    assert expected % HOP == 0 and seconds == pytest.approx(expected / 16000, abs=0.002)


@needs_chromium
def test_it_prints_on_a4_with_nothing_cut(browser, file, pair):
    for path in (file, pair):
        browser.open(path, 703)  # A4 less the margins of style.css, in CSS pixels
        browser.devtools("Emulation.setEmulatedMedia", media="print")
        scroll, inner, wide = browser.ask(OVERFLOWING)
        assert scroll <= inner and not wide, path.name
        assert browser.ask(TEXTS_CUT) == []
        clipped = browser.ask("""return [...document.querySelectorAll(".scroll")].filter(
          e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 40))""")
        assert clipped == []
        content = browser.pdf()
        browser.devtools("Emulation.setEmulatedMedia", media="")
        sizes = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", content)
        assert 3 <= len(sizes) <= 9
        assert {tuple(round(float(v)) for v in size) for size in sizes} == {(595, 842)}


@needs_chromium
def test_dark_pages_are_printed_on_white(browser, file):
    browser.open(file, dark=True)
    dark = browser.ask("return getComputedStyle(document.body).backgroundColor")
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.devtools("Emulation.setEmulatedMedia", media="print", features=scheme)
    white = browser.ask("return getComputedStyle(document.body).backgroundColor")
    browser.devtools("Emulation.setEmulatedMedia", media="")
    assert (dark, white) == ("rgb(20, 24, 29)", "rgb(255, 255, 255)")


@needs_chromium
def test_hostile_names_run_nothing_and_are_shown_as_they_are(browser, tmp_path):
    directory = put(tmp_path, tag=HOSTILE, hardware=HOSTILE)
    path = tmp_path / "hostile.html"
    path.write_text(build(directory), encoding="utf-8")
    browser.open(path)
    assert browser.ask("return [document.scripts.length, document.images.length]") == [0, 0]
    assert browser.ask("return document.title").startswith("<script>alert('1')</script>")
