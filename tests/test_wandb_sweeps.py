"""W&B's sweeps: the command that its agent makes of our files composes, runs, and leaves a run with its parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.__main__ import CONF, main
from bench.config import checks

SWEEPS = Path(CONF).parent / "sweeps"
FILES = sorted(SWEEPS.glob("wandb_*.yaml"))
WANDB = Path(sys.executable).parent / "wandb"
SMALL = [
    "task.train_prompts=12",
    "task.validation_prompts=6",
    "policy.steps=4",
    "policy.demonstrations=400",
    "num_completions=2",
    "baseline_completions=4",
    "prompt_filter=all",  # this policy is never right
    "training.epochs=1",
    "evaluation.num_completions=2",
    "evaluation.temperatures=null",
    "evaluation.lm_eval=false",
    "control=none",
]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What W&B's agent starts, command and environment, for a run that its server asks for."""
    from wandb import wandb_agent

    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        def __init__(self, *, command: list[str], env: dict[str, str], forward_signals: bool) -> None:
            started.append((command, env))

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "ours")
    # the agent sets both in its own environment
    monkeypatch.setenv("WANDB_RUN_ID", "")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.chdir(tmp_path)

    def start(file: Path, values: dict[str, Any], run_id: str = "abcd1234") -> tuple[list[str], dict[str, str]]:
        sweep = yaml.safe_load(file.read_text())
        made = wandb_agent.Agent(api=None, queue=None, sweep_id="ours")
        made._sweep_command = sweep["command"]
        parameters = {name: {"value": value} for name, value in values.items()}
        made._command_run({"type": "run", "run_id": run_id, "program": sweep["program"], "args": parameters})
        return started.pop()

    return start


def corners(file: Path) -> list[dict[str, Any]]:
    """Each parameter's first values, and its last."""
    parameters = yaml.safe_load(file.read_text())["parameters"]
    ends = {name: one.get("values") or [one["min"], one["max"]] for name, one in parameters.items()}
    return [{name: values[i] for name, values in ends.items()} for i in (0, -1)]


def test_there_are_sweeps_of_wandb():
    assert {file.stem for file in FILES} >= {"wandb_grid", "wandb_bayes"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_the_agent_starts_is_an_experiment_of_ours(file, agent):
    for values in corners(file):
        command, env = agent(file, values)
        assert command[:4] == ["/usr/bin/env", "python", "-m", "bench"]
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg = compose("config", command[4:])
        checks.check(cfg)
        checks.build_parts(cfg)
        assert cfg.name == file.stem
        assert cfg.split == "validation"
        for name, value in values.items():
            chosen = OmegaConf.select(cfg, name)
            assert value == (chosen if name != "selection" else chosen._target_.rsplit(".", 1)[-1])
        parameters = yaml.safe_load(Path(env["WANDB_SWEEP_PARAM_PATH"]).read_text())
        assert {name: parameters[name]["value"] for name in values} == values


def test_a_run_of_the_agent_has_the_parameters_and_the_metric_in_wandb(agent, tmp_path: Path):
    file = SWEEPS / "wandb_grid.yaml"
    command, env = agent(file, {"temperature": 0.7, "training.learning_rate": 0.002})
    here = [f"store={tmp_path}/store", f"outputs={tmp_path}/outputs"]
    env |= {"WANDB_MODE": "offline", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    ran = subprocess.run([*command, *SMALL, *here], cwd=SWEEPS.parent, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "warning" not in ran.stderr
    (folder,) = tmp_path.glob("wandb/offline-run-*-abcd1234")
    shown = subprocess.run(
        [WANDB, "leet", "inspect", "--summary", "--json", folder], check=True, capture_output=True, text=True
    )
    run = json.loads(shown.stdout)
    assert run["run_id"] == "abcd1234"
    assert run["config"]["temperature"] == 0.7
    assert run["config"]["training.learning_rate"] == 0.002
    (metrics,) = tmp_path.glob("outputs/wandb_grid/*/metrics.json")
    for file in FILES:
        metric = yaml.safe_load(file.read_text())["metric"]["name"]
        assert run["summary"][metric] == json.loads(metrics.read_text())[metric]


@pytest.mark.parametrize(
    "options", [["sweep=wandb_grid"], ["sweep=wandb_grid", "plan=true"], ["-m", "sweep=wandb_bayes"]]
)
def test_hydra_does_not_lead_them(options, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    with pytest.raises(
        SystemExit, match=r"^error: sweep=wandb_.* is run by W&B: run `wandb sweep sweeps/wandb_.*\.yaml`"
    ):
        main()
    assert list(tmp_path.iterdir()) == []
