"""A private Slurm cluster for tests: real daemons, two small nodes, this machine's loopback only.

Nothing outside one temporary directory is touched. The daemons are children of the test process,
so that they can be ended by their process ids, and die with it however it ends.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
NOT_INSTALLED = "Slurm is not installed"
REQUIRED = "SER_REQUIRE_SLURM"  # set: without Slurm the tests fail instead of being skipped
SEARCH_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
NODES = ("n1", "n2")
START_SECONDS = 180  # two clusters may start at a time

# A requeued job waits for cred_expire seconds, 121 by default. CPUs are oversubscribed on purpose.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
{communication}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={dir}/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool.%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
EnforcePartLimits=ALL
ReturnToService=2
KillWait=5
MessageTimeout=3
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=60 State=UP
"""


class Cluster:
    """Daemons with their files in ``dir``; ``env`` points Slurm's commands at them."""

    def __init__(self) -> None:
        # Not in TMPDIR: munged refuses a socket that others could not reach, or with a long path.
        self.dir = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.dir.chmod(0o755)
        self.conf = self.dir / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": SEARCH_PATH}
        self.daemons: dict[str, subprocess.Popen] = {}
        self.namespace = self._namespace()
        self.names_resolve = bool(self.namespace)  # n1 and n2 are names of this machine for jobs

    def start(self) -> None:
        """Start all daemons and wait until both nodes take jobs.

        Raises:
            RuntimeError: they do not come up; holds the ends of their logs.
        """
        self._write_conf()
        munge = [f"--{name}={self.dir}/munge.{name}" for name in ("key-file", "pid-file")]
        munge += [f"--{name}={self.dir}/munge.{name}" for name in ("seed-file", "log-file")]
        key = self.dir / "munge.key-file"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._spawn("munged", ["munged", "--foreground", f"--socket={self.dir}/munge.sock", *munge])
        wait_until(lambda: self._stay_up() and (self.dir / "munge.sock").exists(), self._explain)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(self._ready, self._explain)

    def stop(self) -> None:
        """End every process of the cluster, jobs included, and remove its directory."""
        for name in ("slurmctld", *NODES, "munged"):
            self.kill(name)
        wait_until(self._kill_all, seconds=10)
        shutil.rmtree(self.dir, ignore_errors=True)

    def start_controller(self) -> None:
        self._spawn("slurmctld", ["slurmctld", "-D"], host=socket.gethostname())

    def start_node(self, node: str) -> None:
        self._spawn(node, ["slurmd", "-D", "-N", node], host=node)

    def kill(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a daemon (slurmctld, munged or a node) and wait for its end."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def lose_node(self, node: str) -> None:
        """Let a node die with all that runs on it, as in a power cut, and Slurm hear of it."""
        name = f"SLURMD_NODENAME={node}".encode()
        self.kill(node, signal.SIGKILL)
        jobs = self._processes(name)
        # Their keepers know nothing of the node's name; no one may report another's death.
        keepers = {parent for parent in map(_parent, jobs) if _is_keeper(parent)}
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _signal([*keepers, *jobs], number)
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def return_node(self, node: str) -> None:
        """Bring back a node that was lost."""
        self.start_node(node)
        self.command("scontrol", "update", f"nodename={node}", "state=resume")

    def command(self, *args: str, check: bool = True) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(args, env=self.env, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout

    def states(self) -> list[str]:
        """The state of each node, such as idle or down*."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=self.env, capture_output=True, text=True
        )
        return done.stdout.split()

    def queue(self) -> dict[str, str]:
        """{job or job_task: state} of all jobs that have not ended."""
        lines = self.command("squeue", "-h", "--array", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def clear(self) -> None:
        """Cancel all jobs and wait until they are gone and both nodes are free again."""
        jobs = list(self.queue())
        if jobs:
            self.command("scancel", "--signal=KILL", "--full", *jobs, check=False)
            self.command("scancel", *jobs, check=False)
        wait_until(lambda: not self.queue(), self._explain)
        wait_until(self._ready, self._explain)

    def _ready(self) -> bool:
        return self._stay_up() and self.states() == ["idle"] * len(NODES)

    def _stay_up(self) -> bool:
        ended = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} did not stay up; {self._explain()}")
        return True

    def _namespace(self) -> list[str]:
        """A command prefix that gives a daemon a host name of its own; empty if not allowed."""
        hosts = self.dir / "hosts"
        names = ["localhost", socket.gethostname(), *NODES]
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        enter = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
        for options in ([], ["--user", "--map-current-user", "--keep-caps"]):
            prefix = ["unshare", *options, "--mount", "--uts", "sh", "-c", enter, "sh", str(hosts)]
            if subprocess.run([*prefix, "n1", "true"], capture_output=True).returncode == 0:
                return prefix
        return []

    def _write_conf(self) -> None:
        port = free_ports(1 + len(NODES))
        host = socket.gethostname()
        devices = []
        for index in range(2):  # GPUs that can be counted and handed out, nothing more
            devices.append(self.dir / f"nvidia{index}")
            devices[-1].symlink_to("/dev/null")
        nodes = [
            f"NodeName={node} NodeHostname={node if self.namespace else host} NodeAddr=127.0.0.1"
            f" Port={port + 1 + index} CPUs=4 RealMemory=4000 Gres=gpu:2"
            for index, node in enumerate(NODES)
        ]
        # Without a namespace this machine's name may stand for an address other than 127.x.
        loopback_only = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
        communication = loopback_only if self.namespace else ""
        self.conf.write_text(
            CONF.format(
                dir=self.dir,
                host=host,
                port=port,
                user=subprocess.check_output(["id", "-un"], text=True).strip(),
                communication=communication,
                nodes="\n".join(nodes),
            )
        )
        files = f"{self.dir}/nvidia[0-1]"
        gres = "".join(f"NodeName={node} Name=gpu File={files}\n" for node in NODES)
        (self.dir / "gres.conf").write_text(gres)
        (self.dir / "state").mkdir(exist_ok=True)
        for node in NODES:
            (self.dir / f"spool.{node}").mkdir(exist_ok=True)

    def _spawn(self, name: str, command: Sequence[str], host: str = "") -> None:
        prefix = [*self.namespace, host] if self.namespace and host else []
        with open(self.dir / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *prefix, *command],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the tests is not for them
            )

    def _kill_all(self) -> bool:
        """Kill what is left, slurmstepd and jobs outlive slurmd; whether nothing was."""
        left = self._processes()
        _signal(left, signal.SIGKILL)
        return not left

    def _processes(self, also: bytes = b"") -> list[int]:
        """Processes that live in this cluster: jobs and their keepers, not the tests themselves.

        With ``also``, an environment variable, those that have it too.
        """
        marks = {f"SLURM_CONF={self.conf}".encode(), *filter(None, [also])}
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                inside = marks.issubset(path.read_bytes().split(b"\0"))
            except OSError:
                continue
            if inside and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        return found

    def _explain(self) -> str:
        logs = sorted(self.dir.glob("*.log"))
        tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
        return f"nodes are {self.states()}\n" + "\n".join(tails)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_keeper(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "slurmstepd\n"
    except OSError:
        return False


def wait_until(
    condition: Callable[[], object],
    explain: Callable[[], str] = lambda: "",
    seconds: float = START_SECONDS,
) -> None:
    """Poll ``condition`` until it holds; RuntimeError with ``explain()`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s; {explain()}")
        time.sleep(0.05)


def free_ports(count: int) -> int:
    """The first of ``count`` neighbouring TCP ports that nobody listens on."""
    # Another worker may look at the same time, so that each has a range of its own.
    first = int(os.environ.get("SLURM_TEST_PORT", 20000 + os.getpid() % 2000 * 10))
    while True:
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            first += 10
        finally:
            for each in sockets:
                each.close()


def missing() -> list[str]:
    """Slurm's programs that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """Skip what needs Slurm on a machine without it, or fail where it is required."""
    if missing():
        if os.environ.get(REQUIRED):
            pytest.fail(f"{NOT_INSTALLED} (no {', '.join(missing())}): {INSTALL}", pytrace=False)
        pytest.skip(NOT_INSTALLED)


@pytest.fixture(scope="session")
def running_cluster(slurm_installed: None) -> Iterator[Cluster]:
    """One cluster for all tests."""
    # Whoever ends the tests before their time should not leave jobs behind. Forked processes have
    # nothing to clean up, and a pool's worker that took the exception for its task's would stay.
    signal.signal(signal.SIGTERM, _end_tests)
    os.register_at_fork(after_in_child=_forget_handler)
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _end_tests(*_: object) -> None:
    pytest.exit("terminated", returncode=143)


def _forget_handler() -> None:
    # For as long as these tests run; by then it may be another's handler, which is to be inherited.
    if signal.getsignal(signal.SIGTERM) is _end_tests:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with both nodes idle and no job in its queue; jobs left behind are cancelled."""
    yield running_cluster
    running_cluster.clear()
