"""What the package ships: the policies that the default recipe makes, which runs take, and all configurations."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra import compose
from sharing import composed

from bench import policies
from bench.artifacts import Policy
from bench.config.checks import build_parts
from bench.config.compose import CONF
from bench.generation.transformers_engine import generate
from bench.policies import SEEDS
from bench.scoring.verifier import verify
from bench.store import MANIFEST, SHIPPED, DamagedArtifactError, Store, check, lineage, using
from bench.store.files import seal
from bench.training import pretraining

ANEW = "the recipe of the default policy has changed: `python -m bench.policies` makes anew what the package ships"
GREEDY, SAMPLED = (0.503, 0.617), (0.231, 0.283)  # 95 % intervals of its accuracy over prompts, see README.md


@pytest.fixture
def default_policy() -> Callable[..., Policy]:
    """Take the policy of the default settings, changed by overrides, from a store."""

    def make(store: Store, *overrides: str) -> Policy:
        parts = build_parts(composed(*overrides))
        with using(store):
            return parts["policy"](parts["task"])

    return make


@pytest.fixture
def no_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given, **settings):
        pytest.fail(ANEW)

    monkeypatch.setattr(pretraining, "_train", refuse)


def test_what_is_shipped_is_what_the_default_recipe_makes(default_policy, tmp_path: Path, no_pretraining: None) -> None:
    store = Store(tmp_path)
    found = [default_policy(store, f"seed={seed}") for seed in SEEDS]
    assert len({policy.fingerprint for policy in found}) == len(SEEDS)
    places = {policy.path.relative_to(tmp_path) for policy in found}
    assert places == {path.parent.relative_to(SHIPPED) for path in SHIPPED.rglob(MANIFEST)}
    files = [file for place in places for file in (SHIPPED / place).iterdir()]
    for file in files:
        assert (tmp_path / file.relative_to(SHIPPED)).read_bytes() == file.read_bytes()
    assert sum(file.stat().st_size for file in files) < 1.2e6 * len(SEEDS)


def test_the_command_puts_the_policies_of_all_its_seeds_in_the_place_of_others(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pretrain" / "old").mkdir(parents=True)
    monkeypatch.setattr(policies, "SHIPPED", tmp_path)
    monkeypatch.setattr(policies, "SEEDS", (7, 8))
    monkeypatch.setattr(sys, "argv", ["policies"])
    monkeypatch.setattr(pretraining, "_train", lambda *given, **settings: 1)
    few = "policy.demonstrations=400"
    monkeypatch.setattr(hydra, "compose", lambda name, overrides: compose(name, [*overrides, few]))
    policies.main()
    made = [check(path.parent) for path in tmp_path.rglob(MANIFEST)]
    assert sorted(manifest["settings"]["seed"] for manifest in made) == [7, 8]
    assert all(manifest["shipped"] for manifest in made)
    assert not (tmp_path / "pretrain" / "old").exists()


def test_its_accuracy_lies_within_its_interval(tmp_path: Path) -> None:
    parts = build_parts(composed())
    task, store = parts["task"], Store(tmp_path)
    prompts = task.prompts("test")
    with using(store):
        policy = parts["policy"](task)
        settings = {"max_new_tokens": task.max_new_tokens, "seed": 0, "top_p": 1.0}
        for temperature, samples, (low, high) in ((0.0, 1, GREEDY), (1.0, 4, SAMPLED)):
            drawn = generate(prompts, policy, num_completions=samples, temperature=temperature, **settings)
            assert low <= verify(prompts, drawn, task=task).value.mean() <= high


def test_its_cost_counts_and_lineage_says_that_it_was_shipped(
    default_policy, tmp_path: Path, no_pretraining: None
) -> None:
    store = Store(tmp_path)
    default_policy(store)
    default_policy(store)
    assert [(use.reused, use.shipped) for use in store.uses] == [(True, True)] * 2
    (entry,) = lineage(store.uses)
    assert entry["shipped"] is True
    assert entry["seconds"] > 10
    assert entry["counts"]["train_flops"] > 1e12
    assert json.loads(next(tmp_path.rglob(MANIFEST)).read_text())["shipped"] is True


@pytest.mark.parametrize("setting", ["seed=5", "policy.steps=3", "policy.learning_rate=1e-3", "task=list_programs"])
def test_other_settings_are_pretrained_here(
    setting: str, default_policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PretrainingError(Exception):
        pass

    def refuse(*given, **settings):
        raise PretrainingError

    monkeypatch.setattr(pretraining, "_first_demonstrations", refuse)
    with pytest.raises(PretrainingError):
        default_policy(Store(tmp_path), setting, "policy.demonstrations=32000")
    assert not list(tmp_path.rglob(MANIFEST))


def test_a_policy_that_was_pretrained_here_stays(default_policy, tmp_path: Path) -> None:
    """What a store has already is not replaced, and its lineage doesn't say that it was shipped."""
    store = Store(tmp_path)
    policy = default_policy(store)
    manifest = check(policy.path)
    (policy.path / MANIFEST).unlink()
    origin = {name: manifest[name] for name in ("stage", "version", "key", "part", "settings", "parents")}
    seal(policy.path, origin, manifest["counts"], 77.0)
    again = Store(tmp_path)
    assert default_policy(again).key == policy.key
    assert [(use.reused, use.shipped, use.seconds) for use in again.uses] == [(True, False, 77.0)]
    assert lineage(again.uses)[0]["shipped"] is False


def test_damaged_files_of_the_package_are_not_used(
    default_policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "shipped")
    for weights in (tmp_path / "shipped").rglob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-2] + b"??")
        with pytest.raises(DamagedArtifactError):
            check(weights.parent)
    monkeypatch.setattr(pretraining, "_first_demonstrations", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        default_policy(Store(tmp_path / "store", shipped=tmp_path / "shipped"))


def test_an_installed_package_has_all_configurations(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    root, source, installed = Path(CONF).parent, tmp_path / "source", tmp_path / "site-packages"
    for name in ("bench", "conf", "sweeps"):
        shutil.copytree(root / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(root / name, source)
    build = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('.')"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    shutil.rmtree(source)

    def configurations(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for part in ("*", "*/*", "*/*/*") for path in folder.glob(f"{part}.yaml")}

    assert configurations(installed / "bench" / "conf") == configurations(Path(CONF))
    status = [sys.executable, "-m", "bench.status", "sweep=on_one_axis", "seed=0"]
    told = subprocess.run(
        status, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert "5 cells: 5 missing" in told.stdout, told.stderr
