"""The check of a card: every part runs on a CPU at tiny sizes, and none that fails, hangs or dies ends the others."""

import csv
import gc
import multiprocessing
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.config.compose import CONF
from bench.errors import BenchError
from bench.models import loading
from bench.speed import generation, gpu, gpu_checks, gpu_parts, gpu_runs
from bench.speed.__main__ import main
from bench.speed.gpu_setup import ON_CPU, NotRunError, PartOutcome, Report, Setup
from bench.sweeps.cells import cells


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "out" / "tables").mkdir(parents=True)
    (tmp_path / "out" / "tables" / "matmul.csv").write_text("format,TFLOP/s\nfloat32,0.01\nfloat32,0.02\n")
    return Setup(tmp_path, tmp_path / "out", ON_CPU, time.monotonic() + 600)


def good(setup):
    yield {"way": "ours", "tokens/s": 12.5}
    yield {"way": "theirs", "tokens/s": 2500.0}


def raises(setup):
    yield {"way": "ours", "tokens/s": 1.0}
    raise ValueError("no kernel image is available\nfor this card")


def dies(setup):
    yield {"way": "ours", "tokens/s": 1.0}
    os._exit(7)


def hangs(setup):
    yield {"way": "ours", "tokens/s": 1.0}
    time.sleep(600)


