"""Jobs on this machine or on Slurm, their locks and logs, and graceful preemption."""
