"""Mirror a run to Trackio: a local database beside all runs, which `trackio show` serves as a dashboard."""

import contextlib
import io
import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from bench.config.rules import FOLDER, PROJECT, or_null
from bench.progress import say
from bench.tracking.mirror import Row, Tracked, command, first_line, read, send


def log_to_trackio(
    run_folder: Path, *, project: Annotated[str, PROJECT], directory: Annotated[str | None, or_null(FOLDER)] = None
) -> Tracked | None:
    """Write the run into Trackio's database, in place of what it held of it; None, and one warning, where it can't.

    The database lies in TRACKIO_DIR, else in `directory`, else in .trackio beside the folders of all experiments.
    Trackio's own variables (TRACKIO_SPACE_ID, TRACKIO_SERVER_URL) send the run on to a server, in addition to what that
    holds of it already.
    """
    run_folder = run_folder.absolute()
    where = os.environ.get("TRACKIO_DIR") or str(Path(directory or run_folder.parents[1] / ".trackio").absolute())
    try:
        _import(where)
        finished = read(run_folder)
        with _quiet():
            run = TrackioRun(project, finished.name, finished.group, finished.config)
            try:
                send(finished, run)
            finally:
                run.close()
    except ImportError:
        say("warning: Trackio did not log this run: it is not installed (extra tracking); its records are complete.")
        return None
    except Exception as error:
        say(f"warning: Trackio did not log this run ({first_line(error)}); its local records are complete.")
        return None
    show = f"TRACKIO_DIR={shlex.quote(where)} {command('trackio')} show --project {shlex.quote(project)}"
    return Tracked("trackio", Path(where), {"view": show})


class TrackioRun:
    """An open run of Trackio, as bench.tracking.mirror speaks to it. Tables and figures go with the metrics."""

    def __init__(self, project: str, name: str, group: str, config: Row) -> None:
        import trackio

        with contextlib.suppress(ValueError):  # no such project yet
            for earlier in trackio.Api().runs(project):
                if earlier.name == name:
                    earlier.delete()
        self.run = trackio.init(
            project, name=name, group=group, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False
        )
        self.last: dict[str, Any] = {}
        self.step = 0

    def config(self, settings: Row) -> None:
        """Given when the run was opened: Trackio takes it only then."""

    def series(self, axis: str, rows: list[Row]) -> None:
        for row in rows:
            self._log(row)

    def metrics(self, values: Row) -> None:
        self.last |= values

    def table(self, name: str, rows: list[Row]) -> None:
        import trackio

        self.last[name] = trackio.Table(
            columns=list(rows[0]) if rows else [], data=[list(row.values()) for row in rows]
        )

    def figure(self, name: str, path: Path) -> None:
        import trackio

        self.last[name] = trackio.Image(str(path))

    def close(self) -> None:
        import trackio

        self._log(self.last)
        trackio.finish()

    def _log(self, row: Row) -> None:
        import trackio

        trackio.log(row, step=self.step)
        self.step += 1


def _import(where: str) -> None:
    """Trackio chooses its folder when it is imported, and keeps to it: one database a process."""
    before = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = where
    try:
        import trackio
    finally:
        if before is None:
            del os.environ["TRACKIO_DIR"]
    if Path(trackio.TRACKIO_DIR) != Path(where):
        raise RuntimeError(f"this process writes to {trackio.TRACKIO_DIR} already")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Trackio's greetings; what it only warns of, such as rows that it could not write, is an error here."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "trackio" in warning.filename:
            raise RuntimeError(str(warning.message))