def cannot(setup):
    raise NotRunError("vllm is not installed")


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_a_part_that_fails_dies_hangs_or_cannot_run_ends_no_other(setup, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "report"
    report = Report(folder, "python -m bench.speed gpu")
    written = []
    add = report.add
    monkeypatch.setattr(
        report,
        "add",
        lambda part, row: add(part, row) or written.append((folder / "tables" / f"{part}.csv").read_text()),
    )
    parts = {
        "raises": (raises, 1),
        "dies": (dies, 1),
        "cannot": (cannot, 1),
        "good": (good, 1),
        "hangs": (hangs, 0.006),
    }
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    before = set(multiprocessing.active_children())
    gpu.run(parts, setup, report, 500)
    assert set(multiprocessing.active_children()) <= before
    assert [(outcome.part, outcome.state, outcome.rows) for outcome in report.outcomes] == [
        ("raises", "failed", 1),
        ("dies", "failed", 1),
        ("cannot", "not run", 0),
        ("good", "done", 2),
        ("hangs", "stopped", 1),
    ]
    reasons = [row["reason"] for row in rows_of(folder / "parts.csv")]
    assert reasons[0] == "ValueError: no kernel image is available"
    assert reasons[1] == "its process ended by itself, with status 7"
    assert reasons[2] == "vllm is not installed"
    assert reasons[4].startswith("it was stopped after 3 s")
    assert "ours" in written[0]  # at once, before the part ended
    assert rows_of(folder / "tables" / "good.csv")[1] == {"way": "theirs", "tokens/s": "2500.0"}
    page = (folder / "README.md").read_text()
    assert "| good | done |" in page
    assert "| theirs | 2,500 |" in page


def test_parts_without_time_are_not_run(setup, tmp_path):
    report = Report(tmp_path / "report", "python -m bench.speed gpu")
    gpu.run({"good": (good, 1)}, setup, report, 0)
    assert [(outcome.state, outcome.reason) for outcome in report.outcomes] == [("not run", "no time was left")]


def test_without_a_gpu_it_is_one_sentence_and_status_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("bench.devices.device", lambda: "cpu")
    with pytest.raises(SystemExit) as ended:
        main(["gpu", "--folder", str(tmp_path / "report")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: there is no GPU that torch can use; --device cpu tries the command with tiny sizes.\n"
    )
    assert not (tmp_path / "report").exists()


def test_the_command_writes_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "report"
    arguments = ["gpu", "--device", "cpu", "--minutes", "9", "--folder", str(folder), "--parts", "matmul"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert [row["state"] for row in rows_of(folder / "parts.csv")] == ["done"]
    assert float(rows_of(folder / "tables" / "matmul.csv")[0]["TFLOP/s"]) > 0
    assert "    python -m bench.speed gpu --device cpu --minutes 9" in (folder / "README.md").read_text()
    assert "written: " in capsys.readouterr().out


PARTS = [
    (gpu_parts.machine, "name", {"python", "torch", "vllm", "liger-kernel", "model"}),
    (gpu_parts.scores, "way", {"scoring=reward_model", "batches of 8 in arrival order"}),
    (gpu_parts.divergence, "format", {"float32", "bfloat16"}),
    (gpu_parts.sft, "packing", {False, True}),
    (gpu_runs.estimates, "stage", {"generation", "fine-tuning", "KL"}),
    (gpu_parts.drawing, "way", {"ours", "generate", "floor"}),
]


def test_every_part_gives_its_rows(setup, monkeypatch):
    """Of one model, made once; the run that is estimated is judged at one temperature."""
    plain = gpu_runs.sizing.plain_experiment
    monkeypatch.setattr(
        gpu_runs.sizing, "plain_experiment", lambda *given: [*plain(*given), "evaluation.temperatures=null"]
    )
    for part, column, names in PARTS:
        gc.freeze()  # each measurement collects garbage: not among what was imported
        check_rows(list(part(setup)), column, names)


def check_rows(rows: list[dict[str, Any]], column: str, names: set) -> None:
    """Named as they should be, with positive numbers whose middle lies between their ends."""
    assert names <= {row[column] for row in rows}
    for row in rows:
        for name in ("tokens/s", "lowest", "highest", "share of matmul rate", "seconds", "estimated_seconds"):
            assert row.get(name, 1.0) > 0
        assert row.get("lowest", 0) <= row.get("tokens/s", 0) <= row.get("highest", 0)
        if "share of matmul rate" in row:
            assert row["share of matmul rate"] / row["tokens/s"] == pytest.approx(
                rows[0]["share of matmul rate"] / rows[0]["tokens/s"]
            )


def test_the_rate_of_products_is_the_highest_that_was_measured(setup, tmp_path):
    assert setup.matmul_rate() == 0.02e12
    assert np.isnan(Setup(tmp_path, tmp_path, ON_CPU, 0.0).matmul_rate())


def test_the_checks_are_met_on_a_cpu_and_can_fail(tmp_path, monkeypatch):
    assert [row["verdict"] for row in gpu_checks.rows(tmp_path)] == ["met"] * len(gpu_checks.CHECKS)

    case = gpu_checks.Case(tmp_path, "float32")
    case.policy = loading.folder(tmp_path / "policy")
    exact = gpu_checks._drawn_logprobs(case)
    case.pool.policy_logprob[:] += 0.1 * case.pool.length
    assert exact < 1e-5
    assert gpu_checks._drawn_logprobs(case) == pytest.approx(0.1, abs=1e-4)

    def half(case):
        return 0.5

    def broken(case):
        raise RuntimeError("CUDA error: an illegal memory access")

    checks = {"half": gpu_checks.Check(half, 0.4, "x"), "broken": gpu_checks.Check(broken, 0.4, "x")}
    monkeypatch.setattr(gpu_checks, "CHECKS", checks)
    rows = gpu_checks.rows(tmp_path)
    found = [next(rows)["verdict"], next(rows)["verdict"]]
    with pytest.raises(BenchError, match="2 of 2 checks are not met: half; broken"):
        next(rows)
    assert found == ["MISSED", "RuntimeError: CUDA error: an illegal memory access"]


def test_the_experiment_is_not_run_without_hub_and_folders(setup, monkeypatch):
    def unreachable(*given, **settings):
        raise OSError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    with pytest.raises(NotRunError, match=r"--smollm2 FOLDER and --gsm8k FOLDER are not given, and the hub can't"):
        gpu_runs.experiment_settings(setup)
    given = Setup(**{**vars(setup), "smollm2": "model", "gsm8k": "data"})
    found = cells(gpu_runs.experiment_settings(given), str(CONF))
    assert found is not None
    assert found[0].cfg.policy.start.path == "model"
    assert found[0].cfg.task.path == "data"


@pytest.mark.parametrize(
    ("minutes", "script", "complaint"),
    [
        (0.0, "exec sleep 600", "stopped at the end of the minutes"),
        (10.0, "echo no such model; exit 1", "no such model"),
    ],
)
def test_the_experiments_run_is_stopped_at_the_deadline_and_its_complaint_is_kept(
    setup, monkeypatch, tmp_path, minutes, script, complaint
):
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    deadline = time.monotonic() + 60 * minutes
    late = Setup(**{**vars(setup), "deadline": deadline, "smollm2": "model", "gsm8k": "data"})
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(NotRunError, match=complaint):
        list(gpu_runs.gsm8k_smollm2(late))


def test_the_figure_has_a_panel_for_what_there_is(tmp_path):
    report = Report(tmp_path / "report", "python -m bench.speed gpu")
    report.draw()
    assert not (tmp_path / "report" / "figure.png").exists()
    report.add("generation", {"rows": 8, "way": "ours", "tokens/s": 10.0})
    report.add("sft", {"packing": True, "share of matmul rate": 0.3})
    report.add("estimates", {"stage": "KL", "seconds": 1.0, "estimated_seconds": 2.0, "GiB": 0.0, "estimated_GiB": 1.0})
    assert [bars for *_, bars in report._panels()] == [
        [("generation 8 ours", 10.0)],
        [("sft, packed", 0.3)],
        [("KL, seconds", 2.0)],
    ]
    report.end(PartOutcome("a", "failed", 1.0, 0, "a | b " + "word " * 30))
    report.draw()
    page = (tmp_path / "report" / "README.md").read_text()
    assert "figure.png" in page
    assert f"a / b {'word ' * 17}... |" in page


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(BenchError, match="holds other files"):
        Report(tmp_path, "")


def test_vllm_is_asked_as_it_is(random_policy, monkeypatch):
    asked = []

    class LLM:
        def __init__(self, **given):
            asked.append(given["model"])

        def reset_prefix_cache(self):
            asked.append("reset")

        def generate(self, prompts, settings, use_tqdm):
            each = settings if isinstance(settings, list) else [settings] * len(prompts)
            asked.append((len(prompts), [(one.n, one.logprobs, one.seed) for one in each]))
            sample = types.SimpleNamespace(token_ids=[4, 5])
            return [types.SimpleNamespace(outputs=[sample] * one.n) for one in each]

    class SamplingParams:
        def __init__(self, n=1, logprobs=None, seed=None, **settings):
            self.n, self.logprobs, self.seed = n, logprobs, seed

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))
    monkeypatch.setattr("bench.generation.vllm_launch.arguments", lambda model, *_, **__: {"model": str(model)})
    work = generation.SamplingWork(generation.WordProblems().prompts("test")[:2], 3, 6)
    with gpu_parts.raw_vllm_ways(random_policy, "float32") as ways:
        rows = [way(work, 1) for way in ways.values()]
    assert [len(own) for own in rows] == [6, 6, 6]
    assert asked[0] == str(random_policy.path)
    assert asked[2::2] == [
        (2, [(3, None, None)] * 2),
        (2, [(3, 0, None)] * 2),
        (6, [(1, 0, seed) for seed in range(6, 12)]),
    ]
