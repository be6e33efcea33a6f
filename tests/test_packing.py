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
from bench.training.packing import of_examples, packed, refuse_where_examples_meet
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
    ours, theirs = (tune(packing=packing, micro_batch_size=micro_batch_size) for packing in (True, False))
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


@pytest.mark.parametrize("family", ["qwen_3", "gemma_3", "olmo_2"])
def test_the_gradient_of_every_weight_is_that_of_the_examples_one_by_one(family, tmp_path):
    model = loading.load_model(make(family, tmp_path / family))
    gradients = []
    for batch in (packed(_rows()), None):
        model.zero_grad()
        if batch is None:
            losses = [
                row["weight"] * _nll(model, torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]]))
                for row in _rows()
            ]
        else:
            losses = [batch["weight"] @ _nlls(model, batch)]
        sum(losses).backward()
        gradients.append([float(sum(losses)), *(weight.grad.clone() for weight in model.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for ours, theirs in zip(gradients[0][1:], gradients[1][1:], strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max()) + 1e-7


def _nlls(model, batch) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
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


def test_attention_that_sees_the_example_before_is_refused(stopping_policy, monkeypatch):
    model = loading.load_model(stopping_policy)
    refuse_where_examples_meet(model)  # as it is, it may be packed
    forward = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda input_ids, position_ids, **rest: forward(input_ids=input_ids, **rest)
    )
    with pytest.raises(BenchError, match=r"training\.packing=true is not allowed with llama models"):
        refuse_where_examples_meet(model)
