"""Mirror a finished run folder to Weights & Biases; the local files stay the truth, and W&B's failure costs nothing.

Offline unless WANDB_MODE or the setting says otherwise (or a W&B sweep agent started this process). What was logged
is remembered in the run folder, so a run whose results did not change is not logged again. The only module that
imports wandb.
"""

import contextlib
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bench.allowed import number, one_of, or_null
from bench.artifacts import content_hash
from bench.progress import say
from bench.store import write_durably

RECORD = "tracking.json"
LARGE = 64 * 2**20  # bytes: bigger files are referred to where they lie instead of uploaded


@dataclass(frozen=True)
class Tracked:
    """Where W&B has a run."""

    path: Path  # the folder that wandb wrote
    url: str | None  # on the server, None offline

    @property
    def view_command(self) -> str:
        return f"{_wandb_command()} leet {shlex.quote(str(self.path))}"

    @property
    def sync_command(self) -> str:
        return f"{_wandb_command()} sync {shlex.quote(str(self.path))}"


def log_nothing(run_folder: Path) -> None:
    """No tracking: the run folder is all there is."""


def log_to_wandb(
    run_folder: Path,
    *,
    project: str,
    entity: str | None = None,
    mode: Annotated[str, or_null(one_of("online", "offline", "disabled"))] = "offline",
    tags: Sequence[str] = (),
    directory: str | None = None,
    timeout: Annotated[float, or_null(number(0))] = 60,
) -> Tracked | None:
    """Log what a finished run left: config, metrics, curves, tables, figures, lineage; None where W&B would not.

    The W&B run has the folder's name as its id, its parent's as its group. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and
    WANDB_RUN_ID go before the settings. wandb writes into `directory`/wandb; by default into WANDB_DIR, or the run
    folder. timeout: seconds to wait for the server, when a run starts and again when it ends; where it does not
    answer, or refuses, the run is logged offline. Any failure is one line of warning.
    """
    in_sweep = "WANDB_SWEEP_ID" in os.environ  # an agent started this process and waits for it on the server
    mode = os.environ.get("WANDB_MODE") or ("online" if in_sweep else mode)
    if mode == "disabled":
        return None
    root = Path(directory or os.environ.get("WANDB_DIR") or run_folder).absolute()
    run_folder = run_folder.absolute()
    place = {
        "project": os.environ.get("WANDB_PROJECT") or project,
        "entity": os.environ.get("WANDB_ENTITY") or entity,
        "id": os.environ.get("WANDB_RUN_ID") or run_folder.name,
        "tags": sorted(tags),
    }
    try:
        content = content_hash(place, _content(run_folder))
        earlier = _earlier(run_folder)
        if earlier is not None and earlier["content"] == content and earlier["mode"] in (mode, "online"):
            return Tracked(Path(earlier["path"]), earlier["url"])
        tracked, problem = _log_or_fall_back(run_folder, root, place, mode, timeout)
        _remove_superseded(root, str(place["id"]), tracked.path)
        used = "offline" if problem else mode
        record = {"content": content, "mode": used, "path": str(tracked.path), "url": tracked.url}
        write_durably(run_folder / RECORD, json.dumps(record, indent=1))
    except Exception as error:
        say(f"warning: W&B did not log this run ({_first_line(error)}); its local records are complete.")
        return None
    if problem:
        say(f"warning: W&B could not be reached ({problem}); the run was logged offline instead, to be synced later.")
    return tracked


def _log_or_fall_back(
    run_folder: Path, root: Path, place: dict[str, Any], mode: str, timeout: float
) -> tuple[Tracked, str | None]:
    """The run as W&B has it, and what was wrong with the server where it is offline for that reason."""
    try:
        return _log(run_folder, root, place, mode, timeout), None
    except Exception as error:
        if mode != "online":
            raise
        import wandb

        wandb.teardown()  # to its background process the id of the failed run is still in use
        return _log(run_folder, root, place, "offline", timeout), _first_line(error)


def _log(run_folder: Path, root: Path, place: dict[str, Any], mode: Any, timeout: float) -> Tracked:
    """Open a W&B run, log everything, close it; an attempt that fails leaves no folder behind."""
    folder = root / "wandb"
    folder.mkdir(parents=True, exist_ok=True)  # where it can't be, wandb would silently turn to a temporary folder
    own = f"*run-*-{place['id']}"
    before = set(folder.glob(own))
    try:
        with _environment(
            WANDB_SILENT="true",  # also asks for no key on a terminal
            WANDB_ERROR_REPORTING="false",  # whose own failures would be printed
            WANDB_CACHE_DIR=str(folder / "cache"),
        ):
            import wandb

            run = wandb.init(
                **place,
                name=run_folder.name,
                group=run_folder.parent.name,
                config=_config(run_folder),
                mode=mode,
                resume="allow",
                reinit="create_new",
                dir=root,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    x_disable_stats=True,  # the work is done when this starts
                    init_timeout=timeout,
                    finish_timeout=timeout,
                    finish_timeout_raises=True,
                    x_graphql_retry_max=2,
                    x_graphql_retry_wait_max_seconds=2,
                    x_graphql_timeout_seconds=min(timeout, 10),
                    x_file_stream_retry_max=2,
                    x_file_transfer_retry_max=2,
                ),
            )
            tracked = Tracked(Path(run.settings.sync_dir), run.url if mode == "online" else None)
            with _environment(WANDB_DATA_DIR=str(tracked.path)):  # what waits for upload stays with its run
                try:
                    _log_content(run, run_folder)
                finally:
                    run.finish()
    except BaseException:
        for left in set(folder.glob(own)) - before:
            shutil.rmtree(left)
        raise
    return tracked


