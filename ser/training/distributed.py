"""One training on several nodes, started by Slurm: ESPnet's options, and each process's role."""

import argparse
import os
import subprocess
from dataclasses import dataclass

import torch

from ser.errors import UserError

FIRST_PORT, PORTS = 20000, 10000  # below the range that Linux hands out by itself (32768 on)


@dataclass(frozen=True)
class Processes:
    """The nodes' processes of one training, seen from one of them.

    ESPnet starts one process for each of a node's GPUs from the node's only one by itself.
    """

    num_nodes: int
    node_rank: int

    @property
    def first(self) -> bool:
        """Whether this process takes locks and writes settings and records."""
        return self.node_rank == 0

    @property
    def suffix(self) -> str:
        """Of the names of this process's logs."""
        return "" if self.first else f".node{self.node_rank + 1}"

    def say(self, line: str) -> None:
        """Print ``line`` once for all nodes."""
        if self.first:
            print(line, flush=True)

    def set_arguments(self, args: argparse.Namespace) -> None:
        """Set ESPnet's options for distributed training; nothing where one process is enough."""
        if self.num_nodes == 1 and args.ngpu <= 1:
            return
        args.multiprocessing_distributed = True  # one process a node, which starts one a GPU
        args.dist_backend = "nccl" if args.ngpu > 0 else "gloo"
        if self.num_nodes == 1:
            return
        args.dist_launcher = "slurm"
        # ESPnet would cut the first name of the node list at a hyphen.
        args.dist_master_addr = os.environ.get("MASTER_ADDR") or _first_node()
        port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS
        args.dist_master_port = int(os.environ.get("MASTER_PORT", port))

    def leave(self) -> None:
        """End the process group, so that the next training can make its own."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def this_process(num_nodes: int) -> Processes:
    """This process's place among ``num_nodes`` nodes.

    Raises:
        UserError: several nodes are wanted, and srun has not started one process on each.
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
