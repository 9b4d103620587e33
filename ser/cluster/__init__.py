"""Jobs: here or on Slurm, their locks and logs, and how a job that is told to stop ends."""
