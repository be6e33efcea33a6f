"""Pools that nest: extension, prefixes, kills and streams; every one compared with drawing at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawing import asking, generate, ids, same

from bench.artifacts import Completions, Prompts
from bench.errors import BenchError
from bench.generation import transformers_engine
from bench.generation.pool import describe
from bench.models import chat, loading
from bench.store import Store, using


def built(store: Store) -> list[str]:
    return [f"{use.key}/{use.part}" for use in store.uses if not use.reused]


def unit_keys(pool: Completions) -> list[str]:
    return [unit.key for _, _, unit in pool.units()]


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
    places = [key.partition(":")[0] for key in unit_keys(at_once)]
    damaged = places[3]  # the first block of the second shard
    shutil.rmtree(store.root / "generate" / damaged)
    before = len(store.uses)
    grown = generate(few_prompts, random_policy, num_completions=6)
    assert same(grown, at_once)
    assert grown.key == at_once.key
    made = [f"{use.key}/{use.part}" for use in store.uses[before:] if not use.reused]
    assert made == [place for place in places if place == damaged or place.endswith("/00002")]
    assert len(made) == 4
    files = [
        sorted(path.relative_to(place.root) for path in place.root.rglob("*.parquet")) for place in (store, another)
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 9
    assert all((store.root / file).read_bytes() == (another.root / file).read_bytes() for file in files[0])


def test_fewer_samples_are_a_prefix_and_draw_nothing(random_policy, few_prompts, store, monkeypatch):
    large = generate(few_prompts, random_policy, num_completions=8)
    monkeypatch.setattr(loading, "load_model", None)  # a loaded model would now be an error
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
    assert len(built(store)) == 3  # one per shard


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
    tokenizer = loading.load_tokenizer(random_policy)
    read = sum(len(chat.encode(tokenizer, messages)) for messages in few_prompts.messages)
    parameters = loading.load_model(random_policy).num_parameters()
    written = drawn.length.sum()
    expected = {"prompt_tokens": read, "generated_tokens": written, "flops": 2 * parameters * (read + written)}
    assert {name: sum(use.counts[name] for use in store.uses) for name in expected} == expected


def test_a_shard_drawn_alone_is_the_one_that_the_whole_pool_has(random_policy, few_prompts, store, monkeypatch):
    second = generate(few_prompts[3:6], random_policy)
    whole = generate(few_prompts, random_policy)
    assert len(built(store)) == 6
    assert same(second, whole_rows(whole, 3, 6))
    monkeypatch.setattr(loading, "load_model", None)
    assert same(generate(few_prompts[0:3], random_policy), whole_rows(whole, 0, 3))


def whole_rows(pool: Completions, start: int, stop: int) -> Completions:
    columns = (pool.text, pool.token_ids, pool.finish_reason, pool.logprob, pool.policy_logprob)
    return Completions(*(np.asarray(column)[start:stop] for column in columns), key="")


def test_a_pool_is_read_by_row_by_cell_by_shard_and_by_unit(random_policy, few_prompts, store):
    pool = generate(few_prompts, random_policy, num_completions=5)
    text = np.asarray(pool.text)
    assert text.shape == pool.shape == pool.text.shape == (7, 5)
    assert all((pool.text[row] == text[row]).all() for row in (0, 6, 3, -1))
    assert [[pool.text[row, column] for column in range(5)] for row in range(7)] == text.tolist()
    shards = list(pool.shards())
    assert [(rows.start, rows.stop, part.shape) for rows, part in shards] == [
        (0, 3, (3, 5)),
        (3, 6, (3, 5)),
        (6, 7, (1, 5)),
    ]
    assert np.concatenate([part.text for _, part in shards]).tolist() == text.tolist()
    assert np.concatenate([part.length for _, part in shards]).tolist() == pool.length.tolist()
    rebuilt = np.full(pool.shape, None, object)
    for rows, columns, unit in pool.units():
        assert unit.logprob.tolist() == pool.logprob[rows, columns].tolist()
        rebuilt[rows, columns] = unit.text
    assert rebuilt.tolist() == text.tolist()
    assert len(set(unit_keys(pool))) == 9
    assert [key for key in unit_keys(pool) if "[" in key] == [key for key in unit_keys(pool) if key.endswith("[:1]")]
    assert set(unit_keys(pool.first(4))) < set(unit_keys(generate(few_prompts, random_policy, num_completions=8)))
    with pytest.raises(TypeError, match="shards"):
        pool.text[0:2]
    with pytest.raises(IndexError):
        pool.text[7]


def test_twins_are_expected_as_often_as_independent_samples_make_them(random_policy, few_prompts, store):
    found = describe(generate(few_prompts, random_policy, num_completions=200, max_new_tokens=1, block_size=100))
    assert found["twins_expected"] > 500
    assert found["twins"] == pytest.approx(found["twins_expected"], rel=0.1)
    assert not found["twins_alarm"]


def test_a_unit_drawn_otherwise_has_another_key(random_policy, few_prompts, store, monkeypatch):
    pool = generate(few_prompts, random_policy)
    sample = transformers_engine.TransformersEngine.sample

    def otherwise(self, *args, **settings):
        drawn, counts = sample(self, *args, **settings)
        drawn.text[0, 0] += "!"
        return drawn, counts

    damaged = next(iter(sorted(pool.stored_as)))
    (store.root / "generate" / damaged / "completions.parquet").write_bytes(b"")
    monkeypatch.setattr(transformers_engine.TransformersEngine, "sample", otherwise)
    again = generate(few_prompts, random_policy)
    assert again.stored_as == pool.stored_as
    assert len(set(unit_keys(again)) - set(unit_keys(pool))) == 1
    assert again.key != pool.key
    assert again.first(1).key != pool.first(1).key or damaged not in again.first(1).stored_as
