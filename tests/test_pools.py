"""Pools of placed blocks: side by side, stopped, scattered and re-encoded; their keys; counts of equal samples."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from drawing import pool_of

from bench.artifacts import HASHED, Completions, content_hash
from bench.blocks import Placement, scattered, side_by_side, stopped, stored, with_token_ids
from bench.generation.pool import FILE, Unit, describe, expected_twins, twins_alarm, write_unit


def test_pools_side_by_side_are_read_like_one():
    one, two = pool_of([["a", "bb"], ["c", "a"]], "one"), pool_of([["a"], ["dddd"]], "two", logprob=-3.0)
    both = side_by_side([one, two])
    assert both.shape == (2, 3)
    assert [both.text[1, column] for column in range(3)] == ["c", "a", "dddd"]
    assert both.text[1, -1] == "dddd"
    assert list(both.text[0]) == ["a", "bb", "a"]
    assert np.asarray(both.text).tolist() == [["a", "bb", "a"], ["c", "a", "dddd"]]
    assert both.length.tolist() == [[1, 2, 1], [1, 1, 4]]
    assert both.logprob.tolist() == [[-1, -1, -3]] * 2
    assert both.policy_logprob.tolist() == [[-2, -2, -6]] * 2
    assert both.token_ids[0, 2].tolist() == [ord("a")]
    ((rows, part),) = both.shards()
    assert (rows, part.text[1, 2]) == (slice(0, 2), "dddd")
    assert [columns for _, columns, _ in both.units()] == [slice(0, 2), slice(2, 3)]
    assert both.first(2).text is one.text
    assert both.first(3).shape == (2, 3)
    with pytest.raises(IndexError):
        both.text[0, 3]
    assert side_by_side([one]) is one
    assert both.key != side_by_side([two, one]).key
    assert both.stored_as == {"one", "two"}
    with pytest.raises(ValueError, match="prompts"):
        side_by_side([one, pool_of([["a"]])])


def test_equal_samples_of_two_policies_are_no_pair():
    """The first prompt's three samples are one text: one pair within the first pool, none across the two."""
    assert describe(side_by_side([pool_of([["a", "a"]], "one"), pool_of([["a"]], "two")]))["twins"] == 1
    assert describe(pool_of([["a", "a", "a"]]))["twins"] == 3


def test_scattered_pools_are_blank_where_nothing_was_drawn():
    both = scattered([(np.array([2]), pool_of([["c", "cc"]], "one")), (np.array([0]), pool_of([["a", "b"]], "two"))], 4)
    assert np.asarray(both.text).tolist() == [["a", "b"], ["", ""], ["c", "cc"], ["", ""]]
    assert both.length.tolist() == [[1, 1], [0, 0], [1, 2], [0, 0]]
    assert (both.finish_reason == "").tolist() == [[False] * 2, [True] * 2] * 2
    assert np.isnan(both.logprob[1]).all()
    assert (both.policy_logprob[2] == -2).all()
    assert both.stored_as == {"one", "two"}
    for parts in (
        [(np.array([0]), pool_of([["a"]], "k"))] * 2,
        [(np.array([i]), pool_of([["a"] * (i + 1)], "k")) for i in (0, 1)],
    ):
        with pytest.raises(ValueError, match="fits once"):
            scattered(parts, 3)


def test_the_pieces_of_a_stopped_pool_must_follow_on_another():
    everyone, first = np.arange(7), pool_of([["a", "b"]] * 7)
    with pytest.raises(ValueError, match="piece 1 starts at sample 3"):
        stopped([Placement(everyone, 0, first), Placement(everyone, 3, first)], 7, always=2)
    with pytest.raises(ValueError, match="always=3"):
        stopped([Placement(everyone, 0, first)], 7, always=3)


