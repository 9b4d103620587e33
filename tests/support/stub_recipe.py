"""run.sh with a stub in place of Python: what it calls, in which order, with what."""

import contextlib
import io
import os
import subprocess
import sys
from itertools import pairwise

import pytest

from ser.cli.recipe import main
from tests.support import ROOT

# Stands in for "python -m ser NAME ARGS": notes its arguments, talks, and fails on demand. What
# runs the stages does so; jobs of Slurm get numbers from 101 on.
STUB = """#!/usr/bin/env bash
if [[ $1 == -c || $2 == ser.cli.recipe || $3 == stage || $3 == leakage ]]; then
  exec "$REAL_PYTHON" "$@"
fi
name=$3
all="$*"
if [[ $name == jobs ]]; then
  exec "$REAL_PYTHON" "$@"
fi
if [[ $name == train && $all != *" --share"* && $all != *" --check-only"* ]]; then
  exec "$REAL_PYTHON" "$@"
fi
shift 3
printf -v call '%s\\037' "$name" "$@"
printf '%s\\n' "$call" >>"$STUB_DIR/calls" # one write, since workers do this at the same time
printf '%s\\n' "$name $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES" >>"$STUB_DIR/environment"
if [[ $name == dump && $all =~ /dump\\ dir/([a-z]+)\\ .*--protocol\\ ([a-z0-9]+) ]]; then
  folds="$STUB_DIR/dump dir/${BASH_REMATCH[1]}/folds/${BASH_REMATCH[2]}"
  mkdir -p "$folds"
  [[ -e $folds/folds ]] || echo Ses01F >"$folds/folds"
  echo '{}' >"$folds/.done"
fi
echo "[progress] $name half way"
[[ $name != train ]] || echo "[fold] Ses01F: UA 50.0"
echo "table of $name"
echo "chatter of $name" >&2
if [[ $name == "$STUB_HANG" ]]; then
  echo $$ >"$STUB_DIR/pid"
  sleep 600 &
  wait
fi
if [[ $name == "$STUB_FAIL" ]]; then
  echo "error: some/file:3: found this; expected that" >&2
  exit 7
fi
"""


class Recipe:
    """A place to run run.sh in, with directories that have blanks and quotes in their names."""

    def __init__(self, tmp_path):
        self.dir = tmp_path / "it's a place"
        self.dir.mkdir()
        self.python = self.dir / "stub python"
        self.python.write_text(STUB)
        self.python.chmod(0o755)
        self.exp = self.dir / "exp dir"
        self.options = [f"--python={self.python}", f"--exp-dir={self.exp}"]
        self.options += [f"--data-dir={self.dir}/data dir", f"--dump-dir={self.dir}/dump dir"]
        self.env = {**os.environ, "STUB_DIR": str(self.dir), "OMP_NUM_THREADS": "2"}
        self.env |= {"STUB_FAIL": "", "STUB_HANG": "", "CUDA_VISIBLE_DEVICES": ""}
        self.env |= {"REAL_PYTHON": sys.executable}

    def dump(self, protocol, folds=("Ses01F",)):
        """Let stage 3 be done."""
        directory = self.dir / "dump dir/mini/folds" / protocol
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "folds").exists():
            (directory / "folds").write_text("".join(f"{fold}\n" for fold in folds))
        (directory / ".done").write_text("{}")

    def run(self, *args, script="run.sh", **env):
        if "--stage=4" in args or ("--stage", "4") in pairwise(args):
            for protocol in ("strict", "paper", "session", "prefix", "kfold5"):
                self.dump(protocol, ["Ses01F", "Ses02M"][: 1 + ("Ses02M" in str(args))])
        return subprocess.run(
            [ROOT / script, *self.options, *args],
            capture_output=True,
            text=True,
            env=self.env | env,
            cwd=self.dir,
        )

    def settle(self, *args, **env):
        """(exit status, stdout, stderr) of what settles run.sh's options, in this process."""
        out, err, status = io.StringIO(), io.StringIO(), 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(self.dir)
            for name, value in (self.env | env).items():
                patch.setenv(name, value)
            try:
                main([*self.options, *args])
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), err.getvalue()

    @property
    def calls(self):
        """[(name, [argument, ...]), ...] of the stub so far."""
        path = self.dir / "calls"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        fields = [line.split("\037")[:-1] for line in lines]
        return [(name, args) for name, *args in fields]

    def arguments(self, name):
        """{option: value} of the only call of ``name``."""
        ((_, args),) = [call for call in self.calls if call[0] == name]
        pairs, i = {}, 0
        while i < len(args) and args[i] != "--":
            if "=" in args[i]:
                option, value = args[i].split("=", 1)
            else:
                option, value, i = args[i], args[i + 1], i + 1
            pairs[option] = value
            i += 1
        return pairs

    def trained(self, *tags):
        """Let there be experiments of these names."""
        for tag in tags:
            (self.exp / "mini" / tag).mkdir(parents=True)

    def log(self, stage, tag="mini_s1_strict_seed1"):
        return (self.exp / "mini" / tag / "log" / f"stage{stage}.log").read_text()


def calls(recipe, name):
    return [args for called, args in recipe.calls if called == name]


def following(args, option):
    """The values of ``option``, as ``--name value`` or ``--name=value``."""
    after = [value for name, value in pairwise(args) if name == option]
    return after + [arg.partition("=")[2] for arg in args if arg.startswith(f"{option}=")]
