"""Starts a recipe on a cluster: of Slurm (slurm.sh), of Ray (ray_train.py). See ../SCALING.md."""
