"""Packed training is the padded one: the same loss, the same gradient, and no example that sees another."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from drawing import generate
from families import make

from bench.artifacts import Policy, Selection
from bench.errors import BenchError
from bench.models import loading
from bench.store import Store, using
from bench.training import packed_attention
from bench.training.packing import attention, inputs, of_examples, packed, packs, refuse_where_examples_meet
from bench.training.sft import fine_tune, training_log

CELLS = Selection(np.arange(7), np.array([0, 1, 0, 1, 0, 1, 0]), np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0]))


@pytest.fixture
def tune(few_prompts, stopping_policy, store, tmp_path) -> Callable[..., Policy]:
    """In a store of its own, so that nothing is found ready."""
    pool = generate(few_prompts, stopping_policy, num_completions=2)
    stores = iter(range(100))

    def call(**settings) -> Policy:
        with using(Store(tmp_path / f"store{next(stores)}")):
            return fine_tune(
                stopping_policy,
                few_prompts,
                pool,
                CELLS,
                **{"epochs": 2, "batch_size": 4, "scheduler": "constant", "warmup": 0.0, "seed": 0, **settings},
            )

    return call


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_packed_updates_are_the_padded_ones(tune, micro_batch_size):
    ours = tune(packing=True, micro_batch_size=micro_batch_size, gradient_checkpointing=micro_batch_size is None)
    theirs = tune(packing=False, micro_batch_size=micro_batch_size)
    for name in ("loss", "grad_norm"):
        values = [[update[name] for update in training_log(policy)] for policy in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
        assert len(set(values[0])) == 4
    state = loading.load_model(theirs).state_dict()
    for name, weight in loading.load_model(ours).state_dict().items():
        assert float((weight - state[name]).abs().mean()) < 1e-6


@pytest.mark.parametrize(("packing", "backward"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("given", [None, 2])
def test_examples_that_do_not_fit_the_gpu_are_trained_on_in_smaller_batches(tune, packing, backward, given, memory_for):
    by_hand = tune(micro_batch_size=1, packing=packing)
    refused = memory_for(1, backward=backward)
    found = tune(micro_batch_size=given, packing=packing)
    assert refused == ([4, 2] if given is None else [2])  # once: later updates begin in small parts
    for name in ("loss", "grad_norm"):
        values = [[update[name] for update in training_log(policy)] for policy in (found, by_hand)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    state = loading.load_model(by_hand).state_dict()
    for name, weight in loading.load_model(found).state_dict().items():
        assert float((weight - state[name]).abs().mean()) < 1e-6


def test_an_example_that_does_not_fit_the_gpu_alone_is_refused(tune, memory_for):
    memory_for(0)
    with pytest.raises(BenchError, match=r"one example at a time: set training\.gradient_checkpointing=true"):
        tune()


def _rows() -> list[dict]:
    """Three examples; the second begins with a token that carries loss, which nothing foretells."""
    return [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8], "weight": 1.0},
        {"input_ids": [9, 10], "labels": [9, 10], "weight": 2.0},
        {"input_ids": [11, 12, 13], "labels": [-100, 12, 13], "weight": 0.5},
    ]


def test_one_row_holds_all_examples_and_knows_whose_each_token_is():
    batch = packed(_rows())
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, -100, 10, -100, 12, 13]]
    assert batch["owner"].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    counted = (batch["labels"][:, 1:] != -100).float()
    assert of_examples(batch, counted).tolist() == [2, 1, 2]


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("family", ["qwen_3", "gemma_3", "olmo_2"])
def test_the_gradient_of_every_weight_is_that_of_the_examples_one_by_one(family, within, tmp_path, monkeypatch):
    model = loading.load_model(make(family, tmp_path / family))
    assert packed_attention.supported(model)
    if not within:  # a model that chooses its own attention gets a mask
        monkeypatch.setattr(packed_attention, "supported", lambda model: False)
    gradients = []
    for batch in (packed(_rows()), None):
        model.zero_grad()
        if batch is None:
            losses = [
                row["weight"] * _nll(model, torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]]))
                for row in _rows()
            ]
        else:
            with attention(model):
                losses = [batch["weight"] @ _nlls(model, batch)]
        sum(losses).backward()
        gradients.append([float(sum(losses)), *(weight.grad.clone() for weight in model.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for ours, theirs in zip(gradients[0][1:], gradients[1][1:], strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max()) + 1e-7


def _nlls(model, batch) -> torch.Tensor:
    read = {name: value for name, value in inputs(model, batch).items() if name != "labels"}
    logits = model(**read, use_cache=False).logits
    labels = batch["labels"][:, 1:]
    values = -logits[:, :-1].log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return of_examples(batch, values * (labels != -100))


def _nll(model, ids, labels) -> torch.Tensor:
    logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    kept = labels[0, 1:] != -100
    return -logits.gather(1, ids[0, 1:, None])[kept].sum()


def test_models_that_pass_a_state_on_are_refused():
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=60, hidden_size=16, state_size=4, num_hidden_layers=1)
        model = MambaForCausalLM(config)
    with pytest.raises(BenchError, match=r"training\.packing=true is not allowed with mamba models"):
        refuse_where_examples_meet(model)


@pytest.mark.parametrize("how", ["a mask", "one example"])
def test_attention_that_sees_the_example_before_is_refused(stopping_policy, monkeypatch, how):
    model = loading.load_model(stopping_policy)
    refuse_where_examples_meet(model)  # as it is, it may be packed
    if how == "a mask":  # which is made from the positions
        monkeypatch.setattr(packed_attention, "supported", lambda model: False)
        forward = model.model.forward
        monkeypatch.setattr(
            model.model, "forward", lambda input_ids, position_ids, **rest: forward(input_ids=input_ids, **rest)
        )
    else:
        monkeypatch.setattr(packed_attention, "lengths", lambda owner: (torch.tensor([0, len(owner)]), [len(owner)]))
    with pytest.raises(BenchError, match=r"training\.packing=true is not allowed with llama models"):
        refuse_where_examples_meet(model)
    monkeypatch.setattr("bench.training.packing.device", lambda: "cuda")
    assert not packs(model, None)
    assert model.config._attn_implementation == "sdpa"


def test_a_gpu_packs_by_default_what_it_may(stopping_policy, monkeypatch):
    model = loading.load_model(stopping_policy)
    assert [packs(model, asked) for asked in (None, False, True)] == [False, False, True]
    monkeypatch.setattr("bench.training.packing.device", lambda: "cuda")
    assert [packs(model, asked) for asked in (None, False, True)] == [True, False, True]
    model.set_attn_implementation("eager")  # with a mask of the row's length squared
    assert [packs(model, asked) for asked in (None, False, True)] == [False, False, True]


LENGTHS = [5, 1, 9, 4]


@pytest.fixture
def flash(monkeypatch) -> list[tuple]:
    """In place of a GPU's kernel, its numbers by dense masks; the windows that it was called with."""
    calls: list[tuple] = []

    def varlen_attn(query, key, value, ends, ends_of_keys, longest, longest_key, *, scale, window_size):
        assert query.is_contiguous()
        assert torch.equal(ends, ends_of_keys)
        assert ends.dtype == torch.int32
        assert longest == longest_key == int(ends.diff().max())
        owner = torch.arange(len(ends) - 1).repeat_interleave(ends.diff())
        back = torch.arange(len(owner))[:, None] - torch.arange(len(owner))
        left, right = window_size
        seen = (owner[:, None] == owner) & (back >= -right) & ((back <= left) | (left < 0))
        scores = torch.einsum("qhd,khd->hqk", query, key) * (query.shape[2] ** -0.5 if scale is None else scale)
        calls.append(window_size)
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(packed_attention, "has_kernel", lambda query, value: True)
    return calls


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("window", "left"), [(None, -1), (3, 2), (9, 8)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_within_examples_is_that_of_each_example_alone(kernel, window, left, scaling, request):
    calls = request.getfixturevalue("flash") if kernel else []
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, sum(LENGTHS), 8, generator=draw)
    key, value = torch.randn(2, 1, 2, sum(LENGTHS), 8, generator=draw)
    examples = packed_attention.lengths(torch.arange(4).repeat_interleave(torch.tensor(LENGTHS)))
    assert examples[0].tolist() == [0, 5, 6, 15, 19]
    assert examples[1] == LENGTHS
    found, _ = packed_attention.attend(
        torch.nn.Module(), query, key, value, None, scaling=scaling, sliding_window=window, examples=examples
    )
    assert calls == [(left, 0)] * kernel
    scale = 8**-0.5 if scaling is None else scaling
    for begin, end in zip(examples[0], examples[0][1:], strict=False):
        for t in range(begin, end):
            first = begin if window is None else max(begin, t - window + 1)
            for head in range(4):
                seen = slice(first, t + 1)
                weights = (key[0, head // 2, seen] @ query[0, head, t] * scale).softmax(0)
                expected = weights @ value[0, head // 2, seen]
                assert torch.allclose(found[0, t, head], expected, atol=1e-5)


def test_training_with_the_kernel_of_a_gpu_makes_the_same_updates(tune, request):
    padded = training_log(tune(packing=False))
    calls = request.getfixturevalue("flash")
    kernel = training_log(tune(packing=True))
    assert set(calls) == {(-1, 0)}
    for name in ("loss", "grad_norm"):
        assert [update[name] for update in kernel] == pytest.approx([update[name] for update in padded], rel=1e-4)


def test_what_attention_within_examples_does_not_know_is_an_error():
    query, examples = torch.zeros(1, 1, 3, 8), (torch.tensor([0, 3]), [3])
    with pytest.raises(TypeError, match="does not know softcap"):
        packed_attention.attend(torch.nn.Module(), query, query, query, None, examples=examples, softcap=50.0)
    with pytest.raises(TypeError, match="does not know masks"):
        packed_attention.attend(torch.nn.Module(), query, query, query, torch.ones(1, 1, 3, 3), examples=examples)
