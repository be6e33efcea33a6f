"""Every configuration composes, passes its own checks, and builds its part."""

import copy
import re
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from sharing import CONF, composed, composed_anew

from bench.artifacts import Completions, Policy
from bench.config import checks
from bench.config.keys import run_id
from bench.config.nodes import SUPPLIED, check_node
from bench.config.rules import Rule, rules
from bench.errors import BenchError
from bench.launching.runner import run_experiment
from bench.scoring import Scorer
from bench.selection.evidence import evidence_for
from bench.store import Store
from bench.tasks import Task
from bench.training.lora import check_four_bit

LED_BY_WANDB = set(CONF.glob("sweep/wandb_*.yaml"))  # tests/test_wandb_sweeps.py composes their runs
CHOICES = sorted((path.parent.name, path.stem) for path in {*CONF.glob("*/*.yaml")} - LED_BY_WANDB)
NOWHERE = "/dev/null/nowhere"
Compose = Callable[..., DictConfig]  # of `sharing.composed`
BESIDE = {
    ("generation", "imported"): ["generation.train=anywhere"],
    ("generation", "openai"): ["policy=folder"],  # a server's policy lies somewhere, which policy.path says
    **{("pairs", path.stem): ["training=dpo"] for path in CONF.glob("pairs/*.yaml")},
    ("procedure", "adaptive"): ["control=none"],
    ("procedure", "hybrid"): ["control=none"],  # the random control of a gate is another run
    ("procedure", "sft"): ["control=none"],
    ("scoring", "unit_tests"): ["task=list_programs"],  # programs are what it runs
}


def test_there_are_configurations():
    assert len(CHOICES) > 10


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_builds(group, choice):
    cfg = filled(composed, group, choice)
    checks.check(cfg)
    parts = checks.build_parts(cfg)
    assert set(parts) == set(checks.PARTS)


def test_a_selection_lacks_no_setting_that_its_caller_supplies():
    def select(rewards, rng, *, paths, answers, steps_true, texts, length, logprob): ...

    text = np.array([["a"]], object)
    pool = Completions(text, text, np.array([["stop"]]), np.zeros((1, 1)), np.zeros((1, 1)), key="")
    supplied = evidence_for(select, pool, Task(), cast(Policy, None))
    assert set(supplied) == set(SUPPLIED["selection"])


def _some(key: str) -> str:
    """A value for what a user must give."""
    return {"url": "http://localhost:8000/v1", "generator": "leg_counting"}.get(key.rpartition(".")[2], "anywhere")


def filled(compose: Compose, group: str, choice: str, path: object = "anywhere") -> DictConfig:
    """The configuration with a choice and with what a user must give for it."""
    chosen = [f"{group}={choice}", *BESIDE.get((group, choice), [])]
    missing = OmegaConf.missing_keys(compose(*chosen))
    return compose(*chosen, *(f"{key}={_some(key).replace('anywhere', str(path))}" for key in missing))


def ruled(cfg: DictConfig, group: str, choice: str) -> Iterator[tuple[str, Rule]]:
    """(key, rule) of every setting of a choice whose values have a rule in a signature."""

    def inside(node: Any, key: str) -> Iterator[tuple[str, Rule]]:
        if not isinstance(node, DictConfig):
            return
        if "_target_" in node:
            yield from ((f"{key}.{name}", rule) for name, rule in rules(get_object(node["_target_"])).items())
        for name in node:
            if not OmegaConf.is_interpolation(node, name):
                yield from inside(node[name], f"{key}.{name}")

    if group in cfg and choice != "tiny_quick":
        yield from inside(cfg[group], group)
    if (group, choice) == ("task", "word_problems"):
        yield from checks.RULES.items()


PARTS_OF_RUNS = [(group, choice) for group, choice in CHOICES if group in checks.PARTS]


@pytest.mark.parametrize(("group", "choice"), PARTS_OF_RUNS)
def test_every_number_has_limits(group: str, choice: str):
    """The whole check refuses one of a setting's bad values, a different one in turn; that of its part, the others."""
    cfg = filled(composed, group, choice)
    for place, (key, rule) in enumerate(ruled(cfg, group, choice)):
        whole, broken = (any(map(rule.allows, numbers)) for numbers in ((0, 1, 2, 16, 64), (0.5, 0.25, 1.5)))
        bad = [2**64, -(2**64)] * (whole or broken) + [1e300, 1e-320] * broken
        given = copy.deepcopy(cfg)
        for number, value in enumerate(bad):
            OmegaConf.update(given, key, value, force_add=True)
            whole_check = key in checks.RULES or number == place % len(bad)
            check = partial(checks.check, given) if whole_check else partial(check_node, group, given[group])
            with pytest.raises(BenchError, match=re.escape(key.rpartition(".")[2])):
                check()


