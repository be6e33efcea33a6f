"""Online training: each update as written out by hand, on the policy's own samples, the same way every time."""

import hashlib
import importlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import generate, ids
from own_code import halved
from safetensors.numpy import save_file
from sharing import composed

import bench
from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.config import checks
from bench.errors import BenchError
from bench.models import chat, loading
from bench.models.sampler import RAW
from bench.records.read import read_run
from bench.reporting.methods import methods, references
from bench.scoring.reward_model import reward_model
from bench.scoring.verifier import verify
from bench.store import MANIFEST, Store, using
from bench.tracking.mirror import read
from bench.training.lora import Lora
from bench.training.online import OnlineTraining, described, refuse_no_signal, train_online
from bench.training.online_recipe import OnlineRecipe
from bench.training.trainers import training_log

LIMIT = 12
KEPT = ("training.keep_every=2", "task.validation_prompts=10")
RECIPE = OnlineRecipe(
    epochs=1,
    learning_rate=3e-3,
    batch_size=16,
    micro_batch_size=None,
    scheduler="constant",
    warmup=0.0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    gradient_checkpointing=False,
    algorithm="grpo",
    samples=4,
    num_generations=4,
    prompts_per_update=4,
    beta=0.0,
    num_iterations=1,
    epsilon=0.2,
    loss_type=None,
    scale_rewards=None,
    shuffled=False,
    precision="float32",
    lora=None,
    keep_every=None,
    seed=0,
)


def by_length(prompts: Prompts, completions: Completions) -> Rewards:
    return Rewards(np.asarray(completions.length % 3, float))


def by_first_token(prompts: Prompts, completions: Completions) -> Rewards:
    return Rewards(np.array([[float(cell[0] % 3) for cell in row] for row in completions.token_ids]))


@pytest.fixture
def trained(tmp_path: Path, random_policy: Policy, few_prompts: Prompts) -> Callable[..., OnlineTraining]:
    """train_online in a store of its own, so that nothing is found ready."""
    stores = iter(range(100))

    def call(prompts: Prompts = few_prompts, score=by_length, policy: Policy = random_policy, **settings):
        sampler = replace(RAW, temperature=settings.pop("temperature", 1.0))
        with using(Store(tmp_path / settings.pop("store", f"store{next(stores)}"))):
            recipe = replace(RECIPE, **settings)
            how = {"max_new_tokens": LIMIT, "batch_tokens": 4096, "sampler": sampler, "scored_by": "length"}
            return train_online(policy, prompts, score, recipe, **how)

    return call