def _log_content(run: Any, folder: Path) -> None:
    import wandb

    curves = _rows(folder / "curves.parquet")
    lineage = json.loads((folder / "lineage.json").read_text())
    for axis, series in (("n", "curves/*"), ("kl", "frontier/*")):
        run.define_metric(axis, hidden=True, summary="none")
        run.define_metric(series, step_metric=axis, summary="none")
    for row in [*_against_n(curves), *_against_kl(curves)]:
        run.log(row)
    run.log(
        {
            **_metrics(folder),
            "curves": _table(curves),
            "samples": _table(_rows(folder / "samples.parquet")),
            "lineage": _table([{name: _cell(value) for name, value in entry.items()} for entry in lineage]),
            **{f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))},
        }
    )
    files = wandb.Artifact(
        f"run-{run.id}",
        type="run-files",
        description="Everything the run left on its own disk.",
        metadata={"ancestors": [f"{entry['stage']}/{entry['key']}" for entry in lineage]},
    )
    for path in _files(folder):
        if path.stat().st_size > LARGE:
            files.add_reference(path.as_uri(), name=path.name)
        else:
            # tables and figures from where they lie; a run that finds everything ready rewrites the JSON, hence a copy
            files.add_file(str(path), policy="mutable" if path.suffix == ".json" else "immutable", skip_cache=True)
    run.log_artifact(files)


def _against_n(curves: list[dict]) -> Iterator[dict[str, float]]:
    """Each n's values of every curve, with their intervals."""
    for n in sorted({row["n"] for row in curves}):
        at_n: dict[str, float] = {"n": n}
        for row in curves:
            if row["n"] == n:
                name = f"curves/{row['policy']}/{row['method']}/{row['metric']}"
                at_n |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        yield at_n


def _against_kl(curves: list[dict]) -> Iterator[dict[str, float]]:
    """Accuracy by the KL from the base: Best-of-N at each n, and a point for each policy's single sample."""
    kl = {(row["policy"], row["method"], row["n"]): row["value"] for row in curves if row["metric"] == "kl"}
    points = []
    for row in curves:
        if row["metric"] == "accuracy":
            own = (row["policy"], row["method"], row["n"])
            of_policy = (row["policy"], "policy", 1) if row["method"] == "pass" and row["n"] == 1 else own
            if (distance := kl.get(own, kl.get(of_policy))) is not None:
                points.append((distance, f"frontier/{row['policy']}/{row['method']}", row["value"]))
    for distance, name, accuracy in sorted(point for point in points if not math.isnan(point[0])):
        yield {"kl": distance, name: accuracy}


def _files(folder: Path) -> list[Path]:
    named = [folder / name for name in ("config.yaml", "metrics.json", "lineage.json")]
    return [*named, *sorted(folder.glob("*.parquet")), *sorted(folder.glob("*.png"))]


def _content(folder: Path) -> list[str]:
    """What was measured, apart from what this process found ready: that differs each time and is no result."""
    metrics = {name: value for name, value in _metrics(folder).items() if not name.startswith("saved/")}
    lineage = json.loads((folder / "lineage.json").read_text())
    for entry in lineage:
        del entry["reused"]
    rest = [path for path in _files(folder) if path.suffix != ".json"]
    return [content_hash(metrics, lineage), *(hashlib.sha256(path.read_bytes()).hexdigest() for path in rest)]


def _metrics(folder: Path) -> dict[str, Any]:
    """metrics.json without what is undefined (null)."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if value is not None}


def _config(folder: Path) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)


def _rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _table(rows: list[dict]) -> Any:
    import wandb

    columns = list(rows[0]) if rows else []
    return wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _earlier(run_folder: Path) -> dict[str, Any] | None:
    """What was logged of this run before, as long as it is still there."""
    record = run_folder / RECORD
    if not record.is_file():
        return None
    earlier = json.loads(record.read_text())
    return earlier if Path(earlier["path"]).is_dir() else None


def _remove_superseded(root: Path, run_id: str, now: Path) -> None:
    """Drop this run's other unsynced offline folders, a killed process's among them: syncing two would mix them."""
    for path in (root / "wandb").glob(f"offline-run-*-{run_id}"):
        if path != now and not list(path.glob("*.synced")):
            shutil.rmtree(path)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for wandb, where the user has not set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _wandb_command() -> str:
    """wandb if the shell would find it, else the one beside this Python."""
    return "wandb" if shutil.which("wandb") else shlex.quote(str(Path(sys.executable).parent / "wandb"))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
