"""Create ``.venv`` from requirements.lock; called by local/install.sh. Standard library only.

The stamp ``.venv/.installed`` is written last: an interrupted install, changed requirements or
another Python cause a new install. pip's own settings (PIP_INDEX_URL, pip.conf, ...) apply.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE, APPS_FILE = "requirements.lock", "requirements-apps.txt"
# PyTorch's own index of CPU builds; PyPI has only CUDA builds for Linux on x86-64.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def fingerprint(root: Path) -> str:
    """SHA-256, as hex, over everything that determines the installation."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info[:2]).encode())
    for name in ("requirements.txt", LOCK_FILE, APPS_FILE, "pyproject.toml", Path(__file__)):
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


def is_fresh(root: Path, torch_build: str, apps: bool) -> bool:
    """Whether ``.venv`` is complete and up to date, with this torch ("auto": any) and the apps."""
    try:
        stamp = json.loads((root / ".venv/.installed").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        (root / ".venv/bin/python").exists()  # false if the base Python is gone
        and stamp.get("fingerprint") == fingerprint(root)
        and torch_build in ("auto", stamp["torch"])
        and (stamp["apps"] or not apps)
    )


def choose_torch(request: str) -> str:
    """Return ``request``, or for "auto" cuda if nvidia-smi lists a GPU, else cpu."""
    if request != "auto" or shutil.which("nvidia-smi") is None:
        return request.replace("auto", "cpu")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True)
    return "cuda" if listed.returncode == 0 and b"GPU" in listed.stdout else "cpu"


def torch_requirement(build: str, version: str, machine: str) -> list[str]:
    """pip's arguments. A CUDA build adds NVIDIA's libraries, a CPU build needs only the lock."""
    if build == "cuda" or machine != "x86_64":
        return [f"torch=={version}", "-c", LOCK_FILE]
    source = ["--extra-index-url", TORCH_CPU_INDEX, "--retries", "1"]
    return ["--no-deps", f"torch=={version}+cpu", *source]


def install(root: Path, build: str, apps: bool) -> None:
    """Rebuild ``.venv`` and write its stamp last."""
    venv = root / ".venv"
    (venv / ".installed").unlink(missing_ok=True)  # from here on it is incomplete
    # Not sys.executable: with .venv activated it is inside the directory being cleared.
    subprocess.run([sys._base_executable, "-m", "venv", "--clear", str(venv)], check=True)

    def pip(*args: str) -> None:
        command = [str(venv / "bin/python"), "-m", "pip", "install", "-qq", *args]
        subprocess.run(command, check=True, cwd=root)

    # The few packages without a wheel are built with this setuptools; torch is installed first,
    # since the resolver fails on espnet's setuptools<74 (requirements-overrides.txt).
    pip("setuptools", "-c", LOCK_FILE)
    version = re.search(r"^torch==(\S+)", (root / "requirements.txt").read_text(), re.M)[1]
    pip(*torch_requirement(build, version, platform.machine()))
    pip("--no-deps", "--no-build-isolation", "--use-pep517", "-r", LOCK_FILE)
    if build == "cpu":  # torchaudio's optional extension is linked against CUDA and cannot load
        for library in venv.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
            library.unlink()
    if apps:
        pip("-r", APPS_FILE, "-c", LOCK_FILE)
    pip("--no-deps", "--no-build-isolation", "--editable", ".")  # the command ser
    stamp = {"fingerprint": fingerprint(root), "torch": build, "apps": apps}
    (venv / ".installed").write_text(json.dumps(stamp) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch_build, with_apps = os.environ.get("TORCH") or "auto", os.environ.get("APPS") == "1"
    if torch_build not in ("auto", "cpu", "cuda"):
        sys.exit(f"error: TORCH={torch_build}: expected auto, cpu or cuda")
    with open(ROOT / ".venv.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # two concurrent makes install once
        if not is_fresh(ROOT, torch_build, with_apps):
            print("[install] .venv, which takes a minute or more", flush=True)
            try:
                install(ROOT, choose_torch(torch_build), with_apps)
            except subprocess.CalledProcessError as err:
                hint = "see the messages above; TORCH=cuda takes torch from the package index"
                sys.exit(f"error: {' '.join(err.cmd)} failed; {hint}")
