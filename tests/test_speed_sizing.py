"""What the table of estimates and measurements is made of, at a small size."""

from pathlib import Path

import pytest

from bench.speed import sizing
from bench.speed._ways import random_policy


def test_a_stages_products_are_counted_beside_their_estimate(tmp_path: Path):
    policy = random_policy(tmp_path / "policy", 2, 64, 400)
    overrides = [
        *("policy=folder", f"policy.path={policy.path}", "tracking=none", "task.train_prompts=4", "num_completions=4"),
        *("task.max_new_tokens=16", "selection=random_per_prompt", "training.epochs=1"),
        *("training.batch_size=4", "control=none", f"store={tmp_path}/store"),
    ]
    taken = sizing._experiment(overrides, counting=True, bare=0, whole=False)
    assert list(taken["stages"]) == ["fine-tuning"]
    (row,) = sizing._beside(taken, taken, overrides)
    assert taken["completion_tokens"] == pytest.approx(16, abs=1)
    assert row["estimated_tokens"] == pytest.approx(row["tokens"], rel=0.1)
    # of the products with weights torch counts all but the table of embeddings, which is looked up
    embedded = 400 * 64 / sum(weight.numel() for weight in _weights(policy))
    assert row["flops"] / row["estimated_flops"] == pytest.approx(1 - embedded, abs=0.25)
    assert row["bytes"] > 0
    assert len(sizing._line({"way": "sft", **row})) > 80


def _weights(policy):
    from bench.models import loading

    return list(loading.load_model(policy).parameters())
