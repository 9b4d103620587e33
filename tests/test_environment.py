"""tests/conftest.py: what the tests take over from the place they run in."""

import os
import subprocess
import sys

from tests.support import ROOT


def test_a_job_around_the_tests_is_not_seen_by_them_and_their_own_settings_are():
    kept = {"SER_REQUIRE_SLURM": "1", "SER_TEST_EMODB": "x", "SLURM_TEST_PORT": "30000"}
    around = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SBATCH_PARTITION": "x"}
    around |= {"SQUEUE_FORMAT": "%i", "SER_SLURM_POLL": "60", "TMOUT": "1", "CDPATH": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-c", "import tests.conftest, os; print(*os.environ, sep='\\n')"],
        env=os.environ | kept | around,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.splitlines()
    assert kept.keys() <= set(names)
    assert not around.keys() & set(names)
