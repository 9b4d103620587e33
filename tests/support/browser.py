"""Headless Chromium for tests, through ChromeDriver's own protocol: no Python package is needed.

Debian and Ubuntu: apt-get install chromium chromium-driver.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NEEDED = "needs Chromium: apt-get install chromium chromium-driver"
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=NEEDED)
PATIENCE = 120  # s; only a hang takes so long


class Browser:
    """One window; what JavaScript returns comes back as Python values."""

    def __init__(self, server: str, session: str):
        self.url = f"{server}/session/{session}"

    def open(self, where: str | Path, width: int = 1280, height: int = 900, dark: bool = False):
        """Show a page of this machine in a window of CSS pixels, as a phone or desktop would."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)
        self.call("url", url=where.resolve().as_uri() if isinstance(where, Path) else where)

    def ask(self, script: str, *args):
        """The value that ``script`` returns; elements are asked for what they are made of."""
        return self.call("execute/sync", script=script, args=list(args))

    def wait(self, script: str, *args, seconds: float = PATIENCE):
        """The first value of ``script`` that is true in JavaScript."""
        until = time.monotonic() + seconds
        while not (value := self.ask(script, *args)):
            if time.monotonic() > until:
                raise TimeoutError(f"after {seconds:g} s: {script}")
            time.sleep(0.05)
        return value

    def choose_file(self, selector: str, path: Path) -> None:
        """Give ``path`` to the <input type=file> that ``selector`` finds, as a person would."""
        found = self.call("element", using="css selector", value=selector)
        (element,) = found.values()
        self.call(f"element/{element}/value", text=str(path.resolve()))

    def screenshot(self, whole: bool = False) -> bytes:
        """The window, or the whole page, as a PNG file."""
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        found = self.devtools("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(found["data"])

    def devtools(self, command: str, **params):
        """A command of the DevTools protocol."""
        return self.call("goog/cdp/execute", cmd=command, params=params)

    def log(self, kind: str) -> list[dict]:
        """What Chromium has logged since the last call: ``browser`` or ``performance``."""
        return self.call("se/log", type=kind)

    def requests(self) -> list[str]:
        """The addresses asked for since the last call, data in the page itself left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = (m for m in messages if m["method"] == "Network.requestWillBeSent")
        urls = [m["params"]["request"]["url"] for m in sent]
        return [url for url in urls if not url.startswith("data:")]

    def call(self, path: str, **body):
        """A command of the WebDriver protocol."""
        return _post(f"{self.url}/{path}", body)


@contextlib.contextmanager
def chromium(directory: Path, *more: str):
    """A ``Browser``, whose files are in ``directory``; it ends with the block.

    ``more`` are further arguments of Chromium.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HOME": str(directory), "TMPDIR": str(directory)}
    with open(directory / "chromedriver.log", "wb") as log:
        driver = subprocess.Popen(
            [DRIVER, f"--port={port}"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(f"{server}/status", driver)
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            f"--user-data-dir={directory / 'profile'}",
            *more,
        ]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = _post(f"{server}/session", {"capabilities": {"alwaysMatch": wanted}})
        browser = Browser(server, answer["sessionId"])
        try:
            yield browser
        finally:
            with contextlib.suppress(OSError):
                _request("DELETE", browser.url)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # and the browser, if it did not end by itself
        driver.wait(timeout=PATIENCE)


def _wait(url: str, driver: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and driver.poll() is None:
        with contextlib.suppress(OSError):
            if _request("GET", url)["ready"]:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{DRIVER} did not start")


def _post(url: str, body: dict):
    return _request("POST", url, json.dumps(body).encode("utf-8"))


def _request(method: str, url: str, body: bytes | None = None):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as err:
        raise RuntimeError(json.load(err)["value"]["message"]) from None
