"""LoRA: an adapter learns what a plain loop says it should, and the rest of the suite takes it as any policy."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawing import generate, ids, next_logits, nll

from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.errors import BenchError
from bench.models import chat, loading
from bench.models.logprobs import divergence_samples, sequence_logprobs
from bench.store import Store, using
from bench.training.lora import MODULES, Lora, save
from bench.training.sft import fine_tune, training_log

PLAIN = {"epochs": 3, "batch_size": 8, "scheduler": "constant", "warmup": 0.0, "max_grad_norm": 0.0, "seed": 0}
ADAPTER = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=False)


@pytest.fixture
def pool(few_prompts: Prompts, stopping_policy: Policy, store: Store) -> Completions:
    return generate(few_prompts, stopping_policy, num_completions=2)


@pytest.fixture
def tune(few_prompts: Prompts, pool: Completions) -> Callable[..., Policy]:
    """Eight cells of the pool, a setting apart from PLAIN."""
    cells = Selection(np.array([0, 1, 2, 3, 4, 5, 6, 6]), np.array([0, 0, 0, 0, 1, 1, 1, 0]), np.ones(8))

    def call(policy: Policy, **settings) -> Policy:
        return fine_tune(policy, few_prompts, pool, cells, **{**PLAIN, **settings})

    return call


def test_updates_are_those_of_a_low_rank_product_written_out(tune, stopping_policy, few_prompts, pool, store):
    """W + (alpha / r) B A on one projection, from the adapter's own first A, by AdamW in a plain loop."""
    one = Lora(r=2, alpha=6, dropout=0.0, target_modules=("q_proj",), four_bit=False)
    start, tuned = (tune(stopping_policy, lora=one, learning_rate=rate) for rate in (1e-30, 1e-2))
    first, last = (_weights(policy) for policy in (start, tuned))
    assert len(last) == 4  # A and B of two layers, and nothing else is stored
    assert max(abs(first[name]).max() for name in first if "lora_B" in name) < 1e-20

    model, tokenizer = loading.load_model(stopping_policy), loading.load_tokenizer(stopping_policy)
    for weight in model.parameters():
        weight.requires_grad_(False)
    ours = {name: torch.tensor(value, requires_grad=True) for name, value in first.items()}
    for number, layer in enumerate(model.model.layers):
        a, b = (ours[f"base_model.model.model.layers.{number}.self_attn.q_proj.lora_{x}.weight"] for x in "AB")
        assert a.shape == (2, 64)
        layer.self_attn.q_proj.register_forward_hook(lambda _, x, y, a=a, b=b: y + 3.0 * (x[0] @ a.T @ b.T))
    optimizer = torch.optim.AdamW(ours.values(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(3):
        total, length = 0.0, 0
        for row, column in zip([0, 1, 2, 3, 4, 5, 6, 6], [0, 0, 0, 0, 1, 1, 1, 0], strict=True):
            prompt = chat.encode(tokenizer, few_prompts.messages[row])
            completion = pool.token_ids[row, column].tolist()
            total, length = total + nll(model, prompt, completion), length + len(completion)
        optimizer.zero_grad()
        (total / length).backward()
        optimizer.step()
        losses.append(float(total.detach()) / length)
    assert [update["loss"] for update in training_log(tuned)] == pytest.approx(losses, rel=1e-4)
    for name, value in ours.items():
        assert last[name] == pytest.approx(value.detach().numpy(), abs=2e-4)
    assert max(abs(last[name] - first[name]).max() for name in last) > 5e-3


def test_an_adapter_goes_through_generation_scoring_and_kl_as_the_merged_model_does(
    tune, stopping_policy, few_prompts, store, tmp_path
):
    tuned = tune(stopping_policy, lora=ADAPTER, learning_rate=1e-2, epochs=20)
    assert training_log(tuned)[-1]["loss"] < 0.8 * training_log(tuned)[0]["loss"]
    assert loading.base_of(tuned) == stopping_policy
    merged = _merged(tuned, tmp_path / "merged")
    drawn, twin = (generate(few_prompts, policy, num_completions=4) for policy in (tuned, merged))
    assert ids(drawn) == ids(twin) != ids(generate(few_prompts, stopping_policy, num_completions=4))
    assert {"stop", "length"} == set(drawn.finish_reason.ravel())  # the endings are the base's
    assert sequence_logprobs(tuned, few_prompts, drawn) == pytest.approx(drawn.policy_logprob, abs=1e-3)
    kl, of_twin = (
        divergence_samples(policy, stopping_policy, few_prompts, pool, temperature=1.0, top_p=1.0)
        for policy, pool in ((tuned, drawn), (merged, twin))
    )
    assert kl.rao_blackwell == pytest.approx(of_twin.rao_blackwell, abs=1e-3)
    assert kl.rao_blackwell.mean() > 0.05
    assert loading.count_parameters(tuned) - loading.count_parameters(stopping_policy) == sum(
        math.prod(value.shape) for value in _weights(tuned).values()
    )


def test_rounds_continue_the_adapter_and_full_fine_tuning_merges_it(tune, stopping_policy, store):
    first = tune(stopping_policy, lora=ADAPTER, learning_rate=1e-2)
    second = tune(first, lora=ADAPTER, learning_rate=1e-2)
    assert loading.base_of(second) == stopping_policy
    assert training_log(second)[0]["loss"] == pytest.approx(_loss_after(first, tune), rel=1e-4)
    assert training_log(second)[-1]["loss"] < training_log(first)[-1]["loss"]
    full = tune(first, learning_rate=1e-4)
    assert loading.base_of(full) == full
    assert loading.count_parameters(full) == loading.count_parameters(stopping_policy)
    assert training_log(full)[0]["loss"] == pytest.approx(training_log(second)[0]["loss"], rel=1e-4)
    with pytest.raises(BenchError, match=r"training\.lora\.r=8 is not what .* \(4\)"):
        tune(first, lora=Lora(r=8, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=False))


def _loss_after(policy: Policy, tune: Callable[..., Policy]) -> float:
    """Of a policy on the examples: the first loss of a training from its merged copy."""
    return training_log(tune(_merged(policy, policy.path.parent / "copy"), learning_rate=1e-30))[0]["loss"]


def test_equal_adapters_are_equal_wherever_their_base_lies(tune, stopping_policy, store, tmp_path):
    elsewhere = loading.folder(shutil.copytree(stopping_policy.path, tmp_path / "elsewhere"))
    assert elsewhere.fingerprint == stopping_policy.fingerprint
    made = []
    for number, policy in enumerate((stopping_policy, elsewhere)):
        with using(Store(tmp_path / f"store{number}")):
            made.append(tune(policy, lora=ADAPTER))
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].fingerprint != tune(stopping_policy, lora=ADAPTER, seed=1).fingerprint
    config = json.loads((made[1].path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(elsewhere.path)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert {file.suffix for file in made[0].path.iterdir()} == {".json", ".safetensors"}


def test_lora_is_part_of_the_key_and_checkpointing_with_it_changes_nothing(tune, stopping_policy, store):
    plain = tune(stopping_policy, lora=ADAPTER)
    again = tune(stopping_policy, lora=ADAPTER, gradient_checkpointing=True, micro_batch_size=4)
    assert plain == again
    assert tune(stopping_policy, lora=None) != plain
    with using(Store(store.root.parent / "other")):
        checkpointed = tune(stopping_policy, lora=ADAPTER, gradient_checkpointing=True, micro_batch_size=4)
    for name, value in _weights(plain).items():
        assert _weights(checkpointed)[name] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"four_bit": True}, r"four_bit=true needs bitsandbytes, which is not installed"),
        ({"target_modules": ("no_proj",)}, r"target_modules=no_proj are no modules"),
        ({"target_modules": ("lm_head",)}, r"target_modules=lm_head.*head"),
    ],
)
def test_what_no_adapter_can_be_is_said(tune, stopping_policy, store, changed, complaint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(BenchError, match=complaint):
        tune(stopping_policy, lora=Lora(**{**ADAPTER.__dict__, **changed}))


def test_an_adapter_that_transformers_would_load_in_part_is_refused(stopping_policy, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], use_dora=True)
    save(get_peft_model(loading.load_model(stopping_policy), config), stopping_policy, tmp_path)
    with pytest.raises(BenchError, match="is a DoRA, which transformers does not load whole: merge it"):
        loading.folder(tmp_path)


