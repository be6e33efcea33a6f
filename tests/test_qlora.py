"""QLoRA: an adapter learns on weights rounded to NF4, as a few lines of NumPy round them, and is served on exact ones.

Where bitsandbytes is installed (extra qlora).
"""

import numpy as np
import pytest
import torch
from drawing import generate, nll

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.errors import BenchError
from bench.models import chat, loading
from bench.models.logprobs import sequence_logprobs
from bench.store import Store
from bench.training.lora import Lora, trainable
from bench.training.sft import fine_tune, training_log

pytest.importorskip("bitsandbytes")

ROUNDED = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=True)
EXACT = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=False)
SETTINGS = {"epochs": 10, "batch_size": 7, "scheduler": "constant", "warmup": 0.0, "learning_rate": 1e-2, "seed": 0}
STILL = {"epochs": 1, "learning_rate": 1e-30}  # one update that changes nothing, and says the loss before it
CELLS = Selection(np.arange(7), np.zeros(7, int), np.ones(7))
BLOCK = 64  # weights that share a scale
# Quantiles of a normal distribution, scaled to [-1, 1]: Dettmers et al. 2023, appendix E.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ]
)


@pytest.fixture
def pool(few_prompts: Prompts, stopping_policy: Policy, store: Store) -> Completions:
    return generate(few_prompts, stopping_policy, num_completions=1)


def in_nf4(weight: np.ndarray) -> np.ndarray:
    """Each weight as the nearest of 16 values, in blocks of 64 along the rows that share their largest size."""
    blocks = weight.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / largest)[..., None] - NF4).argmin(axis=-1)
    return (NF4[nearest] * largest).reshape(weight.shape)


def rounded(policy: Policy, folder) -> Policy:
    """A policy whose linear layers but the head are what NF4 makes of them."""
    model = loading.load_model(policy)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                layer.weight.copy_(torch.tensor(in_nf4(layer.weight.numpy())))
    model.save_pretrained(folder)
    loading.load_tokenizer(policy).save_pretrained(folder)
    return loading.folder(folder)


def mean_nll(policy: Policy, prompts: Prompts, pool: Completions, adapter: Policy | None = None) -> float:
    """Nats per token of the completions, row by row; with another policy's adapter on top."""
    from peft import PeftModel

    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.path).eval()
    completions = [ids.tolist() for ids in np.asarray(pool.token_ids)[:, 0]]
    with torch.no_grad():
        total = sum(
            float(nll(model, chat.encode(tokenizer, messages), completion))
            for messages, completion in zip(prompts.messages, completions, strict=True)
        )
    return total / sum(map(len, completions))


def test_it_trains_on_nf4_weights_and_is_served_on_exact_ones(stopping_policy, few_prompts, pool, store, tmp_path):
    tuned = fine_tune(stopping_policy, few_prompts, pool, CELLS, **SETTINGS, lora=ROUNDED)
    log = training_log(tuned)
    start = rounded(stopping_policy, tmp_path / "rounded")
    exact = mean_nll(stopping_policy, few_prompts, pool)
    assert log[0]["loss"] == pytest.approx(mean_nll(start, few_prompts, pool), rel=1e-4)
    assert log[0]["loss"] != pytest.approx(exact, rel=1e-3)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]

    # on rounded weights the adapter is what was trained; on exact ones, as it is served, what rounding leaves apart
    as_trained = training_log(fine_tune(tuned, few_prompts, pool, CELLS, **{**SETTINGS, **STILL}, lora=ROUNDED))
    assert as_trained[0]["loss"] == pytest.approx(mean_nll(start, few_prompts, pool, tuned), rel=1e-4)
    assert loading.base_of(tuned) == stopping_policy
    served = -sequence_logprobs(tuned, few_prompts, pool).sum() / pool.length.sum()
    assert served == pytest.approx(mean_nll(stopping_policy, few_prompts, pool, tuned), rel=1e-4)
    assert as_trained[0]["loss"] * 1.01 < served < 0.8 * exact


def test_frozen_weights_are_nf4_and_stay_so_through_evaluation(stopping_policy, few_prompts, pool, store):
    """A CPU's fast path for evaluation would round them once more, for good."""
    model = trainable(stopping_policy, ROUNDED, in_bfloat16=False)
    layers = [layer for layer in model.modules() if hasattr(layer, "support_avx512bf16_for_cpu")]
    assert len(layers) == 2 * 7  # of each block; PEFT's wrappers are no such layers
    assert {(layer.weight.quant_type, layer.weight.requires_grad) for layer in layers} == {("nf4", False)}
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    before = [layer.weight.data.clone() for layer in layers]
    model.eval()
    with torch.no_grad():
        model(torch.tensor([[1, 5, 7]]))
    assert all(torch.equal(layer.weight.data, weight) for layer, weight in zip(layers, before, strict=True))
    padded, packed = (
        training_log(
            fine_tune(
                stopping_policy,
                few_prompts,
                pool,
                CELLS,
                **{**SETTINGS, "epochs": epochs},
                packing=packing,
                lora=ROUNDED,
            )
        )[0]
        for epochs, packing in ((1, False), (2, True))
    )
    assert packed["loss"] == pytest.approx(padded["loss"], rel=1e-4)
    assert packed["grad_norm"] == pytest.approx(padded["grad_norm"], rel=1e-3)


def test_its_cost_counts_every_weight_that_is_read(stopping_policy, few_prompts, pool, store):
    for lora in (ROUNDED, EXACT):
        fine_tune(stopping_policy, few_prompts, pool, CELLS, **{**SETTINGS, "epochs": 1}, lora=lora)
    ours, theirs = (use for use in store.uses if use.stage == "sft")
    assert ours.counts == theirs.counts


def test_four_bits_are_not_shared_out(stopping_policy, few_prompts, pool, store):
    with pytest.raises(BenchError, match=r"training\.fsdp=true is not allowed with training\.lora\.four_bit=true"):
        fine_tune(stopping_policy, few_prompts, pool, CELLS, seed=0, lora=ROUNDED, processes=2, fsdp=True)
