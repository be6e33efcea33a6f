"""Decoding at fixed addresses, as on a GPU, against decoding in a growing cache: equal samples, on a CPU."""

import numpy as np
import pytest
import torch
from drawing import generate, ids
from test_generation import SHARING, of_family

from bench.generation import decoding, row_memory, transformers_engine
from bench.models import kv_cache, loading, sampler
from bench.models.sampler import Sampler
from bench.store import Store, using

SAMPLERS = [Sampler(), Sampler(0.7, 0.9), Sampler(1.3, 0.8, 40), Sampler(temperature=0.0)]


class Graph:
    """In place of a CUDA graph: a step that is computed when it is replayed."""

    def __init__(self, step, pool) -> None:
        self.step, self.given_pool, self.replays = step, pool, 0

    def replay(self) -> None:
        self.replays += 1
        self.step()

    def pool(self) -> str:
        return "the pool"


@pytest.fixture
def fixed(monkeypatch) -> list[row_memory.FixedRows]:
    """The engines made in this test use fixed rows and `Graph`, in small units; their memories, in order."""
    made = []

    def for_model(model, prefill):
        made.append(row_memory.FixedRows(model, Graph))
        return made[-1]

    for name, small in (("FEWEST", 2), ("POSITIONS", 8), ("SPAN", 8)):
        monkeypatch.setattr(row_memory, name, small)
    monkeypatch.setattr(row_memory, "for_model", for_model)
    return made


@pytest.mark.parametrize("gpu_draws", [False, True])
@pytest.mark.parametrize("drawn_by", SAMPLERS)
def test_samples_are_those_of_a_growing_cache(
    stopping_policy, few_prompts, store, tmp_path, monkeypatch, request, drawn_by, gpu_draws
):
    count = 1 if drawn_by.is_greedy else 9
    settings = {**drawn_by.settings, "num_completions": count, "block_size": 3, "max_new_tokens": 30, "shard_size": 7}
    expected = generate(few_prompts, stopping_policy, **settings)
    made = request.getfixturevalue("fixed")
    if gpu_draws:
        monkeypatch.setattr(sampler, "on_cpu", lambda _: False)
    dropped = []
    drop = row_memory.FixedRows.drop
    monkeypatch.setattr(row_memory.FixedRows, "drop", lambda *given: dropped.append(drop(*given)) or dropped[-1])
    with using(Store(tmp_path / "another")):
        found = generate(few_prompts, stopping_policy, batch_tokens=700, **settings)  # several batches of other sizes
    assert ids(found) == ids(expected)
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-4)
    np.testing.assert_allclose(found.policy_logprob, expected.policy_logprob, atol=1e-4)
    graphs = [graph for graph in made[0].graphs.values() if graph is not None]
    assert graphs
    assert {graph.given_pool for graph in graphs} <= {None, "the pool"}
    if count > 1:
        assert sum(graph.replays for graph in graphs) > len(graphs) > 1
        assert any(order is not None for order in dropped)
        assert len(set(expected.length.flat)) > 3


@pytest.mark.parametrize("family", SHARING)
def test_families_agree_in_fixed_rows_or_choose_their_own_attention(random_policy, tmp_path, family):
    model = loading.load_model(of_family(family, random_policy, tmp_path))
    kv_cache.install_attention(model)
    prompts = decoding.prefill(model, [[5, 6, 7] * 9, [8, 9] * 9])
    if kv_cache.has_own_attention(model):
        assert row_memory.agree(row_memory.GrowingRows(model), row_memory.FixedRows(model, None), prompts)
    else:
        assert family in ("bloom", "xglm", "gemma2")


def test_a_model_that_computes_otherwise_in_fixed_rows_is_noticed(random_policy, monkeypatch):
    model = loading.load_model(random_policy)
    kv_cache.install_attention(model)
    prompts = decoding.prefill(model, [[5, 6, 7]])

    def agree() -> bool:
        return row_memory.agree(row_memory.GrowingRows(model), row_memory.FixedRows(model, None), prompts)

    assert agree()
    with monkeypatch.context() as patch:
        patch.setattr(kv_cache.FixedLayer, "get_mask_sizes", lambda self, query_length: (3, 0))
        assert not agree()  # an error inside the model
    monkeypatch.setattr(kv_cache.FixedLayer, "fill", lambda self, layer, copies: setattr(self, "used", layer.used))
    assert not agree()  # other logits


def test_a_step_that_cannot_be_captured_is_computed_as_it_is(random_policy, few_prompts, store, fixed, capsys):
    def refuses(step, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nat line 1")

    def for_model(model, prefill):
        return row_memory.FixedRows(model, refuses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_memory, "for_model", for_model)
        found = generate(few_prompts, random_policy)
    said = [line for line in capsys.readouterr().err.splitlines() if "captured" in line]
    assert said == [
        "The decoding step can't be captured as a CUDA graph, so it is slower: "
        "operation not permitted when stream is capturing"
    ] * len(said)
    assert said
    assert (found.length > 0).all()


def test_too_little_memory_gives_all_memory_back(random_policy, fixed):
    class OutOfMemoryError(RuntimeError):
        __module__ = "torch"

    engine = transformers_engine.TransformersEngine(random_policy, dtype="float32", batch_tokens=1000)
    rows = fixed[0]
    rows.capture = lambda step, pool: (_ for _ in ()).throw(OutOfMemoryError("of the card"))
    prompts = decoding.prefill(engine.model, [[5, 6, 7]])
    with pytest.raises(OutOfMemoryError):
        decoding.decode(
            engine.model, prompts, np.full((4, 9), 0.5), Sampler(), eos_ids=set(), advance=float, memory=rows
        )
    assert rows.capture is not None
    assert not rows.memory
    assert not rows.graphs
    assert rows.logits.numel() == 0


def test_larger_batches_drop_the_graphs_of_other_addresses(random_policy, fixed):
    engine = transformers_engine.TransformersEngine(random_policy, dtype="float32", batch_tokens=1000)
    kept = []
    for count in (4, 3, 9):
        prompts = decoding.prefill(engine.model, [[5, 6, 7]])
        drawn = decoding.decode(
            engine.model, prompts, np.full((count, 9), 0.5), Sampler(), eos_ids=set(), advance=float, memory=fixed[0]
        )
        assert len({tuple(row) for row in drawn.token_ids()}) == 1
        kept.append(set(fixed[0].graphs))
    assert kept[0] == kept[1] == {(4, 8, 16), (4, 16, 16)}  # three rows are rounded up to four
    assert kept[2] == {(10, 8, 16), (10, 16, 16)}
    engine.forget()
    assert not fixed[0].memory


def test_rows_are_rounded_to_few_numbers():
    assert [row_memory.rounded(rows) for rows in (1, 8, 9, 150, 160, 256, 257)] == [8, 8, 16, 160, 160, 256, 288]


def test_a_fixed_layer_writes_at_its_slot():
    keys, values = torch.zeros(2, 3, 1, 5, 2)
    layer = kv_cache.FixedLayer(keys, values, torch.tensor(2))
    layer.rows, layer.used = 2, 4
    seen, _ = layer.update(torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2))
    assert seen.shape == (2, 1, 4, 2)
    assert keys[:2, :, 2].eq(1).all()
    assert keys.sum() == 4
