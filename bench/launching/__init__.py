"""Launchers, which run the cells of a sweep: hydra/launcher=local (one after another), joblib, ray or slurm."""
