"""Fixtures for all tests, and a word at the end of a run on what Slurm's absence left untested."""

import os

import pytest

from tests.support.slurm_cluster import (
    INSTALL,
    NOT_INSTALLED,
    REQUIRED,
    cluster,
    missing,
    running_cluster,
    slurm_installed,
)

__all__ = ["cluster", "running_cluster", "slurm_installed"]

# What uses one of these is slow: they start run.sh, jobs, a cluster or a browser, or export models.
SLOW = {
    *("slurm_installed", "recipe", "whole", "start", "processes", "finished", "clone", "unpacked"),
    *("runtime", "with_graphs", "server", "browser"),
}

# Their minutes come first, so that none of them is left for one process at the end.
LONGEST = ("slurm_recipe", "slurm", "tutorial", "paper", "run_sh", "recipe", "onnx")

# Where these tests run, in a job or with settings of one's own, is no part of what they test.
KEPT = ("SER_REQUIRE_SLURM", "SER_TEST_EMODB", "SER_TEST_SEED", "SLURM_TEST_PORT")
DROPPED = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_", "SER_")
for name in list(os.environ):
    if name in ("TMOUT", "CDPATH") or name.startswith(DROPPED) and name not in KEPT:
        del os.environ[name]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers: ``make test-slurm`` selects by the first."""
    config.addinivalue_line("markers", "slurm: runs on a real Slurm cluster, which it starts")
    config.addinivalue_line("markers", "slow: takes seconds; -m 'not slow' leaves it out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Slurm, and what is slow by what it uses; begin with what takes longest."""
    first = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: [*first, item.path.name].index(item.path.name))
    for item in items:
        used = getattr(item, "fixturenames", ())
        if slurm_installed.__name__ in used:
            item.add_marker("slurm")
        if not SLOW.isdisjoint(used):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def with_graphs(tmp_path_factory):
    """A packed experiment whose two folds have ONNX graphs, in seconds: a network of a few maps."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} (requirements-apps.txt) is missing")
    from ser.release.pack import pack_experiment
    from tests.support.packable import SMALLEST, make_experiment

    exp_dir = make_experiment(tmp_path_factory.mktemp("graphs"), **SMALLEST)
    pack_experiment(exp_dir, onnx="float32")
    return exp_dir


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session):
    """Say loudly, below all else, that the tests on a real cluster were not run."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    count = sum(NOT_INSTALLED in str(report.longrepr) for report in skipped)
    if count:
        reporter.write_sep("!", "NOT TESTED: Slurm", red=True, bold=True)
        reporter.write_line(
            f"{count} tests on a real Slurm cluster were skipped, since this machine has no "
            f"{', '.join(missing())}.\nInstall it: {INSTALL}\n"
            f"make test-slurm (or {REQUIRED}=1 make test) fails without it.",
            red=True,
        )
