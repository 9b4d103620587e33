"""Create ``.venv`` from requirements.lock, unless it is there and up to date.

Called by local/install.sh; standard library only, since it runs before anything is installed.
Needs neither a compiler nor root nor a home directory, and neither pip nor ensurepip (Debian
packs both apart from Python).

The stamp ``.venv/.installed`` is written last and records what was installed from what, so an
interrupted install, changed requirements or another Python lead to a new install. pip's own
settings (PIP_INDEX_URL, pip.conf, ...) apply throughout, so mirrors work as they do for pip.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = "requirements.lock"
# PyTorch's own index of CPU builds; PyPI has only CUDA builds for Linux on x86-64.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Used where Python comes without ensurepip. A pip wheel runs as it is, from inside the file.
PIP_WHEEL = "pip-25.3-py3-none-any.whl"
PIP_SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"


class InstallError(Exception):
    """Something the user can mend; the message says how."""


def say(message: str) -> None:
    """Print one line at once, so that the order with pip's own output holds."""
    print(f"[install] {message}", flush=True)


# --- is it up to date? -------------------------------------------------------------------------


def fingerprint(root: Path) -> str:
    """SHA-256 over everything that decides what is installed, as hex."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info[:2]).encode())
    for name in ("requirements.txt", LOCK_FILE, "pyproject.toml", Path(__file__)):
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


def is_fresh(root: Path, torch_build: str) -> bool:
    """True if ``.venv`` was installed to the end from the present files.

    ``torch_build``: "cpu" or "cuda" asks for that build, "auto" accepts either.
    """
    venv = root / ".venv"
    try:
        stamp = json.loads((venv / ".installed").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        (venv / "bin/python").exists()  # follows the link: false if the base Python is gone
        and stamp.get("fingerprint") == fingerprint(root)
        and torch_build in ("auto", stamp.get("torch"))
    )


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two makes at once install once."""
    with open(root / ".venv.lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another install is running here; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: go on without
        yield


# --- pip ---------------------------------------------------------------------------------------


def pip(venv: Path, *args: str, silent: bool = False) -> bool:
    """Run pip in ``venv``; True if it succeeded. ``silent`` hides why it did not."""
    command = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", *args]
    output = subprocess.DEVNULL if silent else None
    return subprocess.run(command, stdout=output, stderr=output).returncode == 0


def pip_setting(name: str, default: str) -> str:
    """The value of a pip setting from the environment, the only place that we can read alone."""
    return os.environ.get("PIP_" + name.upper().replace("-", "_"), default)


def add_pip(venv: Path) -> None:
    """Put pip into ``venv``: from ensurepip, or where that is missing from the package index."""
    python = str(venv / "bin/python")
    bundled = subprocess.run([python, "-m", "ensurepip"], capture_output=True, text=True)
    if bundled.returncode == 0:
        return
    index = pip_setting("index-url", "https://pypi.org/simple").rstrip("/") + "/pip/"
    say(f"this Python has no ensurepip; fetching {PIP_WHEEL} from {index}")
    wheel = venv / PIP_WHEEL
    wheel.write_bytes(fetch_pip(index))
    subprocess.run(
        [python, str(wheel / "pip"), "install", "-qq", "--no-index", "--no-deps", str(wheel)],
        check=True,
    )
    wheel.unlink()


def fetch_pip(index: str) -> bytes:
    """The pinned pip wheel through the index's page about pip (PEP 503), its digest checked."""
    cure = "install python3-venv or pip, or set PIP_INDEX_URL to an index that can be reached"
    if index.startswith("file:"):
        index += "index.html"
    try:
        with urllib.request.urlopen(index, timeout=60) as answer:
            page, base = answer.read().decode(), answer.url
        found = re.search(rf'href="([^"]*{re.escape(PIP_WHEEL)}[^"]*)"', page)
        if found is None:
            raise InstallError(f"{index}: does not list {PIP_WHEEL}; {cure}")
        with urllib.request.urlopen(urllib.parse.urljoin(base, found[1]), timeout=60) as answer:
            content = answer.read()
    except (OSError, ValueError) as err:
        raise InstallError(f"{index}: {err}; {cure}") from err
    if hashlib.sha256(content).hexdigest() != PIP_SHA256:
        raise InstallError(f"{index}: {PIP_WHEEL} is not the file released on PyPI; {cure}")
    return content


# --- torch -------------------------------------------------------------------------------------


def choose_torch(request: str) -> str:
    """Return "cuda" or "cpu": what was asked for, or for "auto" whether nvidia-smi finds a GPU."""
    if request != "auto":
        return request
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return "cuda" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


def torch_attempts(build: str, version: str, machine: str) -> list[tuple[str, list[str]]]:
    """(what to tell the user, pip arguments) in the order to try them.

    A CPU build needs only packages of the lock file, hence --no-deps; a CUDA build brings
    NVIDIA's libraries along.
    """
    plain = (f"torch {version} from the package index", [f"torch=={version}", "-c", LOCK_FILE])
    if build == "cuda" or machine != "x86_64":
        return [plain]
    cpu = ["--no-deps", f"torch=={version}+cpu"]
    quick = ["--index-url", TORCH_CPU_INDEX, "--timeout", "15", "--retries", "0"]
    return [
        (f"torch {version} (CPU build) from the configured index", cpu),
        (f"torch {version} (CPU build) from {TORCH_CPU_INDEX}", [*cpu, *quick]),
        (
            f"torch {version} as a CUDA build: no CPU build could be reached. It works without "
            "a GPU but takes several GB more",
            plain[1],
        ),
    ]


def install_torch(venv: Path, root: Path, build: str) -> None:
    """Install torch at the version that requirements.txt pins.

    Torch comes first and apart from the rest: which build is right depends on the machine, and
    a resolver that sees espnet's setuptools<74 replaces it by another build, or gives up.
    """
    version = re.search(r"^torch==(\S+)", (root / "requirements.txt").read_text(), re.M)[1]
    attempts = torch_attempts(build, version, os.uname().machine)
    for message, args in attempts:
        say(message)
        last = args is attempts[-1][1]
        if pip(venv, "install", "-qq", *args, silent=not last):
            return
        say("not available there")
    raise InstallError(f"pip found no torch {version}; see its messages above")


def mend_torchaudio(venv: Path) -> None:
    """Remove torchaudio's compiled extension where it keeps torchaudio from being imported.

    The wheel's extension is linked against CUDA's libraries, which a CPU build of torch does
    not have. torchaudio treats a missing extension as optional, a broken one as an error.
    """
    probe = [str(venv / "bin/python"), "-c", "import torchaudio"]
    if subprocess.run(probe, capture_output=True).returncode == 0:
        return
    for library in venv.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        library.unlink()
    again = subprocess.run(probe, capture_output=True, text=True)
    if again.returncode != 0:
        raise InstallError(f"torchaudio cannot be imported:\n{again.stderr}")


# --- all of it ---------------------------------------------------------------------------------


def install(root: Path, torch_build: str) -> None:
    """Build ``.venv`` anew and write its stamp last."""
    venv = root / ".venv"
    began = time.monotonic()
    # Not sys.executable: with .venv activated that is inside the directory removed below.
    base = getattr(sys, "_base_executable", sys.executable)
    say(f"creating .venv with Python {sys.version.split()[0]} ({base})")
    if venv.exists():
        (venv / ".installed").unlink(missing_ok=True)  # from here on it counts as unfinished
        shutil.rmtree(venv)
    subprocess.run([base, "-m", "venv", "--without-pip", str(venv)], check=True)
    add_pip(venv)
    # The few packages without a wheel are built with this setuptools, not a freshly fetched one.
    if not pip(venv, "install", "-qq", "setuptools", "-c", LOCK_FILE):
        raise InstallError("pip could not install setuptools; see its messages above")
    install_torch(venv, root, torch_build)
    say(f"the other packages of {LOCK_FILE}")
    # --no-deps: the lock file is complete, and only it knows that espnet's setuptools<74 and
    # torch's >=77 are reconciled (requirements-overrides.txt).
    rest = ["--no-deps", "--no-build-isolation", "--use-pep517", "-r", LOCK_FILE]
    if not pip(venv, "install", "-qq", *rest):
        raise InstallError("pip could not install the packages; see its messages above")
    mend_torchaudio(venv)
    # .venv/bin/ser; the recipe itself stays where it is
    if not pip(venv, "install", "-qq", "--no-deps", "--no-build-isolation", "--editable", "."):
        raise InstallError("pip could not install the command ser; see its messages above")
    stamp = {"fingerprint": fingerprint(root), "torch": torch_build}
    partial = venv / ".installed.partial"
    partial.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    partial.replace(venv / ".installed")
    say(f"done in {time.monotonic() - began:.0f} s")


def main() -> int:
    """Return the exit status: 0, 1 for an error, with --check 1 for an install that is stale."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--force", action="store_true", help="install even if up to date")
    parser.add_argument("--check", action="store_true", help="only tell (exit 1: needs installing)")
    args = parser.parse_args()
    request = os.environ.get("TORCH") or "auto"
    if request not in ("auto", "cpu", "cuda"):
        print(f"error: TORCH={request}: expected auto, cpu or cuda", file=sys.stderr)
        return 1
    if args.check:
        return 0 if is_fresh(ROOT, request) else 1
    if is_fresh(ROOT, request) and not args.force:
        return 0
    os.chdir(ROOT)
    try:
        with locked(ROOT):
            if args.force or not is_fresh(ROOT, request):
                install(ROOT, choose_torch(request))
    except InstallError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as err:
        print(f"error: {' '.join(err.cmd)}: exit status {err.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
