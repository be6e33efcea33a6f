"""Mirror a run as TensorBoard event files in its folder: `tensorboard --logdir outputs` shows all runs side by side."""

import importlib.util
import json
import math
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config.rules import here
from bench.errors import BenchError, first_line
from bench.progress import AXIS, say
from bench.tracking.mirror import FinishedRun, Row, TrackerEntry, command, read

FOLDER = "tensorboard"
STEPS = {AXIS: 1, "n": 1, "kl": 1000, "update": 1}  # TensorBoard has whole steps only: of KL, thousandths of a nat
SHOWN = 20  # rows of a table that are shown


def _check_installed(settings: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise BenchError("tracking=tensorboard needs TensorBoard, which is not installed: make run EXTRAS=tracking.")


@here(_check_installed)
def log_to_tensorboard(run_folder: Path) -> TrackerEntry | None:
    """Write run_folder/tensorboard anew. On failure print one warning and return None.

    Scalars: every metric at step 0; curves by n; accuracy by the KL from the base, in thousandths of a nat. Beside
    them: the configuration (as text and as hyperparameters), the first rows of each table, the figures, and a layout
    that draws each curve within its interval (Custom Scalars).
    """
    run_folder = run_folder.absolute()
    unfinished = run_folder / f".{FOLDER}"
    try:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(unfinished, ignore_errors=True)
        with SummaryWriter(str(unfinished)) as writer:
            _write(read(run_folder), writer)
        shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
        unfinished.rename(run_folder / FOLDER)
    except Exception as error:
        say(f"warning: TensorBoard did not log this run ({first_line(error)}); its local records are complete.")
        return None
    view = f"{command('tensorboard')} --logdir {shlex.quote(str(run_folder.parents[1]))}"
    return TrackerEntry("events", run_folder / FOLDER, {"view": view})


def _write(run: FinishedRun, writer: Any) -> None:
    import numpy as np
    from PIL import Image

    writer.add_text("config", _markdown([{"setting": name, "value": value} for name, value in run.config.items()]))
    charts: dict[str, dict[str, list]] = {}
    for axis, rows in run.series.items():
        for row in rows:
            for name, value in row.items():
                if name != axis:
                    writer.add_scalar(name, value, round(row[axis] * STEPS[axis]))
                if f"{name}_low" in row:
                    interval = ["Margin", [name, f"{name}_low", f"{name}_high"]]
                    charts.setdefault(name.rsplit("/", 1)[-1], {})[name] = interval
    numbers = {name: float(value) for name, value in run.metrics.items() if isinstance(value, int | float)}
    words = [{"metric": name, "value": value} for name, value in run.metrics.items() if name not in numbers]
    writer.add_text("metrics", _markdown(words))
    hyperparameters = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in run.config.items()
    }
    writer.add_hparams(hyperparameters, numbers, run_name=".", global_step=0)  # writes the scalars too
    for name, rows in run.tables.items():
        more = f"\n\n{len(rows) - SHOWN:,} more rows" if len(rows) > SHOWN else ""
        writer.add_text(name, _markdown(rows[:SHOWN]) + more)
    for name, path in run.figures.items():
        with Image.open(path) as image:
            writer.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")
    if charts:
        writer.add_custom_scalars(charts)


def _markdown(rows: list[Row]) -> str:
    """A table; cells keep their line breaks."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_text(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", "<br>")
