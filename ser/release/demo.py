"""The page of ``ser demo``: Gradio around ser.predict.classifier.SpeechEmotion.

It loads nothing from the network and sends nothing: no telemetry, no external fonts or scripts
(enforced by a content security policy), and no history in the browser. Uploads are kept in a
temporary folder and deleted with the answer, or after some minutes if there is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ser.console import explain
from ser.errors import UserError

if TYPE_CHECKING:
    from markupsafe import Markup

    from ser.predict.classifier import SpeechEmotion

TITLE = "Speech emotion recognition"
MEGABYTE = 1 << 20  # bytes, as in Gradio's limit on file size
ABANDONED_SECONDS = 600.0  # after which an upload is deleted, answered or not
SWEEP_SECONDS = 60.0
WAITING = 20  # queued requests; further ones are rejected
# Gradio's page has inline scripts and styles; external ones and external requests are blocked.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode("ascii"),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


def import_gradio() -> ModuleType:
    """Import Gradio with telemetry off; UserError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by Gradio on import
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as err:
        raise UserError(
            f"ser demo: the package gradio is not installed or does not load ({err}); "
            "pip install -r requirements-apps.txt"
        ) from None
    return gradio


def answer(
    model: SpeechEmotion,
    path: str,
    max_minutes: float,
    on_progress: Callable[[float, float], None] | None = None,
) -> tuple[Markup, Markup]:
    """Predict the file at ``path``; return the two parts of the page.

    For an unusable recording the first part is the error and the second is empty.
    """
    from markupsafe import Markup

    from ser.release import answer as parts

    name = os.path.basename(path)
    try:
        check_minutes(path, max_minutes)
        said = model(path, on_progress=on_progress)
    except UserError as err:
        return parts.problem(str(err).replace(path, name)), Markup()
    except Exception as err:  # a bug; show it on the page and keep serving others
        sentence = f"{name}: {explain(err)}".replace(path, name)
        print(f"error: {sentence}", file=sys.stderr)
        return parts.problem(sentence), Markup()
    return parts.decision(name, said), parts.over_time(name, said, model.emotions, model.units)


def check_minutes(path: str, most: float) -> None:
    """Raise UserError, before decoding, if the recording is longer than ``most`` or unreadable."""
    from ser.predict.formats import clock
    from ser.predict.recordings import open_recording

    seconds = open_recording(path).duration
    if seconds > 60 * most:
        raise UserError(
            f"{path}: {clock(seconds)} long, but this page takes {most:g} minutes at most; send a "
            "part of it, or ask ser predict, which takes any length"
        )


def delete_upload(path: str, uploads: Path) -> None:
    """Delete the files in ``uploads``, and its folder if that is empty; leave other files alone."""
    file = Path(path)
    if uploads in file.parents:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: same bytes under another name
            file.parent.rmdir()


