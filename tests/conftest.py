"""Fixtures for all tests, and a word at the end of a run on what Slurm's absence left untested."""

from tests.slurm_cluster import REQUIRED, cluster, missing, running_cluster

__all__ = ["cluster", "running_cluster"]


def pytest_terminal_summary(terminalreporter) -> None:
    """Say loudly that the tests on a real cluster were not run."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("Slurm is not installed" in str(report.longrepr) for report in skipped)
    if count and missing():
        terminalreporter.write_sep("!", "NOT TESTED: Slurm", red=True, bold=True)
        terminalreporter.write_line(
            f"{count} tests on a real Slurm cluster were skipped, since this machine has no "
            f"{', '.join(missing())}.\n"
            "Install it: apt-get install --no-install-recommends slurmctld slurmd slurm-client "
            f"munge; make test-slurm (or {REQUIRED}=1) fails without it.",
            red=True,
        )
