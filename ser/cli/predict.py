"""``ser predict``: predict the emotion of each recording, and when it changes."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from ser.cli.options import Device, Model
from ser.console import EXIT_ERROR, explain
from ser.errors import UserError
from ser.files import naming

if TYPE_CHECKING:
    from ser.predict.classifier import Prediction, SpeechEmotion
    from ser.predict.turns import Turn

STDIN = "-"
STDIN_NAME = "standard input"
EXPERIMENTS = Path("exp")

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="recordings; - reads standard input; -- comes before names that begin with a dash",
    ),
]
Folds = Annotated[
    str, typer.Option(help="average the models of these folds only; default: all folds")
]
Backend = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        help="auto: onnxruntime on the CPU for a model that was packed with --onnx, unless "
        "--device or --precision is given; else PyTorch"
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(
        help="of PyTorch; auto: bfloat16 for a model that was trained in it, where the "
        "processor multiplies it, else float32"
    ),
]
Form = Annotated[
    Literal["text", "json", "csv", "textgrid"],
    typer.Option("--format", help="of the output, see above"),
]
Segments = Annotated[
    str,
    typer.Option(
        metavar="auto|none|SECONDS",
        help="auto; none: each file as one utterance, up to 5 minutes; or windows of SECONDS "
        "without overlap",
    ),
]
Classes = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME...",
        help="decide between these emotions only; their probabilities then sum to 1",
    ),
]
Abstain = Annotated[
    float,
    typer.Option(metavar="P", help="say unsure where no emotion is at least so probable, e.g. 0.6"),
]
Rttm = Annotated[
    Path | None,
    typer.Option(
        help="a diarisation: predict each turn, and each speaker from all of his or her turns; "
        "its file names are those of the recordings without their suffix"
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="with - for FILE: read 16-bit little-endian samples of one channel, and print a "
        "line each second about the last six",
    ),
]
Rate = Annotated[int, typer.Option(help="of the samples of --stream, Hz")]
Output = Annotated[Path | None, typer.Option(help="write there; default: standard output")]


def predict(
    files: Files,
    model: Model = "",
    folds: Folds = "",
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    form: Form = "text",
    segments: Segments = "auto",
    classes: Classes = "",
    abstain: Abstain = 0.0,
    rttm: Rttm = None,
    stream: Stream = False,
    rate: Rate = 16000,
    output: Output = None,
) -> None:
    """Predict the emotions in recordings, and when they change.

    Files of any length, sample rate and number of channels, in any format that libsndfile reads
    (WAV, FLAC, MP3, Ogg, ...), and m4a, mp4 and webm where torchcodec is installed; - is standard
    input. A recording of up to 15 s is one utterance, a longer one is read every 3 s through
    windows of 6 s; its own emotion comes from the mean log-probabilities of these segments. A file
    that cannot be read is reported, the others are done all the same, and the exit status is 1.

    \b
      ser predict recording.wav --model exp/iemocap/s1_mtl_phoneme_strict_seed1
      ser predict calls/*.mp3 --format csv --output calls.csv
      ser predict talk.flac --segments 10 --format textgrid --output talk.TextGrid
      ser predict call.wav --rttm call.rttm --format json
      arecord -t raw -f S16_LE -r 16000 | ser predict - --stream
      ffmpeg -i film.mkv -f wav - | ser predict - --format json

    \b
    Formats:
      text      the decision, and where the emotion changes
      json      one object a line for each file: file, duration, emotion, probabilities, segments,
                units; values (arousal ...) if the model has heads of values
      csv       for each file a row of scope "file", then one of scope "segment" for each segment;
                probabilities, then values if the model has heads of them
      textgrid  Praat's tiers "emotion" and "units"; of several files, --output is a folder
    Each also says where a recording is unlike the training set: in level, silence, bandwidth or
    sampling rate.
    """
    if stream and (files != [STDIN] or form not in ("text", "json") or output or rttm):
        raise UserError("--stream: reads standard input, '-', and prints text or json lines")
    targets = _targets(files, form, output)
    spans = _segments(segments)
    _require_audio(files)  # before the models are loaded
    turns = _turns(rttm, files) if rttm else {}
    source = model or default_model(EXPERIMENTS)
    decide = {"classes": classes.replace(",", " ").split() or None, "abstain": abstain}
    classifier = _load(spans, source, device, folds.split() or None, backend, precision, **decide)
    if stream:
        _follow(classifier, rate, form)
    else:
        _predict_all(classifier, files, form, output, targets, spans, turns)


def _load(spans: str | float, *args: Any, **decide: Any) -> "SpeechEmotion":
    """``SpeechEmotion.from_pretrained`` with libraries' output kept off stdout."""
    with contextlib.redirect_stdout(sys.stderr):
        from ser.predict.classifier import SpeechEmotion, check_segments

        check_segments(spans)
        return SpeechEmotion.from_pretrained(*args, **decide)


def _predict_all(
    classifier: "SpeechEmotion",
    files: Sequence[str],
    form: str,
    output: Path | None,
    targets: dict[str, Path],
    spans: str | float,
    turns: dict[str, list["Turn"]],
) -> None:
    """Predict each file and write the results; failures set the exit status."""
    from ser.predict.formats import csv_header

    failed = 0
    columns = (classifier.emotions, classifier.values, bool(turns))
    head = csv_header(*columns) if form == "csv" else ""
    with _writer(form, output, targets, head) as write:
        for number, name in enumerate(files, start=1):
            place = f"{number}/{len(files)} " if len(files) > 1 else ""
            try:
                said = _predict(classifier, name, spans, place, turns.get(name))
            except Exception as err:  # one file's failure must not stop the others
                failed += 1
                about = "" if isinstance(err, UserError) else f"{name}: "
                print(f"error: {about}{explain(err)}", file=sys.stderr)
                continue
            try:
                write(name, said)
            except UserError as err:
                failed += 1
                print(f"error: {err}", file=sys.stderr)
    if failed:
        if len(files) > 1:
            print(f"error: {failed} of {len(files)} files failed, see above", file=sys.stderr)
        raise typer.Exit(EXIT_ERROR)


def _require_audio(files: Sequence[str]) -> None:
    """Report the files and exit if none of them can be predicted."""
    from ser.predict.recordings import open_recording

    problems = []
    for name in files:
        try:
            if name == STDIN or Path(name).is_fifo() or open_recording(name):
                return
        except UserError as err:
            problems.append(f"error: {err}")
    if len(files) > 1:
        problems.append(f"error: {len(files)} of {len(files)} files failed, see above")
    print("\n".join(problems), file=sys.stderr)
    raise typer.Exit(EXIT_ERROR)


def _follow(model: "SpeechEmotion", rate: int, form: str) -> None:
    """Print a line for each second of standard input."""
    from ser.predict.formats import stream_line
    from ser.predict.stream import follow

    with contextlib.suppress(BrokenPipeError):
        for second, said in enumerate(follow(model, sys.stdin.buffer, rate), start=1):
            print(stream_line(second, said, form), flush=True)


def _turns(rttm: Path, files: Sequence[str]) -> dict[str, list["Turn"]]:
    """Turns of each recording, except unreadable ones, which are reported later."""
    from ser.predict.recordings import open_recording
    from ser.predict.turns import read_rttm, turns_of

    if STDIN in files:
        raise UserError("--rttm: has turns of files; name the recording instead of standard input")
    found = read_rttm(rttm)
    turns = {}
    for name in files:
        try:
            duration = open_recording(name).duration
        except UserError:
            continue
        turns[name] = turns_of(name, duration, found)
    return turns


def _segments(text: str) -> str | float:
    if text in ("auto", "none"):
        return text
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--segments {text}: expected auto, none or a number of seconds") from None


def _predict(
    model: "SpeechEmotion",
    name: str,
    segments: str | float,
    place: str,
    turns: Sequence["Turn"] | None = None,
) -> "Prediction":
    """Predict one file, with a progress bar on a terminal."""
    from tqdm import tqdm

    from ser.predict.turns import predict_turns

    bar = tqdm(
        desc=f"{place}{Path(name).name}",
        disable=None,  # unless stderr is a terminal
        leave=False,
        file=sys.stderr,
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s of audio, "
        "{remaining} left",
        total=1.0,
    )

    def show(done: float, total: float) -> None:
        bar.total = max(done, total)
        bar.update(done - bar.n)

    with bar, _file(name) as path:
        try:
            if turns:
                return predict_turns(model, path, turns, segments, show)
            return model(path, segments=segments, on_progress=show)
        except UserError as err:
            raise UserError(str(err).replace(path, STDIN_NAME if name == STDIN else name)) from err


@contextlib.contextmanager
def _file(name: str) -> Iterator[str]:
    """Yield ``name``, or a temporary copy of a pipe's data, since pipes are not seekable."""
    if name != STDIN and not Path(name).is_fifo():
        yield name
        return
    if name == STDIN and sys.stdin is None:
        raise UserError(f"{STDIN_NAME}: closed; give audio through a pipe, or name a file")
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="ser-"))
        pipe = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        shutil.copyfileobj(pipe, copy)
        copy.flush()
        yield copy.name


def default_model(experiments: Path) -> str:
    """Path of the only experiment; UserError if there are none or several."""
    found = sorted(path.parent for path in experiments.glob("*/*/run.yaml"))
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise UserError(
            f"--model: not given, and {experiments}/ holds no experiment; name a packed model, a "
            "hub id, or train one: make demo"
        )
    listed = "\n  ".join(map(str, found))
    raise UserError(f"--model: not given, and there are several; choose one:\n  {listed}")


