"""ser demo: what the page is given, and, in headless Chromium, what it answers to recordings."""

import base64
import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from ser.cli import app
from ser.cli.options import call
from ser.errors import UserError
from ser.predict.classifier import Prediction, SpeechEmotion
from ser.predict.models import TorchModel
from ser.predict.windows import Segment, Unit
from ser.release import answer, demo
from ser.release.demo_examples import SPOKEN, make_examples
from ser.reporting.tracks import timeline_chart
from tests.predict.test_classifier import said_like, write
from tests.support import ROOT
from tests.support.browser import chromium, needs_chromium
from tests.support.fake_experiment import LABELS, UNITS, FakeModel
from tests.support.packable import make_experiment

RATE = 16000
START_SECONDS = 300  # importing torch and Gradio from a cold and busy disk
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None,
    reason="gradio: not installed: pip install -r requirements-apps.txt",
)


def fake() -> SpeechEmotion:
    return SpeechEmotion([TorchModel(FakeModel().eval())])


def read(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def words(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def cells(element: ET.Element) -> list[list[str]]:
    return [[words(cell) for cell in row] for row in element.iter("tr")]


# --- options -----------------------------------------------------------------------------------


def test_it_is_for_this_machine_alone_unless_asked_for_more():
    with mock.patch.object(demo, "serve") as serve, pytest.raises(SystemExit) as stop:
        call(app.make_app("demo"), ["demo", "--model", "owner/m"], "ser")
    assert stop.value.code == 0
    assert serve.call_args.kwargs == {
        "host": "127.0.0.1",
        "port": None,
        "share": False,
        "max_megabytes": 100,
        "max_minutes": 15,
    }


@pytest.mark.parametrize(
    "wrong", ["--port 0", "--port 65536", "--port x", "--max-minutes two", "--max-megabytes x"]
)
def test_options_that_are_no_numbers_are_usage_errors(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        call(app.make_app("demo"), ["demo", "--model", "owner/m", *wrong.split()], "ser")
    assert stop.value.code == 2 and "Invalid value" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--max-megabytes 0", "--max-minutes nan", "--max-minutes=-1"])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match="expected a number above 0"):
        call(app.make_app("demo"), ["demo", "--model", "owner/m", *wrong.split()], "ser")


@pytest.mark.parametrize("name, what", [("none", "no such file"), ("", "not a model")])
def test_a_model_that_is_not_there_is_said_before_gradio_is_imported(tmp_path, name, what):
    model = str(tmp_path / name)
    with mock.patch.object(demo, "serve") as serve, pytest.raises(UserError, match=what):
        call(app.make_app("demo"), ["demo", "--model", model], "ser")
    assert not serve.called


def test_without_gradio_one_sentence_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    loaded = []
    with pytest.raises(UserError, match=r"gradio is not installed .*requirements-apps\.txt") as err:
        demo.serve(lambda: loaded.append(1), "x")
    assert "\n" not in str(err.value) and not loaded


@pytest.mark.parametrize(
    "host, what",
    [("nosuchhost.invalid", "unknown"), ("300.1.1.1", "unknown"),
     ("192.0.2.1", "not an address of this machine")],
)  # fmt: skip
def test_a_host_that_cannot_be_had_is_named_before_a_model_is_loaded(monkeypatch, host, what):
    monkeypatch.setattr(demo, "import_gradio", lambda: None)
    loaded = []
    with pytest.raises(UserError, match=f"^--host {re.escape(host)}: {what}; give an address"):
        demo.serve(lambda: loaded.append(1), "x", host=host)
    assert not loaded


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_an_address_of_this_machine_with_a_free_port_is_taken(host):
    demo.check_address(host, None)
    demo.check_address(host, free_port())


def test_the_version_of_gradio_is_pinned_with_a_reason():
    lines = (ROOT / "requirements-apps.txt").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("gradio")]
    assert re.fullmatch(r"gradio==\d+\.\d+\.\d+  # ser demo: .+", line)


# --- what the page is given --------------------------------------------------------------------


def test_the_answer_is_that_of_ser_predict(tmp_path):
    path = write(tmp_path / "a.wav", said_like("angry", "sad"))
    said = fake()(path)
    decision, over_time = demo.answer(fake(), path, 1.0)
    assert decision == answer.decision("a.wav", said)
    assert over_time == answer.over_time("a.wav", said, LABELS, UNITS)


def test_the_decision_shows_every_probability_and_the_length():
    said = Prediction("sad", {"angry": 0.125, "sad": 0.875}, [], [], 75.25)
    text = words(read(answer.decision("a.wav", said)))
    assert "a.wav, 1:15.2 sad" in text
    assert "angry 12.5 %, sad 87.5 %." in text  # what is drawn, for those who do not see it
    assert "reference" not in text


def test_the_table_has_a_row_for_each_change_of_emotion():
    one, two = {"angry": 0.75, "sad": 0.25}, {"angry": 0.25, "sad": 0.75}
    segments = [Segment(0, 4, one), Segment(4, 8, one), Segment(8, 12, two)]
    said = Prediction("angry", one, segments, [], 12.0)
    assert cells(read(answer.over_time("a.wav", said, ["angry", "sad"], []))) == [
        ["from", "to", "emotion", "%"],
        ["0:00.0", "0:08.0", "angry", "75.0"],
        ["0:08.0", "0:12.0", "sad", "75.0"],
    ]
    short = Prediction("sad", two, segments[2:], [], 12.0)
    assert cells(read(answer.over_time("a.wav", short, ["angry", "sad"], []))) == []


def test_spans_are_where_segments_and_units_are_and_as_dark_as_they_are_probable():
    segments = [
        Segment(0, 4, {"angry": 0.75, "sad": 0.25}),
        Segment(6, 8, {"angry": 0.5, "sad": 0.5}),  # in between was silence
    ]
    track = [Unit(1.0, 1.5, "V1"), Unit(7.0, 7.02, "V0"), Unit(7.5, 8.0, "V1")]
    units = ["<blank>", "V0", "V1"]
    chart = timeline_chart(segments, track, units, ["angry", "sad"], 8.0)
    bars, spans = chart.axes
    assert [(p.get_x(), p.get_width(), p.get_facecolor()[3]) for p in bars.patches] == [
        (0, 4, 0.75),
        (6, 2, 0.5),
        (0, 4, 0.25),
        (6, 2, 0.5),
    ]
    rows = [[tuple(p.vertices[[0, 2], 0]) for p in c.get_paths()] for c in spans.collections]
    assert rows == [[(7.0, 7.02)], [(1.0, 1.5), (7.5, 8.0)]]
    assert [tick.get_text() for tick in spans.get_yticklabels()] == ["angry  V0", "sad  V1"]
    said = Prediction("angry", segments[0].probabilities, segments, track, 8.0)
    page = read(answer.over_time("a.wav", said, ["angry", "sad"], units))
    drawn = {
        e.get("data-unit"): words(e.find("title")) for e in page.iter("g") if e.get("data-unit")
    }
    assert (drawn["V0"], drawn["V1"]) == ("V0: 1", "V1: 2")
    assert "V1 V0 V1" in words(page)


@pytest.mark.parametrize(
    "units, expected",
    [([], "This model has no head of units (CTC)."),
     (["<blank>", "V0"], "None: the head of units (CTC) says blank throughout.")],
)  # fmt: skip
def test_without_units_it_says_why(units, expected):
    said = Prediction("sad", {"sad": 1.0}, [Segment(0, 1, {"sad": 1.0})], [], 1.0)
    assert expected in words(read(answer.over_time("a.wav", said, ["sad"], units)))


def test_the_answer_can_be_saved_in_the_formats_of_ser_predict(tmp_path):
    path = write(tmp_path / "my talk.wav", said_like("sad", seconds=1))
    page = read(demo.answer(fake(), path, 1.0)[1])
    saved = {
        a.get("download"): base64.b64decode(a.get("href").partition(",")[2]).decode("utf-8")
        for a in page.iter("a")
    }
    assert list(saved) == ["my talk.json", "my talk.csv", "my talk.TextGrid"]
    assert json.loads(saved["my talk.json"])["emotion"] == "sad"
    assert saved["my talk.csv"].startswith("file,scope,start,end,emotion,p_angry")
    assert saved["my talk.TextGrid"].startswith('File type = "ooTextFile"')


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What cannot be heard, and the beginning of the sentence that says so."""
    whole = folder / "whole.wav"
    soundfile.write(whole, said_like("sad", seconds=1), RATE)
    contents = {
        "empty.wav": (b"", "empty.wav: empty (0 bytes)"),
        "text.wav": (b"these are no samples at all", "text.wav: not an audio file"),
        "cut.wav": (whole.read_bytes()[:9000], "cut.wav: truncated: its header promises"),
    }
    found = {}
    for name, (content, sentence) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = (folder / name, sentence)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    found["silent.wav"] = (folder / "silent.wav", "silent.wav: silent (all 16000 samples")
    soundfile.write(folder / "none.wav", np.zeros(0), RATE)
    found["none.wav"] = (folder / "none.wav", "none.wav: 0 samples at 16000 Hz is shorter")
    return found


@pytest.mark.parametrize("name", ["empty.wav", "text.wav", "cut.wav", "silent.wav", "none.wav"])
def test_what_cannot_be_heard_is_one_sentence_without_a_path_or_traceback(name, tmp_path):
    path, sentence = bad_files(tmp_path)[name]
    first, second = demo.answer(fake(), str(path), 1.0)
    text = words(read(first))
    assert text.startswith(sentence) and second == ""
    assert str(tmp_path) not in text and "Traceback" not in text
    with pytest.raises(UserError) as err:
        fake()(str(path))
    assert text == str(err.value).replace(str(path), name)


def test_a_defect_is_one_sentence_too_and_is_told_to_who_runs_the_page(tmp_path, capsys):
    path = write(tmp_path / "a.wav", said_like("sad", seconds=1))

    def broken(*_, **__):
        raise RuntimeError(f"tensors of {path} do not fit")

    first, _ = demo.answer(broken, path, 1.0)
    assert words(read(first)) == "a.wav: RuntimeError: tensors of a.wav do not fit"
    assert capsys.readouterr().err == "error: a.wav: RuntimeError: tensors of a.wav do not fit\n"


def test_a_recording_that_is_too_long_is_refused_before_it_is_decoded(tmp_path):
    path = write(tmp_path / "long.wav", said_like("sad", seconds=90))
    demo.check_minutes(path, 1.5)
    first, second = demo.answer(None, path, 1.4)  # nothing is asked
    assert words(read(first)).startswith(
        "long.wav: 1:30.0 long, but this page takes 1.4 minutes at most;"
    )
    assert second == ""


def test_names_and_sentences_cannot_become_markup():
    said = Prediction("<b>", {"<b>": 1.0}, [Segment(0, 1, {"<b>": 1.0})], [], 1.0)
    for page in (answer.decision("<i>.wav", said), answer.over_time("<i>.wav", said, ["<b>"], []),
                 answer.problem("<script>")):  # fmt: skip
        assert not {"b", "i", "script"} & {e.tag for e in read(page).iter()}


def test_only_uploads_are_deleted(tmp_path):
    uploads, other = tmp_path / "uploads", tmp_path / "mine.wav"
    upload = uploads / "digest/a.wav"
    upload.parent.mkdir(parents=True)
    for path in (upload, other):
        path.write_bytes(b"x")
    demo.delete_upload(str(other), uploads)
    demo.delete_upload(str(upload), uploads)
    demo.delete_upload(str(upload), uploads)  # which is no longer there
    assert other.exists() and list(uploads.iterdir()) == []


def test_uploads_that_nobody_asked_about_go_after_some_minutes(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "a.wav").write_bytes(b"x")
    (tmp_path / "partial").write_bytes(b"x")
    past = time.time() - 601
    for path in (old, tmp_path / "partial"):
        os.utime(path, (past, past))
    demo.delete_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    demo.delete_abandoned(tmp_path / "not there")


def test_examples_are_spoken_in_each_emotion_and_one_changes(tmp_path):
    made = make_examples(tmp_path / "examples")
    assert list(made) == [*SPOKEN, "neutral, then angry, then sad"]
    seconds = [soundfile.info(path).duration for path in made.values()]
    assert max(seconds[:-1]) < 5 and seconds[-1] > 15  # it is heard in windows
    said = [path.read_bytes() for path in made.values()]
    assert said == [path.read_bytes() for path in make_examples(tmp_path / "again").values()]


def test_without_espeak_there_are_no_examples(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise UserError("espeak-ng cannot read its data")

    monkeypatch.setattr("ser.release.demo_examples.speak", refuse)
    assert make_examples(tmp_path / "examples") == {}
    assert not (tmp_path / "examples").exists()


# --- in a browser ------------------------------------------------------------------------------


class Server:
    """ser demo as a process of its own, as a person starts it."""

    def __init__(self, root: Path, *args: str):
        self.temp = root / "tmp"
        self.temp.mkdir(parents=True)
        environment = {**os.environ, "TMPDIR": str(self.temp), "OMP_NUM_THREADS": "1"}
        # A proxy that is not there: whoever asks the network, or asks it about itself, fails.
        environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        self.log = root / "stderr"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ser", "demo", *args],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        line = self.process.stdout.readline().decode("utf-8")
        self.url = line.partition(" ")[0]
        assert self.url.startswith("http"), self.log.read_text(encoding="utf-8")

    def uploads(self) -> list[str]:
        """The files in its temporary folder, less its own examples."""
        files = (p for p in self.temp.rglob("*") if p.is_file() and p.parent.name != "examples")
        return sorted(str(p.relative_to(self.temp)) for p in files)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.close()
        return self.process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, experiment):
    limits = ("--max-megabytes", "1", "--max-minutes", "0.5")
    arguments = ("--model", str(experiment), "--folds", "Ses01M", "--port", str(free_port()))
    running = Server(tmp_path_factory.mktemp("server"), *arguments, *limits)
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.process.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    # Its microphone is Chromium's own, which beeps.
    arguments = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(tmp_path_factory.mktemp("chromium"), *arguments) as started:
        yield started


def show(browser, server, **options) -> None:
    browser.open(server.url, **options)
    browser.wait("return !!document.querySelector('#speech input[type=file]')")


def drop(browser, path: Path) -> str:
    """Upload ``path``; the text of what is then shown as the decision."""
    browser.choose_file("#speech input[type=file]", path)
    return browser.wait("return document.querySelector('#decision .answer')?.innerText")


def nothing_left(server) -> bool:
    until = time.monotonic() + 20  # the answer is shown a moment before the file is gone
    while server.uploads() and time.monotonic() < until:
        time.sleep(0.05)
    return server.uploads() == []


@needs_gradio
@needs_chromium
def test_the_page_says_what_ser_predict_says_and_keeps_nothing(
    browser, server, experiment, tmp_path
):
    rng = np.random.default_rng(0)
    path = tmp_path / "talk.wav"
    soundfile.write(path, 0.1 * rng.standard_normal(20 * 22050), 22050)
    said = SpeechEmotion.from_pretrained(experiment, folds=["Ses01M"])(path)
    show(browser, server)
    text = drop(browser, path)
    assert "talk.wav, 0:20.0" in text and said.emotion in text
    drawn = browser.ask("return document.querySelector('#decision svg desc').textContent")
    found = dict(re.findall(r"(\w+) ([\d.]+) %", drawn))
    assert {e: float(p) for e, p in found.items()} == pytest.approx(
        {e: 100 * p for e, p in said.probabilities.items()}, abs=0.051
    )
    browser.wait("return !!document.querySelector('#over-time .tracks')")
    # drawn for a desk and for a phone, of which the style sheet shows one
    count = "return document.querySelectorAll('#over-time .%s [data-span]').length"
    drawn = [browser.ask(count % width) for width in ("desk", "phone")]
    assert drawn == 2 * [4 * len(said.segments)] and len(said.segments) > 1
    saved = browser.ask(
        "const a = [...document.querySelectorAll('#over-time a')].find(a => "
        "a.download === 'talk.json'); return fetch(a.href).then(answer => answer.json())"
    )
    assert saved["probabilities"] == pytest.approx(said.probabilities, abs=1e-5)
    assert [s["emotion"] for s in saved["segments"]] == [s.emotion for s in said.segments]
    assert [u["unit"] for u in saved["units"]] == [u.unit for u in said.units]
    assert nothing_left(server)
    # it can still be listened to
    browser.wait("return document.querySelector('#speech').innerText.includes('0:20')")


@needs_gradio
@needs_chromium
@pytest.mark.parametrize("name", ["empty.wav", "text.wav", "cut.wav", "silent.wav", "none.wav"])
def test_the_page_says_what_is_wrong_with_a_file(browser, server, tmp_path, name):
    path, sentence = bad_files(tmp_path)[name]
    show(browser, server)
    assert drop(browser, path).startswith(sentence)
    assert browser.ask("return document.querySelector('#over-time').innerText.trim()") == ""
    assert "Traceback" not in browser.ask("return document.body.innerText")
    assert nothing_left(server)


@needs_gradio
@needs_chromium
def test_a_file_that_is_too_long_or_too_large_is_refused_with_the_limit(browser, server, tmp_path):
    show(browser, server)
    assert "Up to 1 MB and 0.5 minutes." in browser.ask("return document.body.innerText")
    long = tmp_path / "long.flac"
    soundfile.write(long, np.resize(said_like("sad", seconds=1), 31 * RATE), RATE)
    said = drop(browser, long)
    assert said.startswith("long.flac: 0:31.0 long, but this page takes 0.5 minutes at most; ")
    large = tmp_path / "large.wav"
    soundfile.write(large, 0.1 * np.random.default_rng(0).standard_normal(40 * RATE), RATE)
    show(browser, server)
    browser.requests()
    browser.choose_file("#speech input[type=file]", large)
    text = browser.wait(
        "const text = document.body.innerText; return text.includes('large.wav') && text"
    )
    assert 'exceed the maximum allowed size of 1.0 Mb: "large.wav"' in text
    assert not [url for url in browser.requests() if re.search(r"/upload([?]|$)", url)]
    assert nothing_left(server)


@needs_gradio
@needs_chromium
def test_the_server_itself_refuses_a_large_file_and_hands_out_no_other(server, tmp_path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    request = urllib.request.Request(
        f"{server.url}gradio_api/upload",
        form + bytes(1_100_000) + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(request)
    assert refused.value.code == 413
    (tmp_path / "mine.wav").write_bytes(b"x")
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"{server.url}gradio_api/file={tmp_path / 'mine.wav'}")
    assert refused.value.code in (403, 404)
    with opener.open(server.url) as page:
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'; ")


@needs_gradio
@needs_chromium
def test_an_example_can_be_asked_again_and_again(browser, server):
    show(browser, server)
    for emotion in ("sad", "angry", "sad"):
        browser.ask(
            "[...document.querySelectorAll('button')].find(b => "
            "b.textContent.trim() === arguments[0]).click()",
            emotion,
        )
        browser.wait(
            "return document.querySelector('#decision .answer')?.innerText"
            ".includes(arguments[0] + '.wav')",
            emotion,
        )
    assert nothing_left(server)


@needs_gradio
@needs_chromium
def test_what_is_recorded_is_answered(browser, server):
    show(browser, server)
    browser.ask("document.querySelector('#speech [aria-label^=Record]').click()")
    browser.wait("return !!document.querySelector('#speech .record-button')")
    time.sleep(0.5)
    browser.ask("document.querySelector('#speech .record-button').click()")
    time.sleep(2)
    browser.ask("document.querySelector('#speech .stop-button').click()")
    text = browser.wait("return document.querySelector('#decision .answer')?.innerText")
    assert re.search(r"audio\.wav, 0:0[1-9]", text), text
    assert nothing_left(server)


@needs_gradio
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_comes_from_elsewhere_and_nothing_overflows(browser, server, tmp_path, width):
    browser.log("performance")
    show(browser, server, width=width)
    path = tmp_path / "talk.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(1).standard_normal(20 * RATE), RATE)
    drop(browser, path)
    browser.wait("return !!document.querySelector('#over-time .tracks')")
    asked = [url for url in browser.requests() if not url.startswith("chrome")]
    assert asked and all(url.removeprefix("blob:").startswith(server.url) for url in asked)
    assert browser.ask("return document.documentElement.scrollWidth <= innerWidth")
    assert not browser.ask("return document.querySelectorAll('footer a').length")
    # neither are runs kept in the browser
    names = browser.ask("return indexedDB.databases().then(all => all.map(each => each.name))")
    assert not [name for name in names if "gradio" in name.lower()], names


@needs_gradio
@needs_chromium
@pytest.mark.slow
def test_by_default_it_listens_on_this_machine_alone_and_sigterm_leaves_nothing(
    experiment, tmp_path
):
    running = Server(tmp_path, "--model", str(experiment))
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:78[6-9]\d/", running.url)
        port = int(running.url.rstrip("/").rpartition(":")[2])
        table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        listening = [
            row.split()[1] for row in table
            if row.split()[3] == "0A" and int(row.split()[1].partition(":")[2], 16) == port
        ]  # fmt: skip
        assert listening == [f"0100007F:{port:04X}"]
    finally:
        status = running.end()
    assert status == 0
    assert not list(running.temp.glob("ser-demo-*")), list(running.temp.rglob("*"))
    assert "Traceback" not in running.log.read_text(encoding="utf-8")


@needs_gradio
def test_a_port_that_is_taken_is_said_in_one_sentence(experiment, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "ser", "demo", "--model", str(experiment), "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: --port {port}: taken; choose another one")
    assert "Traceback" not in done.stderr