@pytest.mark.parametrize(("group", "choice"), PARTS_OF_RUNS)
def test_every_path_that_leads_nowhere_is_refused_before_the_first_artifact(
    group: str, choice: str, random_policy: Policy, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr(Store, "make", lambda *given: pytest.fail("an artifact is made"))
    monkeypatch.setattr("bench.tasks.rows.from_hub", lambda *given, **others: pytest.fail("data is downloaded"))
    cfg = filled(composed, group, choice, random_policy.path)
    for key, rule in ruled(cfg, group, choice):
        if "folder" not in rule.description or not rule.allows(NOWHERE):
            continue
        given = copy.deepcopy(cfg)
        for name, value in {"store": f"{tmp_path}/store", "outputs": f"{tmp_path}/outputs", key: NOWHERE}.items():
            OmegaConf.update(given, name, value, force_add=True)
        with pytest.raises(BenchError, match=f"{NOWHERE}|{key} does not apply"):
            run_experiment(given)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize("experiment", sorted(path.stem for path in CONF.glob("experiment/*.yaml")))
def test_every_experiment_runs_on_either_engine_by_its_name_alone(experiment, engine):
    cfg = composed(f"experiment={experiment}", f"generation={engine}")
    checks.check(cfg)
    assert cfg.generation["_target_"] == f"bench.generation.{engine}_engine.generate"


@pytest.mark.parametrize(
    ("gpu", "installed", "hides", "engine"),
    [
        ("nvidia0", True, None, "vllm"),
        ("dxg", True, "0", "vllm"),  # of WSL
        ("nvidia0", True, "", "transformers"),
        ("nvidia0", True, "-1", "transformers"),
        ("nvidia0", False, None, "transformers"),
        ("nvidiactl", True, None, "transformers"),  # the driver alone
    ],
)
def test_the_default_engine_is_settled_as_if_it_were_named(gpu, installed, hides, engine, monkeypatch, tmp_path):
    (tmp_path / gpu).touch()
    monkeypatch.setattr("bench.devices.DEVICES", tmp_path)
    monkeypatch.setattr("bench.devices.find_spec", lambda name: installed and name == "vllm")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hides is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hides)
    assert composed_anew().generation["_target_"] == f"bench.generation.{engine}_engine.generate"
    if gpu != "nvidia0" or hides is not None:  # one GPU, with vLLM and without it, settles either engine everywhere
        return
    of_vllm = ["generation.max_num_seqs=3"] * (engine == "vllm")
    for settings in ([], ["generation.block_size=2", *of_vllm], ["experiment=quick"]):
        settled, named = composed_anew(*settings), composed_anew(*settings, f"generation={engine}")
        assert settled == named
        assert settled.generation["_target_"] == f"bench.generation.{engine}_engine.generate"
        assert run_id(settled) == run_id(named)
    for group in ("imported", "ray"):
        part = {"imported": "others", "ray": "worker"}[group]
        auto, named = (
            composed_anew(f"generation={group}", f"generation@generation.{part}={x}") for x in ("auto", engine)
        )
        assert auto == named
    assert composed_anew("procedure=online").generation["_target_"] == "bench.generation.transformers_engine.generate"


def test_the_run_id_is_that_of_the_batch_size_that_was_the_default():
    assert composed().generation.batch_tokens is None
    assert run_id(composed()) == run_id(composed("generation.batch_tokens=49152"))
    worker = "generation.worker.batch_tokens"
    assert run_id(composed("generation=ray")) == run_id(composed("generation=ray", f"{worker}=49152"))
    assert run_id(composed()) != run_id(composed("generation.batch_tokens=1000"))


def test_the_run_id_is_that_of_the_packing_that_was_the_default():
    """It changes only speed; configurations from before null have false."""
    assert composed().training.packing is None
    assert run_id(composed()) == run_id(composed("training.packing=false"))
    assert run_id(composed()) != run_id(composed("training.packing=true"))


def test_the_share_of_the_gpu_that_large_models_leave_is_asked_for():
    assert composed("experiment=helpful_ultrafeedback").generation.gpu_memory_utilization == 0.4


def test_a_setting_of_another_engine_is_refused_with_the_way_out():
    cfg = composed("+generation.gpu_memory_utilization=0.4")
    complaint = (
        r"generation\.gpu_memory_utilization is not .*transformers_engine.*: ~generation\.gpu_memory_utilization"
    )
    with pytest.raises(BenchError, match=complaint):
        checks.check(cfg)


def test_what_vllm_would_refuse_after_training_is_refused_before():
    checks.check(composed("generation=vllm", "training=lora", "training.lora.r=512"))
    checks.check(composed("training=lora", "training.lora.r=1024"))
    for asked in ("generation=vllm", "generation=ray generation@generation.worker=vllm"):
        with pytest.raises(BenchError, match=r"training\.lora\.r=1024 .* generation=vllm.*at most 512"):
            checks.check(composed(*asked.split(), "training=lora", "training.lora.r=1024"))


