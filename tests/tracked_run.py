"""A finished run as trackers find it, small and made by hand."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CONFIG = """name: sweep
seed: 3
selection:
  _target_: bench.selection.top_per_prompt
  _partial_: true
  k: null
training: {_target_: bench.training.sft.fine_tune, _partial_: true, epochs: 2}
tracking: {_target_: bench.tracking.log_nothing, _partial_: true}
temperature: 0.7
"""
FLAT = {
    "name": "sweep",
    "seed": 3,
    "selection": "top_per_prompt",
    "selection/k": None,
    "training": "sft.fine_tune",
    "training/epochs": 2,
    "temperature": 0.7,
}
METRICS = {"base/pass@1": 0.25, "tuned/kl": 0.5, "verdict": "better", "undefined": None, "saved/seconds": 0.0}
DEFINED = {name: value for name, value in METRICS.items() if value is not None}


def ancestor(stage: str, key: str, *, reused: bool = False) -> dict:
    counts = {"train_tokens": 7}
    named = {"stage": stage, "key": key, "part": "", "settings": {"seed": 3}}
    return {**named, "counts": counts, "seconds": 1.5, "reused": reused}


def curve(policy: str, method: str, metric: str, n: int, value: float) -> dict:
    where = {"policy": policy, "method": method, "metric": metric, "n": n}
    return {**where, "value": value, "low": value - 0.125, "high": value + 0.125}


CURVES = [
    *(curve("base", "best_of_n", "accuracy", n, n / 8) for n in (1, 2, 4)),
    *(curve("base", "best_of_n", "kl", n, n / 16) for n in (1, 2, 4)),
    curve("tuned", "pass", "accuracy", 1, 0.625),
    curve("tuned", "pass", "accuracy", 4, 0.75),
    curve("tuned", "policy", "kl", 1, 0.1875),
]
FRONTIER = [  # by hand: each accuracy at its own KL, the policy's pass@1 at the policy's
    (0.0625, "frontier/base/best_of_n", 0.125),
    (0.125, "frontier/base/best_of_n", 0.25),
    (0.1875, "frontier/tuned/pass", 0.625),
    (0.25, "frontier/base/best_of_n", 0.5),
]
SAMPLES = [{"prompt_id": f"p{i}", "completion": f" {i} + 1 = {i + 1}.\n#### é", "reward": 1.0} for i in range(3)]
FILES = {
    "config.yaml",
    "metrics.json",
    "lineage.json",
    "chain.json",
    "code.json",
    "curves.parquet",
    "per_prompt.parquet",
    "samples.parquet",
    "rewards.parquet",
    "selection_tuned.parquet",
    "frontier.png",
}


def link(name: str, parents: list[str], files: dict[str, str], *, reused: bool = False) -> dict:
    kind = name.partition("-")[0]
    made = {"name": name, "type": kind, "role": "train", "parents": parents}
    return {**made, "reused": reused, "files": files, "settings": {"seed": 3}}


def chain(store: Path, *, reused: bool) -> list[dict]:
    """Base -> pool -> rewards -> selection -> tuned; what lies in `store` is made there first."""
    for name in ("base", "pool", "tuned"):
        (store / name).mkdir(parents=True, exist_ok=True)
        (store / name / "content.bin").write_bytes(name.encode() * 100)

    def stored(name: str) -> dict[str, str]:
        return {"content.bin": str(store / name / "content.bin")}

    return [
        link("policy-base", [], stored("base"), reused=reused),
        link("pool-1", ["policy-base"], stored("pool"), reused=reused),
        link("rewards-2", ["pool-1"], {"rewards.parquet": "rewards.parquet"}),
        link("selection-3", ["rewards-2"], {"selection_tuned.parquet": "selection_tuned.parquet"}),
        link("policy-tuned", ["policy-base", "selection-3"], stored("tuned")),
    ]


def finished_run(folder: Path, *, reused: bool = False) -> Path:
    """folder: .../outputs/<name>/<run id>, beside whose outputs the store lies."""
    from PIL import Image

    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "code.json").write_text("{}")
    (folder / "lineage.json").write_text(json.dumps([ancestor("pretrain", "aa11"), ancestor("sft", "bb22")]))
    (folder / "chain.json").write_text(json.dumps(chain(folder.parents[2] / "store", reused=reused)))
    tables = {"curves": CURVES, "samples": SAMPLES, "per_prompt": [{"prompt_id": "p0", "value": 1.0}]}
    tables |= {name: [{"prompt_id": "p0", "sample": 0, "reward": 1.0}] for name in ("rewards", "selection_tuned")}
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    Image.new("RGB", (4, 3), "red").save(folder / "frontier.png")
    return folder


def without_user_settings(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Remove the tracker settings of whoever runs the tests, and set a home in which nothing may appear."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    home.mkdir()
    patch.setenv("HOME", str(home))
