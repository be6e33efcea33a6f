"""What a GPU computes is what a CPU computes, within the tolerances stated here. None was measured on a GPU yet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import generate, ids

from bench import devices
from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.models.logprobs import divergence_samples, sequence_logprobs
from bench.models.sampler import RAW
from bench.store import Store, using
from bench.training.sft import fine_tune, training_log

pytestmark = pytest.mark.cuda
PER_TOKEN = {"float32": 1e-4, "bfloat16": 0.1}  # nats, the mean distance from float32 on a CPU
LOSS = {"float32": 1e-3, "bfloat16": 0.05}  # relative
EQUAL_SAMPLES = 0.9  # share; one near a boundary may become another, in float32


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Call a function with the GPU hidden, in a store of its own."""

    def call(function: Callable[..., object], *given: object, **settings: object) -> object:
        with monkeypatch.context() as hidden, using(Store(tmp_path / "of the CPU")):
            hidden.setenv("CUDA_VISIBLE_DEVICES", "")
            return function(*given, **settings)

    return call


@pytest.fixture
def pool(on_cpu, few_prompts: Prompts, random_policy: Policy) -> Completions:
    return on_cpu(generate, few_prompts, random_policy, num_completions=4)


@pytest.mark.parametrize("batch_tokens", [None, 100])
def test_samples_are_those_of_a_cpu(store, pool, few_prompts, random_policy, batch_tokens):
    drawn = generate(few_prompts, random_policy, num_completions=4, batch_tokens=batch_tokens)
    equal = np.array([[a == b for a, b in zip(*rows, strict=True)] for rows in zip(ids(drawn), ids(pool), strict=True)])
    assert equal.mean() >= EQUAL_SAMPLES
    for name in ("logprob", "policy_logprob"):
        apart = np.abs(getattr(drawn, name) - getattr(pool, name))[equal]
        assert (apart / pool.length[equal]).mean() < PER_TOKEN["float32"]


@pytest.mark.parametrize("dtype", PER_TOKEN)
def test_a_samples_own_log_probability_is_that_of_a_forward_on_a_cpu(store, on_cpu, few_prompts, random_policy, dtype):
    drawn = generate(few_prompts, random_policy, num_completions=4, dtype=dtype)
    expected = on_cpu(sequence_logprobs, random_policy, few_prompts, drawn, RAW)
    assert (np.abs(drawn.policy_logprob - expected) / drawn.length).mean() < PER_TOKEN[dtype]


@pytest.mark.parametrize("dtype", PER_TOKEN)
def test_distances_are_those_of_a_cpu(store, on_cpu, pool, few_prompts, random_policy, stopping_policy, dtype):
    given = (random_policy, stopping_policy, few_prompts, pool)
    found = divergence_samples(*given, temperature=0.8, top_p=1.0, dtype=dtype)
    expected = on_cpu(divergence_samples, *given, temperature=0.8, top_p=1.0, dtype="float32")
    for name in ("rao_blackwell", "k1"):
        apart = np.abs(getattr(found, name) - getattr(expected, name)) / pool.length
        assert apart.mean() < PER_TOKEN[dtype]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("precision", LOSS)
def test_a_training_is_that_of_a_cpu(store, on_cpu, pool, few_prompts, random_policy, precision, packing):
    chosen = Selection(np.arange(7), np.zeros(7, int), np.ones(7))
    given = {"epochs": 2, "batch_size": 4, "packing": packing, "seed": 0}
    tuned = fine_tune(random_policy, few_prompts, pool, chosen, precision=precision, **given)
    expected = on_cpu(fine_tune, random_policy, few_prompts, pool, chosen, precision="float32", **given)
    losses = [[update["loss"] for update in training_log(policy)] for policy in (tuned, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=LOSS[precision])


def test_what_does_not_fit_is_halved_until_it_does():
    free = torch.cuda.mem_get_info()[0]
    halving = devices.Halving("tensor", "use another GPU")
    taken = halving.each(
        lambda part: len(torch.empty(len(part) * free // 3, dtype=torch.uint8, device="cuda")), ["abcd"]
    )
    assert [part for part, _ in taken] == ["ab", "cd"]
    assert 1 <= devices.that_fit(0, 1.0, 2**50) <= free
