"""Every configuration composes, passes its own checks, and builds its part."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench import settings

CONF = Path(__file__).resolve().parent.parent / "conf"
LED_BY_WANDB = set(CONF.glob("sweep/wandb_*.yaml"))  # tests/test_wandb_sweeps.py composes their runs
CHOICES = sorted((path.parent.name, path.stem) for path in {*CONF.glob("*/*.yaml")} - LED_BY_WANDB)
BESIDE = {
    ("generation", "openai"): ["policy=folder"],  # a server's policy lies somewhere, which policy.path says
    ("procedure", "adaptive"): ["control=none"],
    ("procedure", "hybrid"): ["control=none"],  # the random twin of a gate is a run of its own
    ("scoring", "unit_tests"): ["task=list_programs"],  # programs are what it runs
}


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_there_are_configurations():
    assert len(CHOICES) > 10


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_builds(group, choice):
    chosen = [f"{group}={choice}", *BESIDE.get((group, choice), [])]
    cfg = composed(*chosen, *(f"{key}={_some(key)}" for key in OmegaConf.missing_keys(composed(*chosen))))
    settings.check(cfg)
    parts = settings.build_parts(cfg)
    assert set(parts) == set(settings.PARTS)


def _some(key: str) -> str:
    """A value for what a user must give."""
    return "http://localhost:8000/v1" if key.endswith(".url") else "anywhere"


def test_run_id_is_that_of_the_configuration_not_of_its_place():
    here, there = composed(), composed("store=elsewhere", "outputs=elsewhere", "tracking=none")
    assert settings.run_id(here) == settings.run_id(there)
    ids = {
        settings.run_id(composed(override)) for override in ("seed=1", "top_p=0.9", "selection=all_correct", "seed=0")
    }
    assert len(ids) == 4
    assert settings.run_id(here) in ids


def test_one_value_lives_in_one_place():
    cfg = composed("temperature=0.7", "top_p=0.9", "seed=3", "task.max_new_tokens=9")
    assert (cfg.generation.temperature, cfg.generation.top_p, cfg.generation.max_new_tokens) == (0.7, 0.9, 9)
    assert OmegaConf.select(cfg, "policy.seed") == 3