def test_a_package_that_is_asked_for_late_is_missed_early_and_by_no_plan(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    checks.check_installed(composed("evaluation.harness_engine=vllm"))
    checks.check_installed(composed("training=lora"))
    engine = composed("evaluation.harness_engine=vllm", "evaluation.harness_tasks=[gsm8k]")
    four_bit = composed("training=lora", "training.lora.four_bit=true")
    for cfg in (engine, four_bit):
        checks.check(cfg)
    with pytest.raises(BenchError, match=r"evaluation\.harness_engine=vllm needs the package vllm.*EXTRAS=vllm"):
        checks.check_installed(engine)
    with pytest.raises(BenchError, match=r"training\.lora\.four_bit=true needs bitsandbytes"):
        check_four_bit()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["training.micro_batch_size=5"], r"training\.micro_batch_size=5 .* must divide training\.batch_size=32"),
        (["training.processes=3"], r"training\.processes=3 .* must divide training\.batch_size=32"),
        (["training.fsdp=true"], r"training\.fsdp=true needs training\.processes of 2 or more"),
        (
            ["training=lora", "training.lora.four_bit=true", "training.fsdp=true", "training.processes=2"],
            r"training\.fsdp=true is not allowed with training\.lora\.four_bit=true",
        ),
    ],
)
def test_a_training_that_could_not_be_is_refused_before_anything_is_drawn(given: list[str], said: str):
    with pytest.raises(BenchError, match=said):
        checks.check(composed(*given))


def test_run_id_is_that_of_the_configuration_not_of_its_place():
    here, there = composed(), composed("store=elsewhere", "outputs=elsewhere", "tracking=none")
    assert run_id(here) == run_id(there)
    ids = {run_id(composed(override)) for override in ("seed=1", "top_p=0.9", "selection=all_correct", "seed=0")}
    assert len(ids) == 4
    assert run_id(here) in ids


@pytest.fixture
def own_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with two scorers: `graded`, and `verdict`, which says that its rewards are 0 or 1."""
    module: Any = types.ModuleType("own_scorers")
    module.graded, module.verdict = (lambda prompts, completions: None for _ in range(2))
    Scorer(highest=1.0)(module.graded)
    Scorer(highest=1.0, verdicts=True)(module.verdict)
    monkeypatch.setitem(sys.modules, "own_scorers", module)


FILTERED = {  # a scoring -> the prompt filter by default
    "scoring=verifier": "solved",
    "scoring=verifier_steps": "solved",
    "scoring=unit_tests task=list_programs": "solved",
    "scoring._target_=own_scorers.verdict": "solved",
    "scoring._target_=own_scorers.graded": "all",
    "scoring=trained_reward_model": "all",
    "scoring=reward_model scoring.model=anywhere": "all",
    "scoring=combined": "all",
    "scoring=self_consistency": "all",
    "scoring._target_=nowhere.scorer": "all",
    "scoring._target_=null": "all",
    "scoring._target_=???": "all",
    "~scoring._target_": "all",
}


@pytest.mark.parametrize("scoring", FILTERED)
def test_prompts_without_an_accepted_completion_are_left_out_where_scoring_gives_verdicts(
    scoring: str, own_scorers: None, caplog: pytest.LogCaptureFixture
):
    given = scoring.split()
    named = {name: composed(*given, f"prompt_filter={name}") for name in ("solved", "all")}
    default = composed(*given)
    assert default.prompt_filter._target_ == named[FILTERED[scoring]].prompt_filter._target_
    assert not caplog.records  # the check of the configuration says what is wrong
    if OmegaConf.missing_keys(default):
        return
    ids = {name: run_id(cfg) for name, cfg in named.items()}
    assert run_id(default) == run_id(composed(*given, "prompt_filter=auto")) == ids[FILTERED[scoring]]
    lower = composed(*given, "prompt_filter=solved", "prompt_filter.accept_above=0")
    assert ids["solved"] != ids["all"] != run_id(lower)


def test_a_hybrid_filters_no_prompt_unless_it_is_given_a_filter():
    assert composed("procedure=hybrid").prompt_filter._target_ == "bench.selection.every_prompt"
    for overrides in (["procedure=hybrid", "prompt_filter=solved"], ["prompt_filter=solved", "procedure=hybrid"]):
        assert composed(*overrides).prompt_filter._target_ == "bench.selection.solved"


def test_one_value_lives_in_one_place():
    cfg = composed("temperature=0.7", "top_p=0.9", "seed=3", "task.max_new_tokens=9")
    assert (cfg.generation.temperature, cfg.generation.top_p, cfg.generation.max_new_tokens) == (0.7, 0.9, 9)
    assert OmegaConf.select(cfg, "policy.seed") == 3