def _targets(files: Sequence[str], form: str, output: Path | None) -> dict[str, Path]:
    """TextGrid path of each file if there are several; UserError if it cannot be written."""
    if files.count(STDIN) > 1:
        raise UserError(f"{STDIN}: standard input can be read once only; name it once")
    folder = form == "textgrid" and output is not None and (len(files) > 1 or output.is_dir())
    if output is None:
        if form == "textgrid" and len(files) > 1:
            raise UserError(
                f"--format textgrid: {len(files)} files, each of which gives a TextGrid; say with "
                "--output into which folder"
            )
        return {}
    if not folder:
        if output.is_dir() or not output.absolute().parent.is_dir():
            what = "a folder" if output.is_dir() else f"there is no folder {output.parent}"
            raise UserError(f"--output {output}: {what}; expected the name of a file to write")
        if output.exists() and any(
            name != STDIN and Path(name).exists() and output.samefile(name) for name in files
        ):
            raise UserError(f"--output {output}: is one of the recordings; choose another name")
        if _is_recording(output):
            raise UserError(
                f"--output {output}: a recording, which would be lost; choose another name"
            )
        return {}
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: a file; expected a folder for {len(files)} TextGrids")
    targets: dict[str, Path] = {}
    for name in dict.fromkeys(files):
        target = output / f"{'stdin' if name == STDIN else Path(name).stem}.TextGrid"
        if target in targets.values():
            raise UserError(
                f"--output {output}: two recordings would both be written to {target}; predict "
                "them one by one"
            )
        targets[name] = target
    return targets


