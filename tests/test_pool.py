"""Pools that nest: extension, prefixes, kills and streams; every one compared with drawing at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawing import asking, generate, ids, same

from bench import chat, policies
from bench.artifacts import Completions, Prompts
from bench.errors import BenchError
from bench.generation import pool as pools
from bench.generation import transformers_engine
from bench.store import Store, using


def built(store: Store) -> list[str]:
    return [use.part for use in store.uses if not use.reused]


@pytest.fixture
def another(tmp_path: Path) -> Store:
    """A second, empty store; `using` it inside a test shows what drawing afresh gives."""
    return Store(tmp_path / "another")


def test_equal_seeds_repeat_and_others_do_not(random_policy, few_prompts, store, another):
    first = generate(few_prompts, random_policy, seed=3)
    with using(another):
        assert same(first, generate(few_prompts, random_policy, seed=3))
        assert ids(first) != ids(generate(few_prompts, random_policy, seed=4))


def test_a_pool_extended_is_the_pool_drawn_at_once(random_policy, few_prompts, store, another):
    with using(another):
        at_once = generate(few_prompts, random_policy, num_completions=6)
    generate(few_prompts, random_policy, num_completions=2)
    generate(few_prompts, random_policy, num_completions=3)  # rounded up to two blocks
    shutil.rmtree(next(store.root.glob("generate/*/00001-00000")))
    before = len(store.uses)
    grown = generate(few_prompts, random_policy, num_completions=6)
    assert same(grown, at_once)
    assert grown.key == at_once.key
    made = [use.part for use in store.uses[before:] if not use.reused]
    assert sorted(made) == ["00000-00002", "00001-00000", "00001-00002", "00002-00002"]
    files = [
        sorted(path.relative_to(place.root) for path in place.root.rglob("*.parquet")) for place in (store, another)
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 9
    assert all((store.root / file).read_bytes() == (another.root / file).read_bytes() for file in files[0])


def test_fewer_samples_are_a_prefix_and_draw_nothing(random_policy, few_prompts, store, monkeypatch):
    large = generate(few_prompts, random_policy, num_completions=8)
    monkeypatch.setattr(policies, "load_model", None)  # a loaded model would now be an error
    for n in (1, 5, 8):
        small = generate(few_prompts, random_policy, num_completions=n)
        assert same(small, large.first(n))
        assert small.key == large.first(n).key
        assert small.shape == (7, n)
    assert len({generate(few_prompts, random_policy, num_completions=n).key for n in (1, 5, 8)}) == 3


def test_a_kill_between_units_costs_no_finished_unit(random_policy, few_prompts, store, another, monkeypatch):
    with using(another):
        undisturbed = generate(few_prompts, random_policy)
    sample, calls = transformers_engine.TransformersEngine.sample, []

    def killed(self, *args, **settings):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(transformers_engine.TransformersEngine, "sample", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(few_prompts, random_policy)
    kept = built(store)
    assert len(kept) == 3
    assert same(generate(few_prompts, random_policy), undisturbed)
    assert len(built(store)) == len(set(built(store))) == 6
    assert not list(store.root.glob("generate/*/.making*"))


def test_each_prompt_has_its_own_stream_whatever_its_company(random_policy, few_prompts, store):
    everyone = ids(generate(few_prompts, random_policy))
    order = [5, 0, 3, 6]
    some = Prompts(few_prompts.id[order], tuple(few_prompts.messages[row] for row in order), few_prompts.answer[order])
    assert ids(generate(some, random_policy)) == [everyone[row] for row in order]


def test_no_two_cells_share_a_stream(random_policy, store):
    twins = ids(generate(asking("Leo has", "Leo has"), random_policy, num_completions=40))
    cells = [cell for row in twins for cell in row]
    assert len(set(cells)) == len(cells)


def test_batches_and_shards_change_no_token(random_policy, few_prompts, store, another):
    expected = ids(generate(few_prompts, random_policy, num_completions=6))
    with using(another):
        assert ids(generate(few_prompts, random_policy, num_completions=6, batch_tokens=150)) == expected
        assert len(set(built(another))) == 9
    for block_size, shard_size in ((1, 7), (6, 2)):
        cut = generate(few_prompts, random_policy, num_completions=6, block_size=block_size, shard_size=shard_size)
        assert ids(cut) == expected


def test_many_completions_in_one_block_and_in_many(random_policy, store):
    prompts = asking("How many")
    assert generate(prompts, random_policy, num_completions=1).shape == (1, 1)
    whole = generate(prompts, random_policy, num_completions=256, block_size=256)
    assert whole.shape == (1, 256)
    assert ids(whole) == ids(generate(prompts, random_policy, num_completions=256, block_size=64))


def test_a_greedy_pool_is_one_whatever_the_seed_and_the_truncation(random_policy, few_prompts, store):
    for settings in ({}, {"seed": 5}, {"top_p": 0.5}, {"top_k": 3}, {"block_size": 8}):
        generate(few_prompts, random_policy, num_completions=1, temperature=0.0, **settings)
    assert built(store) == ["00000-00000", "00001-00000", "00002-00000"]


def test_impossible_requests_are_refused(random_policy, few_prompts, store):
    with pytest.raises(BenchError, match="num_completions=2"):
        generate(few_prompts, random_policy, num_completions=2, temperature=0.0)
    with pytest.raises(BenchError, match="num_completions=0"):
        generate(few_prompts, random_policy, num_completions=0)
    with pytest.raises((BenchError, ValueError), match="top_p=0"):
        generate(few_prompts, random_policy, top_p=0.0)
    assert store.uses == []


def test_counts_add_up_to_one_prefill_a_prompt_and_every_token(random_policy, few_prompts, store):
    drawn = generate(few_prompts, random_policy, num_completions=6)
    tokenizer = policies.load_tokenizer(random_policy)
    read = sum(len(chat.encode(tokenizer, messages)) for messages in few_prompts.messages)
    parameters = policies.load_model(random_policy).num_parameters()
    written = drawn.length.sum()
    expected = {"prompt_tokens": read, "generated_tokens": written, "flops": 2 * parameters * (read + written)}
    assert {name: sum(use.counts[name] for use in store.uses) for name in expected} == expected


def test_describe_counts_by_hand():
    token_ids = np.empty((2, 3), object)
    for cell, content in zip(np.ndindex(2, 3), ([5, 2], [5, 2], [6], [2], [7, 8, 9], [7, 8]), strict=True):
        token_ids[cell] = np.array(content, np.int32)
    reasons = np.array([["stop", "stop", "length"], ["stop", "length", "length"]])
    texts = np.array([["a", "a", " "], ["", "b", "c"]], object)
    found = pools.describe(Completions(texts, token_ids, reasons, np.zeros((2, 3)), np.zeros((2, 3)), key=""))
    assert found["truncated"] == 3
    assert found["empty"] == 2
    assert found["duplicate_share"] == pytest.approx(1 / 6)
    assert found["mean_length"] == pytest.approx(11 / 6)
