"""Mirror a run as TensorBoard event files in its folder: `tensorboard --logdir outputs` shows all runs side by side."""

import json
import math
import shlex
import shutil
from pathlib import Path

from bench.progress import say
from bench.tracking.mirror import Row, Tracked, command, first_line, read, send

FOLDER = "tensorboard"
STEPS = {"n": 1, "kl": 1000}  # an axis in whole steps, the only ones TensorBoard has: n, and thousandths of a nat
SHOWN = 20  # rows of a table that are shown


def log_to_tensorboard(run_folder: Path) -> Tracked | None:
    """Write run_folder/tensorboard anew; None, and one line of warning, where it can't be.

    Scalars: every metric at step 0, curves against n, accuracy against the KL from the base in thousandths of a nat.
    With them the configuration (as text and as hyperparameters beside the metrics), the first rows of each table, the
    figures, and a layout that draws each curve within its interval (Custom Scalars).
    """
    run_folder = run_folder.absolute()
    fresh = run_folder / f".{FOLDER}"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        run = TensorboardRun(fresh)
        try:
            send(read(run_folder), run)
        finally:
            run.close()
        shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
        fresh.rename(run_folder / FOLDER)
    except ImportError:
        say(
            "warning: TensorBoard did not log this run: it is not installed (extra tracking); its records are complete."
        )
        return None
    except Exception as error:
        say(f"warning: TensorBoard did not log this run ({first_line(error)}); its local records are complete.")
        return None
    show = f"{command('tensorboard')} --logdir {shlex.quote(str(run_folder.parents[1]))}"
    return Tracked("events", run_folder / FOLDER, {"view": show})


class TensorboardRun:
    """Event files being written, as bench.tracking.mirror speaks to them."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self.settings: Row = {}
        self.intervals: dict[str, list[str]] = {}

    def config(self, settings: Row) -> None:
        self.settings = settings
        self.writer.add_text("config", _markdown([{"setting": key, "value": settings[key]} for key in settings]))

    def series(self, axis: str, rows: list[Row]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != axis:
                    self.writer.add_scalar(name, value, round(row[axis] * STEPS[axis]))
            self.intervals |= {name: [name, f"{name}_low", f"{name}_high"] for name in row if f"{name}_low" in row}

    def metrics(self, values: Row) -> None:
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        words = [{"metric": name, "value": value} for name, value in values.items() if name not in numbers]
        self.writer.add_text("metrics", _markdown(words))
        compared = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in self.settings.items()
        }
        self.writer.add_hparams(compared, numbers, run_name=".", global_step=0)  # writes the scalars too

    def table(self, name: str, rows: list[Row]) -> None:
        more = f"\n\n{len(rows) - SHOWN:,} more rows" if len(rows) > SHOWN else ""
        self.writer.add_text(name, _markdown(rows[:SHOWN]) + more)

    def figure(self, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self) -> None:
        charts: dict[str, dict[str, list]] = {}
        for name, parts in self.intervals.items():
            charts.setdefault(name.rsplit("/", 1)[-1], {})[name] = ["Margin", parts]
        if charts:
            self.writer.add_custom_scalars(charts)
        self.writer.close()


def _markdown(rows: list[Row]) -> str:
    """A table; a cell keeps its line breaks."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_text(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", "<br>")