def _is_recording(path: Path) -> bool:
    from ser.data.audio import probe

    try:
        return path.is_file() and bool(probe(path))
    except UserError:
        return False


@contextlib.contextmanager
def _writer(
    form: str, output: Path | None, targets: dict[str, Path], head: str
) -> Iterator[Callable[[str, "Prediction"], None]]:
    """Yield a function that writes each prediction at once, so that an interrupted run keeps them.

    An existing ``output`` is kept until the first prediction replaces it.
    """
    from ser.predict.formats import FORMATS

    if targets:
        output.mkdir(parents=True, exist_ok=True)

        def write(name: str, said: "Prediction") -> None:
            try:
                with _open(targets[name], "w") as file:
                    file.write(FORMATS[form](name, said))
            except OSError as err:
                raise UserError(
                    f"{targets[name]}: cannot be written ({err.strerror}); rename {name}, or "
                    "choose another --output"
                ) from None

        yield write
        return
    if output is None and sys.stdout is None:
        raise UserError("standard output is closed; name a file with --output")
    fresh = output is not None and not output.exists()
    wrote = False
    with contextlib.ExitStack() as stack:
        if output is None:
            stream: IO[str] = sys.stdout
            stream.reconfigure(errors="surrogateescape")  # file names are bytes
        else:
            stack.enter_context(naming(output))
            stream = stack.enter_context(_open(output, "a"))

        def write(name: str, said: "Prediction") -> None:
            nonlocal wrote
            if not wrote:
                if output is not None and output.is_file():
                    stream.truncate(0)
                stream.write(head)
                wrote = True
            stream.write(FORMATS[form](name, said))
            stream.flush()

        yield write
    if fresh and not wrote:
        output.unlink()


def _open(path: Path, mode: str) -> IO[str]:
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="\n")
