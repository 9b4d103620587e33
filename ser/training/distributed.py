"""Multi-node training started by Slurm: ESPnet's options, and each process's role."""

import argparse
import os
import subprocess
from dataclasses import dataclass

import torch

from ser.errors import UserError

FIRST_PORT, PORTS = 20000, 10000  # below Linux's ephemeral ports (32768 on)


@dataclass(frozen=True)
class Processes:
    """Processes of one training, one on each node, seen from one of them.

    ESPnet itself starts one process per GPU from the node's process.
    """

    num_nodes: int
    node_rank: int

    @property
    def first(self) -> bool:
        """Whether this process takes locks and writes settings and records."""
        return self.node_rank == 0

    @property
    def suffix(self) -> str:
        """Suffix of this process's log names."""
        return "" if self.first else f".node{self.node_rank + 1}"

    def say(self, line: str) -> None:
        """Print ``line`` once for all nodes."""
        if self.first:
            print(line, flush=True)

    def set_arguments(self, args: argparse.Namespace) -> None:
        """Set ESPnet's options for distributed training, if more than one process is needed."""
        if self.num_nodes == 1 and args.ngpu <= 1:
            return
        args.multiprocessing_distributed = True  # one process per node starts one per GPU
        args.dist_backend = "nccl" if args.ngpu > 0 else "gloo"
        if self.num_nodes == 1:
            return
        args.dist_launcher = "slurm"
        # ESPnet would cut the first name of the node list at a hyphen.
        args.dist_master_addr = os.environ.get("MASTER_ADDR") or _first_node()
        port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS
        args.dist_master_port = int(os.environ.get("MASTER_PORT", port))

    def leave(self) -> None:
        """Destroy the process group, so that the next training can create its own."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def this_process(num_nodes: int) -> Processes:
    """Find this process's place among ``num_nodes`` nodes.

    Raises:
        UserError: several nodes were requested, but srun did not start one process on each.
    """
    if num_nodes == 1:
        return Processes(num_nodes=1, node_rank=0)
    started = os.environ.get("SLURM_STEP_NUM_NODES"), os.environ.get("SLURM_NTASKS")
    if started != (str(num_nodes), str(num_nodes)):
        raise UserError(
            f"--num-nodes {num_nodes}: srun has to start one process on each node, but there are "
            f"{started[1] or 'no'} tasks on {started[0] or 'no'} nodes of a Slurm step; run "
            f"./run.sh --backend slurm --num-nodes {num_nodes}"
        )
    return Processes(num_nodes=num_nodes, node_rank=int(os.environ["SLURM_NODEID"]))


def _first_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.split():
        raise UserError(
            f"{' '.join(command)}: {done.stderr.strip() or 'names no node'}; set MASTER_ADDR to "
            "the name of the first node"
        )
    return done.stdout.split()[0]
