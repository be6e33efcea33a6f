"""Reward models trained on the base's own samples, and ensembles: pairs, the loss, what is learnt, scales."""

import functools
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import families
import numpy as np
import pytest
import torch
from drawing import generate
from own_code import halved
from sharing import composed

from bench import policies
from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.config import checks
from bench.errors import BenchError
from bench.estimators.reward_diagnostics import within_prompt_auc
from bench.models import chat, loading
from bench.procedures import ready
from bench.scoring import prepared
from bench.scoring.ensemble import combine_scores, ensemble, seed_ensemble
from bench.scoring.trained_reward_model import labelled_pairs, matched, trained_reward_model
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.reward_model import Pairs, train_reward_model, untrained
from bench.training.trainers import training_log

SMALL = {
    "from_scratch": False,
    "layers": None,
    "hidden_size": None,
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "micro_batch_size": None,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "gradient_checkpointing": False,
    "seed": 0,
}
BY_LENGTH = {"pairs": 12, "label_noise": 0.0, "pairs_from": "train", "pairs_seed": 0, "most_completions": 24}


@pytest.fixture
def pairs(few_prompts: Prompts) -> Pairs:
    """Six pairs of unlike lengths."""
    chosen = ("9 + 8 = 17. #### 17", "a", "coins coins coins", "", "5 + 5 = 10. #### 10", "17")
    rejected = ("9 - 8 = 1", "b b b b b", "coin", "#### 3", "5 * 5 = 25. #### 25", "71")
    return Pairs(few_prompts.messages[:6], chosen, rejected)


def gold_length(prompts: Prompts, completions: Completions) -> Rewards:
    """Characters, to tell nearly every pair apart."""
    return Rewards(np.array([[float(len(text)) for text in row] for row in completions.text]))


def rewards_of(model, tokenizer, pairs: Pairs, side: str) -> torch.Tensor:
    """[P] one at a time, no padding."""
    rows = chat.encode_conversations(tokenizer, pairs.messages, getattr(pairs, side))
    return torch.stack([model(input_ids=torch.tensor([row["input_ids"]])).logits[0, 0] for row in rows])


@pytest.mark.parametrize("micro_batch_size", [None, 3, 4])  # the last: an update reads four pairs, and two
def test_updates_are_those_of_bradley_terry_by_hand(store, random_policy, pairs, micro_batch_size):
    """Full-batch AdamW on -log sigmoid(r_chosen - r_rejected), each text alone: losses, accuracies, weights."""
    batch_size = 8 if micro_batch_size == 4 else 6
    few = {"epochs": 3, "batch_size": batch_size, "micro_batch_size": micro_batch_size, "weight_decay": 0.1}
    trained = train_reward_model(random_policy, pairs, **{**SMALL, **few})
    tokenizer = loading.load_tokenizer(random_policy)
    from bench.seeds import small_seed

    with torch.random.fork_rng():
        torch.manual_seed(small_seed(0, "reward model", "weights"))
        model = untrained(random_policy, tokenizer, from_scratch=False, layers=None, hidden_size=None)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    rest = [p for name, p in model.named_parameters() if "norm" in name]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    losses, accuracies, norms = [], [], []
    for step in range(3):
        margin = rewards_of(model, tokenizer, pairs, "chosen") - rewards_of(model, tokenizer, pairs, "rejected")
        loss = torch.log(1 + torch.exp(-margin)).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters()]).norm()))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 3))
        optimizer.step()
        losses.append(loss.item())
        accuracies.append(float((margin > 0).float().mean()))
    log = training_log(trained)
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=1e-4)
    assert [entry["accuracy"] for entry in log] == pytest.approx(accuracies)
    assert [entry["grad_norm"] for entry in log] == pytest.approx(norms, rel=1e-3)
    assert losses[0] > 1.2 * losses[-1]
    ours = untrained(trained, tokenizer, from_scratch=False, layers=None, hidden_size=None).state_dict()
    apart = [float((ours[name] - tensor).abs().mean()) for name, tensor in model.state_dict().items()]
    assert max(apart) < 1e-6
    steps = sum(
        len(row["input_ids"])
        for side in (pairs.chosen, pairs.rejected)
        for row in chat.encode_conversations(tokenizer, pairs.messages, side)
    )
    parameters = sum(p.numel() for p in model.parameters())
    counts = store.uses[0].counts
    assert counts == {"pairs": 6, "train_tokens": 3 * steps, "train_flops": 18 * parameters * steps, "steps": 3}


