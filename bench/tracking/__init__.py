"""Mirror a finished run folder to a tracker; the local files stay the truth, and a tracker's failure costs nothing.

    tracking=wandb            Weights & Biases, offline unless told otherwise (the default)
    tracking=tensorboard      event files in the run folder
    tracking=trackio          a local database beside all runs
    tracking=none

Each is one function (run_folder, *, settings) -> Tracked, None where nothing was logged. All of them log what
bench.tracking.mirror reads from the folder, through the same few calls: config, series, metrics, tables, figures.
"""

from pathlib import Path

from bench.tracking.mirror import Tracked
from bench.tracking.to_tensorboard import log_to_tensorboard
from bench.tracking.to_trackio import log_to_trackio
from bench.tracking.to_wandb import log_to_wandb

__all__ = ["Tracked", "log_nothing", "log_to_tensorboard", "log_to_trackio", "log_to_wandb"]


def log_nothing(run_folder: Path) -> None:
    """No tracking: the run folder is all there is."""
