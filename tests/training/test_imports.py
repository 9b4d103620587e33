"""What processes import, since every stage and every fold waits for it."""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT

CODE = """
import json, sys
import ser.reporting.results
unneeded = sorted({"torch", "espnet2"} & set(sys.modules))
import ser.training.folds
unneeded += sorted({"nltk", "pandas", "numba", "scipy.stats", "wandb"} & set(sys.modules))
from ser.lang.g2p import load_g2p_en
print(json.dumps([unneeded, load_g2p_en().__name__]))
"""


@pytest.mark.slow
def test_reports_and_training_import_nothing_slow_that_they_do_not_use_and_g2p_is_left_to_stage_2():
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "g2p_en.g2p"]
