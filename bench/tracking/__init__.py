"""Mirror a finished run folder to a tracker. The local files stay the truth, and a tracker's failure costs nothing.

    tracking=wandb            Weights & Biases, offline unless told otherwise (the default)
    tracking=tensorboard      event files in the run folder
    tracking=none

Each tracker is one function (run_folder, *, settings) -> TrackerEntry, or None where nothing was logged. All log the
same `FinishedRun`, see bench.tracking.mirror.
"""

from pathlib import Path

from bench.tracking.mirror import TrackerEntry
from bench.tracking.to_tensorboard import log_to_tensorboard
from bench.tracking.to_wandb import log_to_wandb

__all__ = ["TrackerEntry", "log_nothing", "log_to_tensorboard", "log_to_wandb"]


def log_nothing(run_folder: Path) -> None:
    """Track nothing: the run folder is the only record."""
