"""The experiments on real models, end to end through their own YAML: tiny models, rows made here, and no hub."""

import json
import shutil
import sys
from pathlib import Path

import families
import fixtures_tasks as made
import numpy as np
import pyarrow.parquet as pq
import pytest
from fixtures_tasks import preferences
from sharing import Shared, composed

from bench.errors import BenchError
from bench.generation import vllm_engine
from bench.launching import runner

SMALL = [
    "generation=transformers",
    "num_completions=2",
    "baseline_completions=4",
    "task.train_prompts=6",
    "task.validation_prompts=null",
    "task.test_prompts=4",
    "task.max_new_tokens=8",
    "task.near_duplicate=null",
    "prompt_filter=all",  # a random model is never right
    "training.epochs=1",
    "training.batch_size=4",
    "training.micro_batch_size=2",
    "evaluation.num_completions=2",
    "evaluation.temperatures=null",
    "evaluation.harness_tasks=[]",
    "threads=1",
    "tracking=none",
]
KEEPS_SOME = "selection=top_per_prompt"


def _room(folder: Path) -> Path:
    """The model, with a context for real prompts."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="module")
def models(shared: Shared) -> dict[str, Path]:
    """A policy of each family, and a reward model of Qwen 3's with the policy's tokenizer."""
    folder = shared.once("offline_models", _save_models)
    return {path.name: path for path in folder.iterdir()}


def _save_models(folder: Path) -> None:
    import torch
    from transformers import AutoConfig, Qwen3ForSequenceClassification

    for name in ("qwen_2_5_base", "llama_3", "qwen_3"):
        _room(families.make(name, folder / name).path)
    for seed, role in enumerate(("reward", "gold")):
        shutil.copytree(folder / "qwen_3", folder / role)
        config = AutoConfig.from_pretrained(folder / role, num_labels=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            Qwen3ForSequenceClassification(config).save_pretrained(folder / role)


def gsm8k(folder: Path) -> str:
    return made.write(folder, train=made.gsm8k(24), test=made.gsm8k(8, seed=1))


EXPERIMENTS = {
    "gsm8k_qwen": ("qwen_2_5_base", gsm8k, []),
    "gsm8k_reward_model": ("qwen_2_5_base", gsm8k, ["scoring.model={reward}"]),
    "math_llama": (
        "llama_3",
        lambda folder: made.write(folder, train=made.math_train(24), test=made.math500(8)),
        [KEEPS_SOME, "~selection.every_step"],
    ),
    "code_qwen": (
        "qwen_2_5_base",
        lambda folder: made.write(
            folder, train=made.mbpp(24), validation=made.mbpp(4, seed=3), test=made.mbpp(8, seed=5)
        ),
        [KEEPS_SOME, "scoring.workers=1"],
    ),
    "helpful_ultrafeedback": (
        "llama_3",
        lambda folder: made.write(folder, train_prefs=preferences(24), test_prefs=preferences(8, seed=1)),
        ["scoring.model={reward}", "task.gold_model={gold}"],
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_real_experiment_runs_from_its_own_yaml_without_the_hub(name, models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    family, rows, settings = EXPERIMENTS[name]
    cfg = composed(
        f"experiment={name}",
        *SMALL,
        "policy=folder",
        f"policy.path={models[family]}",
        f"task.path={rows(tmp_path / 'rows')}",
        f"store={tmp_path / 'store'}",
        f"outputs={tmp_path / 'outputs'}",
        *(setting.format(**models) for setting in settings),
    )
    folder = runner.run_experiment(cfg, quiet=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    for arm in ("base", "tuned", "control"):
        assert 0 <= metrics[f"{arm}/pass@1"] <= 1
        assert metrics[f"{arm}/kl"] >= 0
    assert metrics["base/kl"] == 0
    assert metrics["tuned/kl"] > 0  # it was trained
    assert metrics["selection/kept"] == metrics["selection/prompts_covered"] == 6
    assert metrics["train/loss"] > 0
    for record in ("config.yaml", "curves.parquet", "per_prompt.parquet", "samples.parquet", "lineage.json"):
        assert (folder / record).is_file()
    made_by = {step["stage"] for step in json.loads((folder / "lineage.json").read_text())}
    assert {"generate", "sft", "divergence_samples"} <= made_by
    assert ("score_reward_model" in made_by) == ("reward_model" in name or name == "helpful_ultrafeedback")


@pytest.mark.vllm
def test_a_real_experiment_runs_on_the_engine_of_its_own_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = _room(families.make("qwen_2_5_base", tmp_path / "model", hidden_size=64).path)
    cfg = composed(
        "experiment=gsm8k_qwen",
        *(setting for setting in SMALL if not setting.startswith("generation=")),
        *("generation.kv_cache_gib=0.25", "generation.max_num_seqs=16", "generation.max_model_len=1024"),
        *("policy=folder", f"policy.path={model}", f"task.path={gsm8k(tmp_path / 'rows')}"),
        *(f"store={tmp_path / 'store'}", f"outputs={tmp_path / 'outputs'}"),
    )
    try:
        folder = runner.run_experiment(cfg, quiet=True)
    finally:
        vllm_engine.close()
    steps = json.loads((folder / "lineage.json").read_text())
    assert {step["settings"]["engine"] for step in steps if step["stage"] == "generate"} == {"vllm"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["base/kl"] == 0 < metrics["tuned/kl"]
    assert 0 <= metrics["tuned/pass@1"] <= 1


OWN = {  # rows, what judges them, and what selects
    "tests": (
        [{"prompt": f"Write f{k}(x) for x + {k}.", "tests": [f"assert f{k}(1) == {k + 1}"]} for k in range(40)],
        ["task.compare=tests", "scoring=unit_tests", KEEPS_SOME],
    ),
    "no answers": (
        [{"prompt": f"Tell me of the number {k}."} for k in range(40)],
        [
            *("task.compare=reward_model", "task.gold_model={gold}", "task.gold_threshold=0"),
            *("scoring=reward_model", "scoring.model={reward}"),
        ],
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_own_prompts_without_answers_run_with_what_judges_them(kind, models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows, settings = OWN[kind]
    cfg = composed(
        *("task=jsonl", f"task.path={made.write(tmp_path, own=rows)}/own.jsonl", *SMALL),
        *("policy=folder", f"policy.path={models['qwen_2_5_base']}"),
        *(f"store={tmp_path / 'store'}", f"outputs={tmp_path / 'outputs'}"),
        *(setting.format(**models) for setting in settings),
    )
    folder = runner.run_experiment(cfg, quiet=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["selection/kept"] == 6
    assert metrics["tuned/kl"] > 0
    drawn = {row["diagnostic"] for row in pq.read_table(folder / "diagnostics.parquet").to_pylist()}
    assert ("gold_reward" in drawn) == (kind == "no answers")
    if kind == "no answers":
        assert np.isfinite([metrics["base/gold_reward"], metrics["tuned/gold_reward"]]).all()
        curve = {
            row["n"]: row["value"]
            for row in pq.read_table(folder / "curves.parquet").to_pylist()
            if (row["method"], row["metric"]) == ("best_of_n", "gold_reward") and row["policy"] == "base"
        }
        assert sorted(curve) == [1, 2]
        assert metrics["scorer/overoptimisation_of_gold_reward"]


def run(tmp_path: Path, *settings: str) -> None:
    runner.run_experiment(composed(*settings, "tracking=none", f"store={tmp_path}/s", f"outputs={tmp_path}/o"))


def test_a_missing_model_is_one_sentence(tmp_path):
    rows = gsm8k(tmp_path / "rows")
    with pytest.raises(
        BenchError, match=r"policy\.id=Qwen/Qwen2\.5-1\.5B at revision .* is not in the local cache"
    ) as one:
        run(tmp_path, "experiment=gsm8k_qwen", *SMALL, f"task.path={rows}")
    assert "hf download" in str(one.value)
    assert "\n" not in str(one.value)


def test_a_missing_data_set_of_lm_evals_is_told_before_anything_is_drawn(models, tmp_path):
    asked = [*SMALL, "policy=folder", f"policy.path={models['qwen_2_5_base']}", f"task.path={gsm8k(tmp_path / 'rows')}"]
    with pytest.raises(BenchError, match=r"evaluation\.harness_tasks=gsm8k: its data can't be read here"):
        run(tmp_path, "experiment=gsm8k_qwen", *asked, "evaluation.harness_tasks=[gsm8k]")
    assert not (tmp_path / "s" / "generate").exists()


def test_a_missing_data_set_is_one_sentence(models, tmp_path):
    asked = ["experiment=gsm8k_qwen", *SMALL, "policy=folder", f"policy.path={models['qwen_2_5_base']}"]
    with pytest.raises(BenchError, match="openai/gsm8k") as one:
        run(tmp_path, *asked)
    assert "\n" not in str(one.value)
    with pytest.raises(BenchError, match=r"task\.path=nowhere does not exist"):
        run(tmp_path, *asked, "task.path=nowhere")


def test_four_bits_without_their_package_are_one_sentence(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    rows = made.write(tmp_path / "rows", train=made.math_train(24), test=made.math500(8))
    asked = [*SMALL, KEEPS_SOME, "~selection.every_step", "policy=folder", f"policy.path={models['llama_3']}"]
    with pytest.raises(BenchError, match=r"training\.lora\.four_bit=true needs bitsandbytes"):
        run(tmp_path, "experiment=math_llama", *asked, f"task.path={rows}", "training.lora.four_bit=true")


def test_too_little_gpu_memory_is_one_sentence(models, tmp_path, monkeypatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("bench.training.sft.trainable", full)
    rows, policy = gsm8k(tmp_path / "rows"), f"policy.path={models['qwen_2_5_base']}"
    with pytest.raises(BenchError, match=r"The GPU's memory ran out: lower training\.micro_batch_size .* bench\.size"):
        run(tmp_path, "experiment=gsm8k_qwen", *SMALL, "policy=folder", policy, f"task.path={rows}")
