"""Where the cells of a sweep run: hydra/launcher=local (one after another), joblib, ray or slurm."""