def over_standard_deviation(rewards: np.ndarray) -> np.ndarray:
    """GRPO's advantages of groups [P, G]."""
    return (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """RLOO's advantages of groups [P, G]."""
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def test_advantages_on_a_small_matrix():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    half, third = 0.5 / (np.sqrt(1 / 3) + 1e-4), 0.75 / (1.5 + 1e-4)
    assert np.allclose(
        over_standard_deviation(rewards), [[half, -half, -half, half], [3 * third, -third, -third, -third], [0] * 4]
    )
    assert np.allclose(leave_one_out(rewards), [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [3, -1, -1, -1], [0] * 4])


def token_logprobs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[T] by a plain forward on one row: no padding, no cache, no TRL."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def by_hand(start: Policy, prompts: Prompts, training: OnlineTraining, recipe: OnlineRecipe) -> dict[str, torch.Tensor]:
    """The weights after the updates on the samples of a training, by the formulas alone."""
    model, reference = (loading.load_model(start).requires_grad_(grad) for grad in (True, False))
    tokenizer = loading.load_tokenizer(start)
    prompt_ids = [chat.encode(tokenizer, messages) for messages in prompts.messages]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    for rows in recipe.batches(len(prompts)):
        cells = [(row, column) for row in rows.tolist() for column in range(recipe.samples)]
        sequences = [(prompt_ids[row], training.pool.token_ids[row, column].tolist()) for row, column in cells]
        with torch.no_grad():
            old = [token_logprobs(model, *sequence) for sequence in sequences]
            base = [token_logprobs(reference, *sequence) for sequence in sequences]
        rewards = training.seen[rows]
        if recipe.algorithm == "rloo":  # the KL of a sequence is a part of its reward
            kl = torch.stack([(mine - theirs).sum() for mine, theirs in zip(old, base, strict=True)])
            advantages = leave_one_out(rewards - recipe.beta * kl.numpy().reshape(rewards.shape)).ravel()
        else:
            advantages = over_standard_deviation(rewards).ravel()
        for _ in range(recipe.num_iterations):
            terms = []
            for sequence, before, theirs, advantage in zip(sequences, old, base, advantages.tolist(), strict=True):
                mine = token_logprobs(model, *sequence)
                log_ratio = mine - before
                ratio = (log_ratio if recipe.algorithm == "grpo" else log_ratio.sum()).exp()
                clipped = ratio.clamp(1 - recipe.epsilon, 1 + recipe.epsilon)
                term = -torch.minimum(ratio * advantage, clipped * advantage)
                if recipe.algorithm == "grpo":
                    k3 = (theirs - mine).exp() - (theirs - mine) - 1
                    term = term + recipe.beta * ratio * k3  # DeepSeek-V3.2 (arXiv 2512.02556): unbiased gradient
                terms.append(term)
            tokens = sum(len(completion) for _, completion in sequences)
            loss = torch.cat(terms).sum() / tokens if recipe.algorithm == "grpo" else torch.stack(terms).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
    return model.state_dict()


def distance(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Euclidean. Single weights whose gradient is near 0 may differ: AdamW makes steps of one size of all of them."""
    return float(sum(((weights[name] - others[name]) ** 2).sum() for name in weights) ** 0.5)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("algorithm", "updates"), [("grpo", 1), ("grpo", 2), ("rloo", 1), ("rloo", 2)])
def test_updates_equal_those_written_out_by_hand(algorithm, updates, beta, trained, random_policy, few_prompts):
    """Two draws of updates: the second is from a policy that has left the base, where the KL is above 0."""
    settings = {"algorithm": algorithm, "num_iterations": updates}
    training = trained(**settings, beta=beta)
    expected = by_hand(random_policy, few_prompts, training, replace(RECIPE, **settings, beta=beta))
    found = loading.load_model(training.policy).state_dict()
    start = loading.load_model(random_policy).state_dict()
    moved, off = (distance(found, other) for other in (start, expected))
    assert off < 0.001 * moved
    if beta > 0:
        without = by_hand(random_policy, few_prompts, training, replace(RECIPE, **settings, beta=0.0))
        assert distance(found, without) > 0.1 * moved
    log = training_log(training.policy)
    assert [entry["step"] for entry in log] == [*range(1, 2 * updates + 1)]
    assert log[-1]["epoch"] == 1


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_model_of_absolute_positions_is_updated_as_by_hand_though_prompts_are_padded(
    algorithm, trained, random_policy, few_prompts, tmp_path
):
    policy = gpt2(tmp_path / "gpt2", random_policy)
    training = trained(score=by_first_token, policy=policy, algorithm=algorithm, beta=0.3)
    expected = by_hand(policy, few_prompts, training, replace(RECIPE, algorithm=algorithm, beta=0.3))
    found, start = (loading.load_model(each).state_dict() for each in (training.policy, policy))
    assert distance(found, expected) < 0.01 * distance(found, start)


def gpt2(folder: Path, like: Policy) -> Policy:
    """A random GPT-2 with the tokenizer of another policy."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "initializer_range": 0.3}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(**shape, **dropout, **ends)).save_pretrained(folder)
    loading.load_tokenizer(like).save_pretrained(folder)
    return loading.folder(folder)


def test_each_sample_is_drawn_once_and_the_first_draw_equals_the_bases_pool(trained, random_policy, few_prompts):
    training = trained(samples=4, num_generations=2, prompts_per_update=3)
    assert training.pool.shape == training.rewards.value.shape == (7, 4)
    assert training.pool.drawn.all()
    assert training.policy.path.name == "00000"
    recipe = replace(RECIPE, num_generations=2, prompts_per_update=3)
    batches = recipe.batches(7)
    assert [len(rows) for rows in batches] == [3, 2, 2] * 2
    assert recipe.num_updates(7) == 6
    assert sorted(np.concatenate(batches[:3])) == sorted(np.concatenate(batches[3:])) == [*range(7)]
    with using(Store(training.policy.path.parents[2])):
        tokenizer = loading.load_tokenizer(random_policy)
        base = generate(few_prompts, random_policy, max_new_tokens=LIMIT)
    first = batches[0]
    assert [ids(training.pool)[row][:2] for row in first] == [ids(base)[row][:2] for row in first]
    assert ids(training.pool) != ids(base)
    lengths = np.array([[len(cell) for cell in row] for row in ids(training.pool)])
    assert (training.rewards.value == lengths % 3).all()
    counts = json.loads((training.policy.path / MANIFEST).read_text())["counts"]
    read = 2 * sum(len(chat.encode(tokenizer, messages)) for messages in few_prompts.messages)  # by each visit
    assert (counts["prompt_tokens"], counts["generated_tokens"]) == (read, lengths.sum())
    assert counts["flops"] == 2 * loading.count_parameters(random_policy) * (read + lengths.sum())
    log = training_log(training.policy)
    assert [entry["samples"] for entry in log] == [6, 10, 14, 20, 24, 28]
    assert log[0]["reward"] == pytest.approx(training.rewards.value[first, :2].mean())
    assert log[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert log[-1]["kl"] != pytest.approx(0, abs=1e-3)


def test_the_same_training_gives_the_same_numbers_leaves_the_global_generators_alone_and_is_not_its_control(trained):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first = trained(beta=0.1)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    torch.manual_seed(7)
    second = trained(beta=0.1)
    assert first.policy.fingerprint == second.policy.fingerprint
    assert first.pool.key == second.pool.key
    assert ids(first.pool) == ids(second.pool)
    assert training_log(first.policy) == training_log(second.policy)
    assert trained(beta=0.1, seed=1).policy.fingerprint != first.policy.fingerprint

    control = trained(beta=0.1, shuffled=True)  # sees the rewards of each group in another order
    assert (np.sort(control.seen, axis=1) == np.sort(control.rewards.value, axis=1)).all()
    assert (control.seen != control.rewards.value).any()
    assert control.policy.fingerprint != first.policy.fingerprint


@pytest.mark.parametrize("loss_type", [None, "grpo", "dr_grpo"])
def test_micro_batches_change_only_rounding(loss_type, trained, few_prompts):
    even = few_prompts.take(np.arange(6))
    whole, split = (
        trained(even, prompts_per_update=3, batch_size=12, micro_batch_size=size, loss_type=loss_type)
        for size in (None, 4)
    )
    weights = [loading.load_model(training.policy).state_dict() for training in (whole, split)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4


def test_parts_of_a_draw_must_be_equal():
    recipe = replace(RECIPE, prompts_per_update=3, batch_size=12, micro_batch_size=4)
    recipe.check(6)
    with pytest.raises(BenchError, match=r"with 7 training prompts and procedure\.prompts_per_update=3"):
        recipe.check(7)
    with pytest.raises(BenchError, match=r"it must divide procedure\.prompts_per_update=3 times 4 samples"):
        replace(recipe, micro_batch_size=5).check(6)


def test_an_adapter_is_trained_alone_and_keeps_policies(trained, random_policy):
    lora = Lora(r=2, alpha=4, dropout=0.0, target_modules="all-linear", four_bit=False)
    training = trained(lora=lora, beta=0.1, keep_every=1)
    files = {path.name for path in training.policy.path.iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    assert "ref" not in files
    assert not (training.policy.path / "after-1-updates" / "ref").exists()
    assert (training.policy.path / "after-1-updates").is_dir()
    assert loading.base_of(training.policy).path == random_policy.path
    assert training_log(training.policy)[-1]["kl"] != 0


def test_the_kl_of_an_adapter_that_all_weights_start_from_is_to_that_adapter(trained, few_prompts, tmp_path):
    lora = Lora(r=4, alpha=32, dropout=0.0, target_modules="all-linear", four_bit=False)
    adapter = trained(lora=lora, learning_rate=3e-2).policy
    before = merged(adapter, tmp_path / "merged")
    for algorithm in ("grpo", "rloo"):
        training = trained(policy=adapter, algorithm=algorithm, beta=0.3)
        expected = by_hand(before, few_prompts, training, replace(RECIPE, algorithm=algorithm, beta=0.3))
        found, start = (loading.load_model(policy).state_dict() for policy in (training.policy, before))
        assert distance(found, expected) < 0.01 * distance(found, start), algorithm


def merged(adapter: Policy, folder: Path) -> Policy:
    """The whole model of an adapter and its base."""
    from peft import PeftModel

    base = loading.load_model(loading.base_of(adapter))
    PeftModel.from_pretrained(base, adapter.path).merge_and_unload().save_pretrained(folder)
    loading.load_tokenizer(adapter).save_pretrained(folder)
    return loading.folder(folder)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_of_a_model_of_its_own_code_is_loaded_where_it_is_trusted(
    algorithm, trained, random_policy, tmp_path, own_modules
):
    path = halved(random_policy.path, tmp_path / "coded")
    policy = replace(loading.folder(path, code=True), trust_remote_code=True)
    training = trained(score=by_first_token, policy=policy, algorithm=algorithm, beta=0.3)
    assert training_log(training.policy)[-1]["kl"] != pytest.approx(0, abs=1e-4)


def test_a_training_that_was_cut_short_gives_the_same_numbers_and_leaves_nothing(trained):
    recipe = {"keep_every": 1, "num_generations": 2, "prompts_per_update": 4}
    whole, draws = trained(**recipe), iter(range(3))

    def cut(prompts: Prompts, pool: Completions) -> Rewards:
        return by_length(prompts, pool) if next(draws) < 2 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        trained(**recipe, score=cut, store="cut")
    again = trained(**recipe, store="cut")
    assert again.policy.fingerprint == whole.policy.fingerprint
    assert training_log(again.policy) == training_log(whole.policy)
    assert (again.rewards.value == whole.rewards.value).all()
    for training in (whole, again):
        assert {path.name for path in training.policy.path.glob("after-*")} == {f"after-{n}-updates" for n in (1, 2, 3)}
        assert [path.name for path in training.policy.path.parent.iterdir()] == ["00000"]


def test_rewards_that_never_differ_are_said_in_one_sentence(trained):
    zero = trained(score=lambda prompts, pool: Rewards(np.zeros(pool.shape)))
    said = "procedure=online learnt nothing: all 28 rewards are 0, and an update needs"
    with pytest.raises(BenchError, match=said):
        refuse_no_signal(zero, RECIPE)
    unscored = trained(score=lambda prompts, pool: Rewards(np.full(pool.shape, np.nan)))
    with pytest.raises(BenchError, match="no completion could be scored"):
        refuse_no_signal(unscored, RECIPE)
    rows = np.arange(7.0)[:, None] + np.zeros((7, 4))
    with pytest.raises(BenchError, match="the rewards are equal within each prompt"):
        refuse_no_signal(replace(zero, rewards=Rewards(rows), seen=rows), RECIPE)
    rows[6, 3] += 1
    refuse_no_signal(replace(zero, rewards=Rewards(rows), seen=rows), RECIPE)


def test_a_completion_without_a_reward_has_no_advantage(trained):
    def some(prompts: Prompts, pool: Completions) -> Rewards:
        return Rewards(np.where(pool.length > 10, np.nan, pool.length))

    training = trained(score=some)
    assert np.isnan(training.rewards.value).any()
    assert np.isfinite([entry["loss"] for entry in training_log(training.policy)]).all()


def test_a_training_that_diverges_is_said_in_one_sentence(trained, monkeypatch):
    with pytest.raises(BenchError, match=r"procedure.learning_rate=1e\+38 let the training diverge"):
        trained(learning_rate=1e38)

    from trl.trainer.grpo_trainer import GRPOTrainer

    plain = GRPOTrainer._compute_loss
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda *given: plain(*given) * float("nan"))
    with pytest.raises(BenchError, match=r"procedure\.learning_rate=0\.003 let the training diverge at step 1"):
        trained()


def test_a_scorer_is_named_by_its_functions_and_settings():
    part = partial(by_length, every_step=True, inner=[partial(leave_one_out)])
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # a user's module
    mine = {name: [f"{__name__}.{name}", code] for name in ("by_length", "leave_one_out")}
    assert described(part) == [mine["by_length"], {"every_step": True, "inner": [[mine["leave_one_out"], {}]]}]
    assert described(partial(verify, every_step=True)) == ["bench.scoring.verifier.verify", {"every_step": True}]


def test_a_scorer_with_other_code_or_another_model_in_its_folder_is_another_scorer(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code, model = tmp_path / "rewards_of_mine.py", tmp_path / "model"
    model.mkdir()
    save_file({"score": np.zeros(1)}, model / "model.safetensors")
    seen = []
    for number in range(2):
        code.write_text(f"def reward(prompts, completions): return {number}")
        (model / "config.json").write_text(json.dumps({"number": number}))
        mine = partial(importlib.import_module(code.stem).reward)
        learned = partial(reward_model, model=str(model))
        seen.append((described(mine), described(learned)))
    assert all(first != second for first, second in zip(*seen, strict=True))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["num_completions=1"], "num_completions=1 is not allowed with procedure=online"),
        (["procedure.num_generations=3"], "procedure.num_generations=3 is not allowed"),
        (["temperature=0"], "temperature=0"),
        (["procedure.algorithm=rloo", "procedure.loss_type=grpo"], "procedure.loss_type=grpo is not allowed"),
        (["training.packing=true"], "training.packing=True is not allowed with procedure=online"),
        (["training.checkpoint_every=5"], "leave it at null"),
        (["generation=vllm"], "generation=vllm_engine is not allowed"),
        (["scoring=self_consistency"], "procedure=online can't learn from this scoring, in which self_consistency"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(overrides, said):
    from bench.sweeps.cells import Cell
    from bench.sweeps.plan import record_of

    def refused() -> None:
        cfg = composed("procedure=online", *overrides)
        checks.check(cfg)
        record_of(Cell("", cfg, ()))

    with pytest.raises(BenchError, match=said):
        refused()


def test_micro_batches_divide_the_batches_of_the_procedure_and_not_those_of_fine_tuning():
    checks.check(composed("procedure=online", "training.micro_batch_size=60"))  # of 15 x 16 samples
    with pytest.raises(BenchError, match=r"it must divide training\.batch_size=32"):
        checks.check(composed("training.micro_batch_size=60"))


def test_an_experiment_records_what_it_drew_and_learnt(finished_run):
    finished = finished_run("procedure=online", "procedure.prompts_per_update=10", *KEPT)
    run = read_run(finished.folder)
    metrics = run.metrics
    assert metrics["online/updates"] == metrics["online/control/updates"] == 4
    assert metrics["online/samples"] == metrics["selection/kept"] == metrics["pool/completions"] == 40 * 4
    assert metrics["tuned/kl"] > 0
    assert {"base/pass@1", "control/pass@1", "best_of_4/accuracy", "cost/fine_tuning_flops"} <= metrics.keys()
    log = run.rows("online.parquet")
    assert [row["arm"] for row in log] == ["tuned"] * 4 + ["control"] * 4
    assert metrics["online/last_kl"] == log[3]["kl"]
    assert {"tuned/validation@2/accuracy", "tuned/validation@4/kl", "control/validation@2/accuracy"} <= metrics.keys()
    drawn = bench.load(str(finished.folder)).completions("train")
    assert len(drawn) == 160
    assert (drawn["policy"] == "tuned").all()
    assert drawn["text"].str.len().gt(0).any()
    assert np.nanmean(drawn["reward"]) == pytest.approx(metrics["pool/mean_reward"])


def test_the_methods_and_trackers_tell_of_online_training(finished_run):
    run = read_run(finished_run("procedure=online", "procedure.prompts_per_update=10", *KEPT).folder)
    text = methods([run])
    assert "trained by GRPO [@shao2024] on its own samples, 4 per prompt in each of 1 passes" in text
    assert "rewards permuted at random" in text
    assert "fine-tuned on the selected" not in text
    assert references(text).count("@misc{shao2024") == 1
    assert (run.folder / "online.png").is_file()
    rows = read(run.folder).series["update"]
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert {"training/tuned/reward", "training/control/kl", "training/tuned/length"} <= rows[0].keys()
    chain = json.loads((run.folder / "chain.json").read_text())
    assert [(link["type"], link["role"]) for link in chain] == [
        ("policy", "base"),
        *(("pool", "train"), ("rewards", "train"), ("selection", "tuned"), ("policy", "tuned")),
        *((kind, "control") for kind in ("pool", "rewards", "selection", "policy")),
    ]