def test_an_adapter_is_not_continued_with_a_dropout_that_it_would_not_have(tune, stopping_policy, store):
    start = tune(stopping_policy, lora=ADAPTER, epochs=1)
    with pytest.raises(BenchError, match=r"training.lora.dropout=0.1 is not what the policy's own adapter .*\(0.0\)"):
        tune(start, lora=replace(ADAPTER, dropout=0.1), epochs=1)


def test_modules_are_named_by_a_list_or_all_linear():
    assert [MODULES.allows(value) for value in ("all-linear", ["q_proj"], ("q_proj", "v_proj"))] == [True] * 3
    assert [MODULES.allows(value) for value in ("q_proj", [], [1], [""], None, 3)] == [False] * 6


def _weights(policy: Policy) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(policy.path / "adapter_model.safetensors")


def _merged(policy: Policy, folder) -> Policy:
    """The adapter added into its base by hand, not by PEFT."""
    base = loading.base_of(policy)
    model, weights = loading.load_model(base), _weights(policy)
    config = json.loads((policy.path / "adapter_config.json").read_text())
    state = model.state_dict()
    for name in [name for name in weights if "lora_A" in name]:
        place = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        product = weights[name.replace("lora_A", "lora_B")] @ weights[name]
        state[place] += torch.tensor(product) * config["lora_alpha"] / config["r"]
    model.load_state_dict(state)
    model.save_pretrained(folder)
    loading.load_tokenizer(base).save_pretrained(folder)
    assert np.isfinite(next_logits(loading.folder(folder), [1, 5, 7])).all()
    return loading.folder(folder)