def test_a_policy_that_no_reward_model_can_start_from_is_refused_before_any_work(random_policy, tmp_path, own_modules):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(loading.load_model(random_policy), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    loading.load_tokenizer(random_policy).save_pretrained(tmp_path / "adapter")
    olmo = families.make("olmo_2", tmp_path / "olmo")

    def check(target: str, path: Path, **settings: bool) -> None:
        base = ready._shape(SimpleNamespace(task=None), partial(policies.from_folder, path=str(path), **settings))
        scorer = {"_target_": target, "layers": None, "pairs": 2, "pairs_from": "train", "most_completions": 2}
        ready._check_scorer("scoring", scorer, base, {"train": 8})

    for target in (ready.TRAINED, ready.BY_STEPS):
        check(target, random_policy.path)
        with pytest.raises(BenchError, match=r"^scoring can't train a reward model .* is an adapter, not merged"):
            check(target, tmp_path / "adapter")
    with pytest.raises(BenchError, match="which brings Python code of its own; use another"):
        check(ready.TRAINED, halved(random_policy.path, tmp_path / "halved"), trust_remote_code=True)
    check(ready.TRAINED, olmo.path)
    with pytest.raises(BenchError, match="has the type olmo2, of which transformers has no token classifier"):
        check(ready.BY_STEPS, olmo.path)


def test_it_starts_from_the_base_and_only_the_head_is_new(random_policy):
    tokenizer, base = loading.load_tokenizer(random_policy), loading.load_model(random_policy).state_dict()

    def start(seed: int = 0, **changes):
        wanted = {"from_scratch": False, "layers": None, "hidden_size": None, **changes}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return untrained(random_policy, tokenizer, **wanted)

    whole, other = start(), start(seed=1)
    assert whole.config.num_labels == 1
    for name, tensor in whole.state_dict().items():
        assert (name == "score.weight") != (name in base)
        assert torch.equal(tensor, other.state_dict()[name]) == (name in base)
        assert name not in base or torch.equal(tensor, base[name])
    shallow = start(layers=1)
    assert sum("layers.1." in name for name in base) > 0
    assert not [name for name in shallow.state_dict() if "layers.1." in name]
    assert all(torch.equal(tensor, base[name]) for name, tensor in shallow.state_dict().items() if name in base)
    scratch, small = start(seed=1, from_scratch=True), start(from_scratch=True, hidden_size=32, layers=1)
    assert not torch.equal(scratch.model.embed_tokens.weight, whole.model.embed_tokens.weight)
    assert (small.config.hidden_size, small.config.intermediate_size) == (32, 64)
    assert (small.config.num_attention_heads, small.config.num_key_value_heads) == (1, 1)
    sizes = [model.num_parameters() for model in (small, shallow, whole)]
    assert sizes == sorted(set(sizes))
    assert small(torch.tensor([[1, 5, 2]])).logits.shape == (1, 1)
    with pytest.raises(BenchError, match=r"scoring\.layers=3 .* at most 2"):
        start(layers=3)
    with pytest.raises(BenchError, match=r"scoring\.hidden_size=32 is for a model from scratch"):
        start(hidden_size=32)
    with pytest.raises(BenchError, match=r"scoring\.hidden_size=40 .* multiple of the base policy's head size, 32"):
        start(hidden_size=40, from_scratch=True)


def test_the_same_twice_bit_for_bit_and_global_randomness_untouched(tmp_path, random_policy, pairs, capfd):
    found = []
    torch.manual_seed(5)
    expected = float(torch.rand(1))
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(5)
        with using(Store(tmp_path / name)):
            found.append(train_reward_model(random_policy, pairs, **{**SMALL, "batch_size": 2, "seed": seed}))
        assert float(torch.rand(1)) == expected
    assert found[0].key == found[1].key != found[2].key
    assert training_log(found[0]) != training_log(found[2])
    assert capfd.readouterr() == ("", "")
    assert {file.suffix for file in found[0].path.iterdir()} == {".json", ".safetensors"}


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_nothing(store, random_policy, pairs):
    with pytest.raises(BenchError, match=r"scoring\.learning_rate=1e\+30 let the reward model's training diverge"):
        train_reward_model(random_policy, pairs, **{**SMALL, "learning_rate": 1e30, "epochs": 4})
    assert not list(store.root.glob("train_reward_model/*"))


@pytest.mark.parametrize("seed", range(5))
def test_matching_gives_disjoint_pairs_in_the_right_order(seed):
    rng = np.random.default_rng(seed)
    for gold in (rng.integers(0, 2, 9).astype(float), rng.integers(0, 4, 9).astype(float), rng.normal(size=9)):
        gold[rng.integers(9)] = np.nan
        found = matched(gold, np.random.default_rng(seed))
        assert all(gold[better] > gold[worse] for better, worse in found)
        used = [sample for pair in found for sample in pair]
        assert len(set(used)) == len(used)
        left = gold[[i for i in range(9) if i not in used]]
        assert len(np.unique(left[~np.isnan(left)])) <= 1  # what is left can't be told apart
        if set(gold[~np.isnan(gold)]) == {0.0, 1.0}:
            assert len(found) == min((gold == 1).sum(), (gold == 0).sum())
    assert matched(np.array([1.0, 1.0, np.nan]), rng) == []


def test_every_sample_is_as_likely_to_be_paired():
    """Two correct among four: each wrong one equally often a partner."""
    counts = np.zeros(4)
    for seed in range(2000):
        for pair in matched(np.array([1.0, 0.0, 0.0, 0.0]), np.random.default_rng(seed)):
            counts[list(pair)] += 1
    assert counts[0] == 2000
    np.testing.assert_allclose(counts[1:] / 2000, 1 / 3, atol=0.04)


def drawn_pairs(policy: Policy, prompts: Prompts, **changes) -> Pairs:
    wanted = {"pairs": 40, "label_noise": 0.0, "seed": 0, "most_completions": 24, **changes}
    return labelled_pairs(prompts, policy, generate, wanted.pop("gold", gold_length), **wanted)


def test_fewer_pairs_are_a_prefix_of_more_and_gold_orders_them(store, random_policy, few_prompts):
    """40 of seven prompts take more than one block of samples."""
    many = drawn_pairs(random_policy, few_prompts)
    assert len({use.part for use in store.uses if use.stage == "generate"}) > 8 // 2
    for count in (1, 7, 25):
        few = drawn_pairs(random_policy, few_prompts, pairs=count)
        assert (few.messages, few.chosen, few.rejected) == tuple(
            getattr(many, name)[:count] for name in ("messages", "chosen", "rejected")
        )
    assert all(len(better) > len(worse) for better, worse in zip(many.chosen, many.rejected, strict=True))
    assert len({messages[0]["content"] for messages in many.messages[:7]}) == 7  # a prompt's first pair comes first


def test_pairs_are_the_bases_own_samples_and_not_those_of_the_pool(store, random_policy, few_prompts):
    pairs = drawn_pairs(random_policy, few_prompts)
    pool = generate(few_prompts, random_policy, num_completions=24)
    drawn = {
        messages[0]["content"]: set(texts) for messages, texts in zip(few_prompts.messages, pool.text, strict=True)
    }
    shared = [text in drawn[m[0]["content"]] for m, text in zip(pairs.messages, pairs.chosen, strict=True)]
    assert np.mean(shared) < 0.1  # noise of twelve tokens hardly meets itself
    seeds = {use.settings["seed"] for use in store.uses if use.stage == "generate"}
    assert len(seeds) == 2


def test_label_noise_flips_its_share_and_less_noise_a_subset(store, random_policy, few_prompts):
    clean = drawn_pairs(random_policy, few_prompts)
    flips = {}
    for noise in (0.1, 0.5, 1.0):
        noisy = drawn_pairs(random_policy, few_prompts, label_noise=noise)
        for i in range(40):
            assert {noisy.chosen[i], noisy.rejected[i]} == {clean.chosen[i], clean.rejected[i]}
        flips[noise] = {i for i in range(40) if noisy.chosen[i] != clean.chosen[i]}
    assert flips[0.1] < flips[0.5] < flips[1.0] == set(range(40))
    assert 10 < len(flips[0.5]) < 30
    few, many = (drawn_pairs(random_policy, few_prompts, pairs=count, label_noise=0.5) for count in (9, 40))
    assert few.chosen == many.chosen[:9]


def test_too_few_decidable_pairs_is_one_sentence(store, random_policy, few_prompts):
    def indifferent(prompts, completions):
        return Rewards(np.where(np.arange(len(prompts))[:, None] == 0, gold_length(prompts, completions).value, 1.0))

    with pytest.raises(BenchError, match=r"scoring\.pairs=40 .* 24 completions of 7 prompts .* tells (9|1\d) pairs"):
        drawn_pairs(random_policy, few_prompts, gold=indifferent)


class FewPrompts:
    """A task of two splits, for scorers that ask for one."""

    def __init__(self, prompts: Prompts) -> None:
        self.splits = {"train": prompts[:4], "validation": prompts[4:]}

    def prompts(self, split: str) -> Prompts:
        return self.splits[split]


def test_a_scorer_gets_what_it_asks_for_and_a_maker_is_called_once():
    calls = []

    def scorer(prompts, completions, *, base, factor, inner=None):
        return prompts, completions, base, factor, inner and inner(prompts, completions)

    def maker(*, base, task, prepare, gold, seed):
        calls.append((base, task, seed))
        return lambda prompts, completions: (prepare(gold)(prompts, completions), seed)

    available = {"base": "policy", "task": "task", "generation": "engine"}
    simple = prepared(functools.partial(scorer, factor=2), **available)
    assert simple(1, 2) == (1, 2, "policy", 2, None)
    kept = prepared(functools.partial(scorer, factor=2, base="mine"), **available)
    assert kept(1, 2) == (1, 2, "mine", 2, None)
    made = prepared(functools.partial(maker, seed=7, gold=functools.partial(scorer, factor=3)), **available)
    assert (made(1, 2), made(3, 4)) == (((1, 2, "policy", 3, None), 7), ((3, 4, "policy", 3, None), 7))
    assert calls == [("policy", "task", 7)]
    nested = prepared(functools.partial(scorer, factor=1, inner=functools.partial(scorer, factor=5)), **available)
    assert nested(1, 2) == (1, 2, "policy", 1, (1, 2, "policy", 5, None))
    assert prepared(gold_length) is gold_length

    def of_parts(prompts, completions, *, parts):
        return [part["scorer"](prompts, completions) for part in parts["all"]]

    parts = {"all": [{"scorer": functools.partial(maker, seed=1, gold=functools.partial(scorer, factor=4))}]}
    assert prepared(functools.partial(of_parts, parts=parts), **available)(1, 2) == [((1, 2, "policy", 4, None), 1)]
    assert len(calls) == 2


def test_a_trained_reward_model_is_trained_once_and_scores(store, random_policy, few_prompts):
    def make(**changes):
        scorer = functools.partial(trained_reward_model, gold=gold_length, **{**SMALL, **BY_LENGTH, **changes})
        return prepared(scorer, base=random_policy, task=FewPrompts(few_prompts), generation=generate)

    pool = generate(few_prompts, random_policy, num_completions=4)
    first = make()(few_prompts, pool)
    assert first.value.shape == (7, 4)
    assert np.isfinite(first.value).all()
    again = make()(few_prompts, pool)
    assert (first.value == again.value).all()
    trainings = [use for use in store.uses if use.stage == "train_reward_model"]
    assert [use.reused for use in trainings] == [False, True]
    assert trainings[0].counts["pairs"] == 12
    assert trainings[0].counts["train_flops"] > 0
    scorings = [use for use in store.uses if use.stage == "score_reward_model"]
    assert {use.parents["reward_model"] for use in scorings} == {
        loading.folder(store.root / "train_reward_model" / trainings[0].key).key
    }
    assert all(use.counts["flops"] > 0 for use in scorings)
    other = make(pairs_from="validation")(few_prompts, pool)
    assert not np.allclose(first.value, other.value)
    with pytest.raises(BenchError, match=r"scoring\.micro_batch_size=3 .* must divide scoring\.batch_size=8"):
        make(micro_batch_size=3)


def test_it_learns_what_gold_likes_on_unseen_prompts_but_not_from_coin_flips(store, tiny_policy):
    """200 pairs, of which gold prefers the one with more equations."""
    task = WordProblems(train_prompts=128, test_prompts=50)
    drawing = functools.partial(generate, max_new_tokens=48, block_size=8, shard_size=128)
    test = task.prompts("test")
    pool = drawing(test, tiny_policy, num_completions=8)

    def equations(prompts, completions):
        return Rewards(np.array([[float(text.count("=")) for text in row] for row in completions.text]))

    gold = (equations(test, pool).value > 1).astype(float)
    found = {}
    for noise in (0.0, 0.5):
        changes = {"pairs": 200, "label_noise": noise, "learning_rate": 5e-4}
        scorer = functools.partial(trained_reward_model, gold=equations, **{**SMALL, **BY_LENGTH, **changes})
        scoring = prepared(scorer, base=tiny_policy, task=task, generation=drawing)
        found[noise] = np.nanmean(within_prompt_auc(scoring(test, pool).value, gold))
    assert found[0.0] > 0.9
    assert found[0.5] < 0.8


def test_the_ensembles_by_hand():
    """Three members, a completion each way; variance is the members' own, 1/k. Coste et al. 2023."""
    members = [np.array([[1.0, 4.0, 0.0]]), np.array([[2.0, 4.0, np.nan]]), np.array([[6.0, 4.0, 1.0]])]
    expected = {"mean": [3.0, 4.0], "min": [1.0, 4.0], "mean_minus_variance": [3 - 0.5 * 14 / 3, 4.0]}
    for combine, values in expected.items():
        found = combine_scores(members, combine=combine, variance_weight=0.5)
        np.testing.assert_allclose(found, [[*values, np.nan]])


def test_members_are_brought_to_one_scale_that_does_not_depend_on_what_is_scored(store, random_policy, few_prompts):
    """One member counts characters, one gives a hundred times as much: normalised, they are one."""

    def hundredfold(prompts, completions):
        return Rewards(100 * gold_length(prompts, completions).value + 7)

    pool = generate(few_prompts, random_policy, num_completions=6, seed=3)
    given = {"base": random_policy, "task": FewPrompts(few_prompts), "generation": generate}
    both = {"one": gold_length, "other": hundredfold}

    def make(members, **changes):
        wanted = {"combine": "mean", "variance_weight": 1.0, "normalise": True, "seed": 0, **changes}
        return prepared(functools.partial(ensemble, members=members, **wanted), **given)

    single = make({"one": gold_length})(few_prompts, pool).value
    np.testing.assert_allclose(make(both)(few_prompts, pool).value, single, atol=1e-12)
    np.testing.assert_allclose(make(both, combine="min")(few_prompts, pool).value, single, atol=1e-12)
    np.testing.assert_allclose(make(both, combine="mean_minus_variance")(few_prompts, pool).value, single, atol=1e-12)
    text = np.asarray(pool.text)[2:4]
    part = make(both)(few_prompts[2:4], Completions(text, *[np.zeros((2, 6))] * 4, key="part"))
    np.testing.assert_allclose(part.value, single[2:4], atol=1e-12)
    lengths = gold_length(few_prompts, pool).value
    slope, offset = np.polyfit(lengths.ravel(), single.ravel(), 1)
    reference = [use for use in store.uses if use.stage == "generate" and use.settings["seed"] != 3]
    seed = reference[0].settings["seed"]
    drawn = generate(few_prompts[:4], random_policy, num_completions=4, seed=seed)
    characters = gold_length(few_prompts[:4], drawn).value
    assert slope == pytest.approx(1 / characters.std())
    assert offset == pytest.approx(-characters.mean() / characters.std())
    raw = make(both, normalise=False)(few_prompts, pool).value
    np.testing.assert_allclose(raw, (101 * lengths + 7) / 2)
    with pytest.raises(BenchError, match=r"scoring\.members\.flat gives all of the base's reference samples one score"):
        make({"flat": lambda prompts, completions: Rewards(np.ones(completions.shape))})


def test_an_ensembles_members_differ_in_their_seed_and_share_their_pairs(store, random_policy, few_prompts):
    given = {"base": random_policy, "task": FewPrompts(few_prompts), "generation": generate}
    member = functools.partial(trained_reward_model, gold=gold_length, **{**SMALL, **BY_LENGTH})
    wanted = {"member": member, "combine": "min", "variance_weight": 0.5, "normalise": True, "seed": 0}
    prepared(functools.partial(seed_ensemble, size=2, **wanted), **given)
    prepared(functools.partial(seed_ensemble, size=3, **wanted), **given)
    trainings = [use for use in store.uses if use.stage == "train_reward_model"]
    assert [use.reused for use in trainings] == [False, False, True, True, False]
    assert len({use.parents["pairs"] for use in trainings}) == 1
    assert len({use.settings["seed"] for use in trainings}) == 3


@pytest.mark.parametrize("choice", ["trained_reward_model", "ensemble", "ensemble_of"])
def test_the_configurations_are_complete(store, random_policy, few_prompts, choice):
    """As composed, with another gold and less of everything."""
    where = {
        "trained_reward_model": [""],
        "ensemble": [".member"],
        "ensemble_of": [".members.whole", ".members.shallow"],
    }
    overrides = [
        f"scoring{node}.{setting}" for node in where[choice] for setting in ("pairs=6", "batch_size=4", "epochs=1")
    ] + [f"scoring@scoring{node}.gold=length" for node in where[choice]]
    overrides += ["scoring.size=2"] if choice == "ensemble" else []
    cfg = composed(f"scoring={choice}", *overrides)
    checks.check(cfg)
    scoring = checks.build_parts(cfg)["scoring"]
    scorer = prepared(scoring, base=random_policy, task=FewPrompts(few_prompts), generation=generate)
    pool = generate(few_prompts, random_policy, num_completions=4)
    value = scorer(few_prompts, pool).value
    assert value.shape == (7, 4)
    assert np.isfinite(value).all()
