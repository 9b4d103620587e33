"""local/install.sh and install_env.py: when .venv counts as up to date, and which torch it gets."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT, load_script

install_env = load_script("local/install_env.py")


FILES = ("requirements.txt", "requirements.lock", "pyproject.toml")


@pytest.fixture
def root(tmp_path):
    """A recipe with a finished CPU install."""
    for name in (*FILES, "requirements-apps.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    stamp = {"fingerprint": install_env.fingerprint(tmp_path), "torch": "cpu", "apps": False}
    (tmp_path / ".venv/.installed").write_text(json.dumps(stamp))
    return tmp_path


# --- up to date or not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "apps", "fresh"),
    [
        ("auto", False, True),
        ("cpu", False, True),
        ("cuda", False, False),
        ("auto", True, False),
    ],
)
def test_a_finished_install_is_up_to_date_for_what_it_has(root, build, apps, fresh):
    assert install_env.is_fresh(root, build, apps) == fresh


@pytest.mark.parametrize("name", FILES)
def test_a_changed_requirement_makes_it_stale(root, name):
    with open(root / name, "a") as stream:
        stream.write("# \n")
    assert not install_env.is_fresh(root, "auto", False)


def test_another_python_makes_it_stale(root, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert not install_env.is_fresh(root, "auto", False)


@pytest.mark.parametrize("stamp", [None, '{"fingerprint": "'])
def test_without_a_whole_stamp_it_is_not_finished(root, stamp):
    (root / ".venv/.installed").unlink()
    if stamp is not None:
        (root / ".venv/.installed").write_text(stamp)
    assert not install_env.is_fresh(root, "auto", False)


def test_it_is_stale_when_the_base_python_is_gone(root):
    (root / ".venv/bin/python").unlink()
    (root / ".venv/bin/python").symlink_to("/no/such/python")
    assert not install_env.is_fresh(root, "auto", False)


@pytest.mark.parametrize("broken", ["venv", "setuptools", "torch==2", "-r", "--editable"])
def test_an_install_that_breaks_off_is_not_taken_for_finished(root, monkeypatch, broken):
    def run(command, check, **options):
        if any(str(arg).startswith(broken) for arg in command):
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(subprocess.CalledProcessError):
        install_env.install(root, "cpu", False)
    assert not install_env.is_fresh(root, "auto", False)


def test_an_install_that_ends_well_is_up_to_date(root, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    install_env.install(root, "cuda", True)
    assert install_env.is_fresh(root, "cuda", True)
    assert ["-r", "requirements-apps.txt", "-c", "requirements.lock"] in [c[-4:] for c in commands]


# --- which torch -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "build"),
    [
        ("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", "cuda"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "cpu"),
        ("exit 0", "cpu"),
    ],
)
def test_a_gpu_that_nvidia_smi_lists_gets_the_cuda_build(tmp_path, monkeypatch, script, build):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert install_env.choose_torch("auto") == build


def test_the_user_may_choose_the_build(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_env.choose_torch("auto") == "cpu"
    assert install_env.choose_torch("cuda") == "cuda"


@pytest.mark.parametrize(
    ("build", "machine", "requirement"),
    [("cpu", "x86_64", "2.13.0+cpu"), ("cpu", "aarch64", "2.13.0"), ("cuda", "x86_64", "2.13.0")],
)
def test_only_an_x86_without_a_gpu_needs_the_cpu_build(build, machine, requirement):
    assert f"torch=={requirement}" in install_env.torch_requirement(build, "2.13.0", machine)


# --- the files ---------------------------------------------------------------------------------


def pins(name):
    """{(package, version)} of a requirements file, names normalised."""
    found = set()
    for line in (ROOT / name).read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        if match:
            found.add((re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]))
    return found


def test_the_lock_file_holds_every_direct_requirement_but_torch():
    assert {name for name, _ in pins("requirements.txt") - pins("requirements.lock")} == {"torch"}


def test_the_lock_file_leaves_out_what_depends_on_the_machine_or_needs_a_compiler():
    names = {name for name, _ in pins("requirements.lock")}
    assert not names & {"torch", "triton", "pyworld", "lightning"}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]
    ((setuptools,),) = [[v for n, v in pins("requirements.lock") if n == "setuptools"]]
    assert 77 <= int(setuptools.split(".")[0]) < 82


def test_every_requirement_is_pinned_and_has_a_reason():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pinned = r"[\w.-]+==[\w.]+( ; python_version \S+ \"3.1[12]\")?  # \S"
            assert re.match(pinned, line), line


# --- local/install.sh --------------------------------------------------------------------------


def fake_python(path, version):
    path.write_text(
        f'#!/bin/sh\ncase "$1" in -c) exit {0 if version else 1};; esac\necho "$0" "$@"\n'
    )
    path.chmod(0o755)


def install_sh(path, **env):
    return subprocess.run(
        ["/bin/bash", ROOT / "local/install.sh"],
        capture_output=True,
        text=True,
        env={"PATH": str(path), **env},
    )


@pytest.fixture
def tools(tmp_path):
    """A directory with the program that install.sh calls, and no Python."""
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    return tmp_path


def test_the_first_suitable_python_is_taken(tools):
    fake_python(tools / "python3", False)
    fake_python(tools / "python3.10", True)
    fake_python(tools / "python3.11", True)
    assert install_sh(tools).stdout.split()[0] == str(tools / "python3.11")
    fake_python(tools / "python3", True)
    assert install_sh(tools).stdout.split()[0] == str(tools / "python3")


def test_the_python_that_the_user_names_comes_first(tools):
    fake_python(tools / "python3", True)
    fake_python(tools / "mine", True)
    done = install_sh(tools, PYTHON=str(tools / "mine"))
    assert done.stdout.split()[0] == str(tools / "mine")


def test_an_unsuitable_python_is_an_error_that_says_what_to_do(tools):
    fake_python(tools / "python3", False)
    done = install_sh(tools)
    assert done.returncode == 1
    assert "no Python 3.10, 3.11 or 3.12" in done.stderr
    assert "make PYTHON=" in done.stderr
    done = install_sh(tools, PYTHON=str(tools / "python3"))
    assert done.returncode == 1
    assert f"{tools}/python3: no Python 3.10, 3.11 or 3.12" in done.stderr