def delete_abandoned(uploads: Path) -> None:
    """Delete old uploads: incomplete, or the client did not wait for the answer."""
    for entry in list(uploads.iterdir()) if uploads.is_dir() else ():
        with contextlib.suppress(OSError):  # already deleted
            if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def check_address(host: str, port: int | None) -> None:
    """Raise UserError if nothing can be served there; Gradio treats every failure as a used port.

    It would try a hundred ports, each for seconds.
    """
    cure = "give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all that it has"
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(
            host.removeprefix("[").removesuffix("]"), port or 0, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise UserError(f"--host {host}: unknown; {cure}") from None
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            what, cure = "taken", "choose another one, or leave it out for the next free one"
        elif err.errno == errno.EACCES:
            what, cure = "not for ordinary users", "choose one from 1024 on"
        else:
            raise UserError(f"--host {host}: not an address of this machine; {cure}") from None
        raise UserError(f"--port {port}: {what}; {cure}") from None


def serve(
    load_model: Callable[[], SpeechEmotion],
    source: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    max_megabytes: float = 100.0,
    max_minutes: float = 15.0,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        load_model: Returns the model, serving one request at a time; called once Gradio is there.
        source: Name of the model on the page.
        host: Address to listen on.
        port: 7860 or the next free one if None.
        share: Also request a public address from Gradio.
        max_megabytes: Maximum file size (in 2^20 bytes).
        max_minutes: Maximum duration of a recording.

    Raises:
        UserError: Gradio is not installed; the address or port is not available; no public address.
    """
    check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="ser-demo-") as folder, _signals():
        uploads, examples = (Path(folder).resolve() / name for name in ("uploads", "examples"))
        uploads.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read by Gradio on import
        gradio = import_gradio()  # before minutes are spent on loading a model
        with contextlib.redirect_stdout(sys.stderr):
            model = load_model()
        page = build_page(gradio, model, source, uploads, examples, max_megabytes, max_minutes)
        try:
            with _without_proxy(host):
                url = _launch(gradio, page, host, port, share, max_megabytes)
            print(f"{url}  (Ctrl-C ends it)", flush=True)
            while not threading.Event().wait(SWEEP_SECONDS):
                delete_abandoned(uploads)
        except KeyboardInterrupt:
            pass
        finally:
            with contextlib.redirect_stdout(sys.stderr):
                page.close(verbose=False)


def build_page(
    gradio: ModuleType,
    model: SpeechEmotion,
    source: str,
    uploads: Path,
    examples: Path,
    max_megabytes: float,
    max_minutes: float,
) -> Any:
    """Build the page as gradio.Blocks; its examples are written to the folder ``examples``."""
    from ser.release.answer import header

    def hear(path: str | None, progress=gradio.Progress()):  # noqa: B008, Gradio's way to ask
        if path is None:
            return "", ""
        try:
            return answer(
                model, path, max_minutes, lambda done, all_: progress((done, all_), unit="s")
            )
        finally:
            delete_upload(path, uploads)

    folds = f", {len(model.models)} folds" if len(model.models) > 1 else ""
    about = (
        f"Model: {source}{folds}. Up to {max_megabytes:g} MB and {max_minutes:g} minutes. "
        "Recordings are deleted once they are answered."
    )
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.HTML(header(TITLE, about), apply_default_css=False)
        with gradio.Row():
            with gradio.Column():
                audio = gradio.Audio(
                    type="filepath",
                    label="Speech",
                    sources=["upload", "microphone"],
                    buttons=[],
                    elem_id="speech",
                )
                _offer_examples(gradio, audio, examples)
            with gradio.Column():
                decision = gradio.HTML(elem_id="decision", min_height=160, apply_default_css=False)
        over_time = gradio.HTML(elem_id="over-time", apply_default_css=False)
        audio.change(
            hear,
            inputs=[audio],
            outputs=[decision, over_time],
            api_visibility="private",
            concurrency_limit=1,
            trigger_mode="always_last",
        )
    page.queue(max_size=WAITING)
    return page


def _offer_examples(gradio: ModuleType, audio: Any, examples: Path) -> None:
    """Add example recordings below the upload box, if espeak-ng can make them."""
    from ser.release.demo_examples import make_examples

    made = make_examples(examples)
    if made:
        gradio.set_static_paths([examples])  # served from there, not copied
        gradio.Examples(
            [[str(path)] for path in made.values()],
            inputs=[audio],
            label="Examples: synthetic speech",
            example_labels=list(made),
            cache_examples=False,
        )


def _launch(
    gradio: ModuleType, page: Any, host: str, port: int | None, share: bool, max_megabytes: float
) -> str:
    """Start the server and return its address; UserError if there is none."""
    from starlette.middleware import Middleware

    from ser.release.answer import style

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    theme = gradio.themes.Default(
        primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _, local, public = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                max_file_size=round(max_megabytes * MEGABYTE),
                theme=theme,
                head=f"<style>{style()}</style>",
                footer_links=[],
                app_kwargs={"middleware": [Middleware(_Headers)]},
                prevent_thread_lock=True,
                inbrowser=False,
                quiet=True,
                show_error=False,
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                num_workers=0,
            )
    except (OSError, ValueError) as err:
        where = f"--host {host}" + (f" --port {port}" if port else "")
        raise UserError(
            f"{where}: cannot be served on ({str(err).splitlines()[0]}); choose another --port, or "
            "an address of this machine"
        ) from None
    if share and not public:
        raise UserError(
            "--share: there is no public address to be had (see above); leave it out, or open the "
            "page to your own network with --host 0.0.0.0"
        )
    return public or local


class _Headers:
    """ASGI middleware that adds HEADERS to every response."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM end the page like Ctrl-C, so that the temporary folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _without_proxy(host: str) -> Iterator[None]:
    """Bypass proxies for ``host``: Gradio checks its own server, which a proxy cannot reach."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    local = f"127.0.0.1,localhost,{host}"
    for name, value in before.items():
        os.environ[name] = f"{value},{local}" if value else local
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