def test_the_keys_of_pools_stay(tmp_path: Path):
    """What lies in a store is found by them: another key draws, scores and trains all anew."""

    def unit(start: int, rows: int, block: int) -> tuple[slice, int, Unit]:
        folder = tmp_path / f"shard{start}" / f"{block:05d}"
        folder.mkdir(parents=True)
        write_unit(pool_of([["x", "x"]] * rows), folder / FILE)
        return slice(start, start + rows), 2 * block, Unit(folder, f"content{block}", rows, 2, 2)

    whole = stored([unit(start, rows, block) for start, rows in ((0, 2), (2, 1)) for block in (0, 1)])
    other, more = pool_of([["x", "x"]] * 3, "other"), pool_of([["x"]] * 2, "more")
    beside = side_by_side([whole, other])
    encoded = with_token_ids(other, other.token_ids, content_hash("other", "reader"))
    some = stopped([Placement(np.arange(3), 0, other), Placement(np.array([0, 2]), 2, more)], 3, always=2)
    parts = [(np.array([row]), pool_of([["x", "x"]], key)) for row, key in ((2, "a"), (0, "b"))]
    assert whole.key == "85019ea68bc4c20c964c[:4]"
    assert whole.first(3).key == beside.first(3).key == "606ac8833abb6b37dd83[:3]"
    assert [unit.key for _, _, unit in whole.first(3).units()] == [
        *("shard0/00000:content0", "shard0/00001:content1[:1]", "shard2/00000:content0", "shard2/00001:content1[:1]")
    ]
    assert (beside.key, beside.first(5).key) == ("14bb995af7537fc05fce", "6d3dfd331e206346bace")
    assert (encoded.key, encoded.first(1).key) == ("3f178a2c1681454d7822", "c9544e3c2335168a45fc")
    assert (some.key, some.first(1).key) == ("b15db47fe0ccdd492b67", "other[:1]")
    assert scattered(parts, 4).key == "8f5e359f2b44f564f62d"


def test_describe_counts_by_hand():
    token_ids = np.empty((2, 3), object)
    for cell, content in zip(np.ndindex(2, 3), ([5, 2], [5, 2], [6], [2], [7, 8, 9], [7, 8]), strict=True):
        token_ids[cell] = np.array(content, np.int32)
    reasons = np.array([["stop", "stop", "length"], ["stop", "length", "length"]])
    texts = np.array([["a", "a", " "], ["", "b", "c"]], object)
    found = describe(Completions(texts, token_ids, reasons, np.full((2, 3), -np.inf), np.zeros((2, 3)), key=""))
    assert found["truncated"] == 3
    assert found["empty"] == 2
    assert found["duplicate_share"] == pytest.approx(1 / 6)
    assert found["twins"] == 1
    assert found["mean_length"] == pytest.approx(11 / 6)


@pytest.mark.parametrize("prompts", [3, 60])
def test_the_twins_alarm_rings_where_two_blocks_share_their_streams_and_not_by_chance(prompts):
    rng = np.random.default_rng(0)
    rings = {"independent": 0, "shared": 0}
    for _ in range(200):
        probability = rng.dirichlet(np.full(50, rng.choice([0.02, 0.2, 2.0])), size=prompts)  # [M, V]
        for name in rings:
            drawn = np.stack([rng.choice(50, size=16, p=row) for row in probability])
            if name == "shared":
                drawn[:, 8:] = drawn[:, :8]
            observed = (drawn[:, :, None] == drawn[:, None, :]).sum(axis=(1, 2)) / 2 - 8
            with np.errstate(divide="ignore"):
                logprob = np.log(np.take_along_axis(probability, drawn, axis=1))
            rings[name] += twins_alarm(observed, *expected_twins(logprob))
    assert rings["independent"] <= 1
    assert rings["shared"] > (120 if prompts == 60 else 40)  # where samples are all but certain, sharing shows little


def test_the_twins_alarm_rings_for_few_prompts_and_not_for_certain_samples():
    never, certain = np.full((1, 64), -50.0), np.full((600, 4), -1e-9)
    assert twins_alarm(np.array([64 * 63 / 2]), *expected_twins(never))
    assert not twins_alarm(np.full(600, 6.0), *expected_twins(certain))


def test_the_moments_of_twins_are_those_of_every_draw():
    probability = np.array([0.5, 0.3, 0.2])
    draws = np.array(list(itertools.product(range(3), repeat=4)))
    weight = probability[draws].prod(axis=1)
    pairs = (draws[:, :, None] == draws[:, None, :]).sum(axis=(1, 2)) / 2 - 2
    mean = (weight * pairs).sum()
    expected, variance = expected_twins(np.log(probability[draws]))
    assert (weight * expected).sum() == pytest.approx(mean)
    second, third = (probability**2).sum(), (probability**3).sum()
    exact = 6 * (second - second**2) + 24 * (third - second**2)
    assert (weight * (pairs - mean) ** 2).sum() == pytest.approx(exact)
    assert (weight * variance).sum() == pytest.approx(exact, rel=0.2)  # squares of estimates are biased a little


@pytest.mark.parametrize("count", [0, 1, HASHED, HASHED + 1, 2 * HASHED + 3])
def test_the_hash_of_a_long_list_is_that_of_its_whole_json(count: int):
    for value in ([["é", {"b": None, "a": 0.5}]] * count, tuple(map(str, range(count)))):
        whole = json.dumps(value, sort_keys=True, ensure_ascii=False).encode() + b"\0"
        assert content_hash(value) == hashlib.blake2b(whole, digest_size=10).hexdigest()
