"""local/install.sh and install_env.py: when .venv counts as up to date, and which torch it gets."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

spec = importlib.util.spec_from_file_location("install_env", ROOT / "local/install_env.py")
install_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install_env)


@pytest.fixture
def root(tmp_path):
    """A recipe with a finished CPU install."""
    for name in ("requirements.txt", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    stamp = {"fingerprint": install_env.fingerprint(tmp_path), "torch": "cpu"}
    (tmp_path / ".venv/.installed").write_text(json.dumps(stamp))
    return tmp_path


# --- up to date or not -------------------------------------------------------------------------


def test_a_finished_install_is_up_to_date(root):
    assert install_env.is_fresh(root, "auto")
    assert install_env.is_fresh(root, "cpu")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements.lock", "pyproject.toml"])
def test_a_changed_requirement_makes_it_stale(root, name):
    with open(root / name, "a") as stream:
        stream.write("# \n")
    assert not install_env.is_fresh(root, "auto")


def test_another_installer_makes_it_stale(root, monkeypatch, tmp_path):
    other = tmp_path / "install_env.py"
    other.write_text((ROOT / "local/install_env.py").read_text() + "# changed\n")
    monkeypatch.setattr(install_env, "__file__", str(other))
    assert not install_env.is_fresh(root, "auto")


def test_another_python_makes_it_stale(root, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert not install_env.is_fresh(root, "auto")


def test_asking_for_another_build_of_torch_makes_it_stale(root):
    assert not install_env.is_fresh(root, "cuda")


def test_without_a_stamp_it_is_not_finished(root):
    (root / ".venv/.installed").unlink()
    assert not install_env.is_fresh(root, "auto")


def test_a_damaged_stamp_counts_as_none(root):
    (root / ".venv/.installed").write_text('{"fingerprint": "')
    assert not install_env.is_fresh(root, "auto")


def test_it_is_stale_when_the_base_python_is_gone(root):
    (root / ".venv/bin/python").unlink()
    (root / ".venv/bin/python").symlink_to("/no/such/python")
    assert not install_env.is_fresh(root, "auto")


@pytest.mark.parametrize("broken_step", ["setuptools", "torch==", "-r", "--editable"])
def test_an_install_that_breaks_off_is_not_taken_for_finished(root, monkeypatch, broken_step):
    def pip(venv, *args, silent=False):
        return not any(arg.startswith(broken_step) for arg in args)

    monkeypatch.setattr(install_env, "pip", pip)
    monkeypatch.setattr(install_env, "add_pip", lambda venv: None)
    with pytest.raises(install_env.InstallError):
        install_env.install(root, "cpu")
    assert not install_env.is_fresh(root, "auto")


def test_an_install_that_ends_well_is_up_to_date(root, monkeypatch):
    (root / ".venv/left over").write_text("from before")
    monkeypatch.setattr(install_env, "pip", lambda *args, **kwargs: True)
    monkeypatch.setattr(install_env, "add_pip", lambda venv: None)
    monkeypatch.setattr(install_env, "mend_torchaudio", lambda venv: None)
    install_env.install(root, "cuda")
    assert install_env.is_fresh(root, "auto")
    assert install_env.is_fresh(root, "cuda")
    assert not (root / ".venv/left over").exists()


# --- which torch -------------------------------------------------------------------------------


def fake_nvidia_smi(directory, script):
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "build"),
    [
        ("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", "cuda"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "cpu"),
        ("exit 0", "cpu"),
    ],
)
def test_a_gpu_that_nvidia_smi_lists_gets_the_cuda_build(tmp_path, monkeypatch, script, build):
    fake_nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert install_env.choose_torch("auto") == build


def test_the_user_may_choose_the_build(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_env.choose_torch("auto") == "cpu"
    assert install_env.choose_torch("cuda") == "cuda"


def test_a_cpu_machine_tries_cpu_builds_before_the_big_one():
    attempts = [args for _, args in install_env.torch_attempts("cpu", "2.13.0", "x86_64")]
    assert attempts[0] == ["--no-deps", "torch==2.13.0+cpu"]
    assert attempts[1][:4] == [*attempts[0], "--index-url", install_env.TORCH_CPU_INDEX]
    assert attempts[2] == ["torch==2.13.0", "-c", "requirements.lock"]
    plain = attempts[2:]
    for build, machine in (("cuda", "x86_64"), ("cpu", "aarch64")):
        found = [args for _, args in install_env.torch_attempts(build, "2.13.0", machine)]
        assert found == plain


def test_the_next_source_of_torch_is_tried_when_one_has_none(root, monkeypatch, capsys):
    tried = []

    def pip(venv, *args, silent=False):
        tried.append((args[-1], silent))
        return len(tried) == 3

    monkeypatch.setattr(install_env, "pip", pip)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", "x86_64")))
    install_env.install_torch(root / ".venv", root, "cpu")
    assert [silent for _, silent in tried] == [True, True, False]
    assert "several GB more" in capsys.readouterr().out


# --- pip where Python has none -----------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one file, the address of its page about pip."""
    page = tmp_path / "simple/pip/index.html"
    page.parent.mkdir(parents=True)
    name = install_env.PIP_WHEEL
    page.write_text(f'<a href="../../files/{name}#sha256=0">{name}</a>')
    wheel = tmp_path / "files" / name
    wheel.parent.mkdir()
    wheel.write_bytes(b"wheel")
    monkeypatch.setattr(install_env, "PIP_SHA256", hashlib.sha256(b"wheel").hexdigest())
    return page.parent.as_uri() + "/"


def test_pip_is_fetched_through_the_index_page(index):
    assert install_env.fetch_pip(index) == b"wheel"


def test_a_pip_with_another_digest_is_refused(index, monkeypatch):
    monkeypatch.setattr(install_env, "PIP_SHA256", "0" * 64)
    with pytest.raises(install_env.InstallError, match="is not the file released"):
        install_env.fetch_pip(index)


def test_an_index_without_pip_is_named_with_the_cure(tmp_path):
    with pytest.raises(install_env.InstallError, match="PIP_INDEX_URL"):
        install_env.fetch_pip(tmp_path.as_uri() + "/simple/pip/")


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


def install_sh(path, *args, **env):
    return subprocess.run(
        ["/bin/bash", ROOT / "local/install.sh", *args],
        capture_output=True,
        text=True,
        env={"PATH": str(path), **env},
    )


@pytest.fixture
def tools(tmp_path):
    """A directory with the few programs that install.sh calls, and no Python."""
    for name in ("dirname", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    return tmp_path


def test_the_first_suitable_python_is_taken(tools):
    fake_python(tools / "python3", False)
    fake_python(tools / "python3.10", True)
    fake_python(tools / "python3.11", True)
    assert install_sh(tools, "--check").stdout.split()[0] == str(tools / "python3.11")
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
    assert "found no Python 3.10, 3.11 or 3.12" in done.stderr
    assert "make PYTHON=" in done.stderr
    done = install_sh(tools, PYTHON=str(tools / "python3"))
    assert done.returncode == 1
    assert "not a Python 3.10, 3.11 or 3.12" in done.stderr
