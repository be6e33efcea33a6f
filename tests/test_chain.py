"""chain.json: what was made from what, by names that two runs share where they share the thing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.artifacts import Policy, Prompts, Rewards
from bench.evaluation.heldout import Graded
from bench.generation.transformers_engine import generate
from bench.models import loading
from bench.procedures import artifact_graph
from bench.procedures.findings import Results
from bench.selection import top_k_per_prompt, top_per_prompt
from bench.store import Store, stage, using

SAMPLER = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "seed": 0}


@stage(version=1, load=loading.folder)
def copied(policy: Policy, *, epochs: int, out: Path) -> dict[str, float]:
    """Stands for training: another policy in the store."""
    shutil.copytree(policy.path, out, dirs_exist_ok=True)
    (out / "train_log.json").write_text(str(epochs))
    return {"steps": epochs}


def written(
    folder: Path, store: Path, base: Policy, prompts: Prompts, *, num_completions: int, selection=top_per_prompt
) -> tuple[dict[str, dict], Results]:
    """The links by role and type of a run as small as they come, and what it held."""
    folder.mkdir()
    with using(Store(store)) as opened:
        pool = generate(prompts, base, num_completions=num_completions, block_size=2, shard_size=4, **SAMPLER)
        reward = np.arange(pool.logprob.size, dtype=float).reshape(pool.shape)
        reward[0] = np.nan
        chosen = selection(reward, np.random.default_rng(0))
        tuned = copied(base, epochs=2)
        results = Results(
            train=prompts,
            pool=pool,
            rewards=Rewards(reward),
            prompts_filtered=0,
            selections={"tuned": chosen},
            policies={"base": base, "tuned": tuned},
            split="test",
            test=prompts,
            outcomes={},
            best_of_n=Graded(pool, reward, reward, reward, reward),
        )
        graph = artifact_graph.ArtifactGraph(folder, prompts.id, opened.uses, opened.root)
        results.findings.add_to(graph, results)
        graph.write()
    links = json.loads((folder / "chain.json").read_text())
    return {f"{link['type']} {link['role']}": link for link in links}, results


@pytest.fixture
def links(tmp_path, random_policy, few_prompts):
    return written(tmp_path / "run", tmp_path / "store", random_policy, few_prompts, num_completions=3)


def test_each_link_names_its_parents(links):
    found, results = links
    names = {role: link["name"] for role, link in found.items()}
    assert list(names) == ["policy base", "pool train", "rewards train", "selection tuned", "policy tuned"]
    assert names["policy base"] == f"policy-{results.policies['base'].fingerprint}"
    assert {role: link["parents"] for role, link in found.items()} == {
        "policy base": [],
        "pool train": [names["policy base"]],
        "rewards train": [names["pool train"]],
        "selection tuned": [names["rewards train"]],
        "policy tuned": [names["policy base"], names["selection tuned"]],
    }


def test_what_was_made_is_told_from_what_was_there(links, tmp_path, random_policy, few_prompts):
    first, _ = links
    assert {role for role, link in first.items() if link["reused"]} == {"policy base"}  # given, not made
    again, _ = written(tmp_path / "again", tmp_path / "store", random_policy, few_prompts, num_completions=3)
    assert {role: link["name"] for role, link in again.items()} == {role: link["name"] for role, link in first.items()}
    assert {role for role, link in again.items() if link["reused"]} == {"policy base", "pool train", "policy tuned"}
    more, _ = written(tmp_path / "more", tmp_path / "store", random_policy, few_prompts, num_completions=5)
    assert not more["pool train"]["reused"]  # a part of it was drawn now
    assert more["pool train"]["name"] != first["pool train"]["name"]


def test_another_selection_shares_the_pool_and_the_rewards(links, tmp_path, random_policy, few_prompts):
    first, _ = links

    def two(rewards, rng):
        return top_k_per_prompt(rewards, rng, k=2)

    other, _ = written(
        tmp_path / "other", tmp_path / "store", random_policy, few_prompts, num_completions=3, selection=two
    )
    for role in ("pool train", "rewards train"):
        assert other[role]["name"] == first[role]["name"]
    assert other["selection tuned"]["name"] != first["selection tuned"]["name"]


def test_the_files_are_where_the_chain_says(links, tmp_path):
    found, results = links
    files = {
        role: {name: tmp_path / "run" / path for name, path in link["files"].items()} for role, link in found.items()
    }
    assert all(path.is_file() for paths in files.values() for path in paths.values())
    assert len(files["pool train"]) == 4  # 7 prompts in shards of 4, 3 samples in blocks of 2
    assert {path.suffix for path in files["pool train"].values()} == {".parquet"}
    assert {"config.json", "model.safetensors", "train_log.json"} <= set(files["policy tuned"])
    assert found["policy tuned"]["settings"] == {"epochs": 2}
    assert found["pool train"]["settings"] == {**SAMPLER, "top_k": 0, "block_size": 2, "num_completions": 3} | {
        name: found["pool train"]["settings"][name] for name in ("engine", "dtype")
    }
    rewards = pq.read_table(files["rewards train"]["rewards.parquet"]).to_pylist()
    value = results.rewards.value
    for i, row in enumerate(rewards):
        assert (row["prompt_id"], row["sample"]) == (f"p{i // 3}", i % 3)
        np.testing.assert_equal(row["reward"], value[i // 3, i % 3])
    assert len(rewards) == value.size
    chosen = pq.read_table(files["selection tuned"]["selection_tuned.parquet"]).to_pylist()
    # the best of each prompt but the first, which was not scored, is its last sample
    assert chosen == [
        {"prompt_id": f"p{row}", "sample": 2, "weight": 1.0, "reward": float(3 * row + 2)} for row in range(1, 7)
    ]
