"""The contract of sampling with transformers: pools that nest, exact distributions, log-probabilities and limits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import chat, policies
from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation import pool as pools
from bench.generation import transformers_engine
from bench.generation.truncation import modified_logprobs
from bench.store import Store, using

LIMIT = 12


def generate(prompts: Prompts, policy: Policy, **settings) -> Completions:
    """Small units, so that seven prompts and a handful of samples make several shards and blocks."""
    defaults = {"num_completions": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": LIMIT, "seed": 0}
    sizes = {"dtype": "float32", "block_size": 2, "shard_size": 3}
    return transformers_engine.generate(prompts, policy, **(defaults | sizes | settings))


def asking(*texts: str) -> Prompts:
    return Prompts(
        id=np.array([f"q{i}" for i in range(len(texts))]),
        messages=tuple(({"role": "user", "content": text},) for text in texts),
        answer=np.array([""] * len(texts)),
    )


def same(a: Completions, b: Completions) -> bool:
    """Bit for bit, log-probabilities included."""
    return (
        all((x == y).all() for x, y in zip(a.token_ids.ravel(), b.token_ids.ravel(), strict=True))
        and all((getattr(a, name) == getattr(b, name)).all() for name in ("text", "finish_reason"))
        and a.logprob.tobytes() == b.logprob.tobytes()
        and a.policy_logprob.tobytes() == b.policy_logprob.tobytes()
    )


def ids(completions: Completions) -> list[list[tuple[int, ...]]]:
    return [[tuple(cell.tolist()) for cell in row] for row in completions.token_ids]


def built(store: Store) -> list[str]:
    return [use.part for use in store.uses if not use.reused]


@pytest.fixture
def another(tmp_path: Path) -> Store:
    """A second, empty store; `using` it inside a test shows what drawing afresh gives."""
    return Store(tmp_path / "another")


@pytest.fixture(scope="module")
def stopping_policy(random_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The random policy with forty tokens that end a generation, so that most completions stop early."""
    path = tmp_path_factory.mktemp("stopping") / "policy"
    shutil.copytree(random_policy.path, path)
    model = policies.load_model(random_policy)
    model.generation_config.eos_token_id = [2, *range(100, 139)]
    model.generation_config.save_pretrained(path)
    return policies.folder(path)


def next_logits(policy: Policy, sequence: list[int]) -> np.ndarray:
    """[T, V] logits after each token of one unpadded sequence."""
    with torch.inference_mode():
        return policies.load_model(policy)(torch.tensor([sequence])).logits[0].numpy()


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
    shutil.rmtree(next(store.root.glob("generate/*/00001-00000")))
    before = len(store.uses)
    grown = generate(few_prompts, random_policy, num_completions=6)
    assert same(grown, at_once)
    assert grown.key == at_once.key
    made = [use.part for use in store.uses[before:] if not use.reused]
    assert sorted(made) == ["00000-00002", "00001-00000", "00001-00002", "00002-00002"]
    files = [
        sorted(path.relative_to(place.root) for path in place.root.rglob("*.parquet")) for place in (store, another)
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 9
    assert all((store.root / file).read_bytes() == (another.root / file).read_bytes() for file in files[0])


def test_fewer_samples_are_a_prefix_and_draw_nothing(random_policy, few_prompts, store, monkeypatch):
    large = generate(few_prompts, random_policy, num_completions=8)
    monkeypatch.setattr(policies, "load_model", None)  # a loaded model would now be an error
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


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(0.7, 0.9, 0), (1.3, 0.9, 0), (1.0, 1.0, 0), (1.0, 1.0, 7)]
)
def test_first_tokens_fit_the_exact_distribution(random_policy, store, temperature, top_p, top_k):
    prompts, count = asking("How many", "Leo has 9 coins. How many coins in all?"), 6000
    drawn = generate(
        prompts,
        random_policy,
        num_completions=count,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=1,
        block_size=count,
    )
    tokenizer = policies.load_tokenizer(random_policy)
    for row, messages in enumerate(prompts.messages):
        logits = next_logits(random_policy, chat.encode(tokenizer, messages))[-1]
        observed = np.bincount([cell[0] for cell in drawn.token_ids[row]], minlength=len(logits))
        exact = np.exp(modified_logprobs(logits, temperature, top_p, top_k))
        assert observed[exact == 0].sum() == 0
        assert chi_square_z(observed, exact * count) < 3.5
        other = np.exp(modified_logprobs(logits, temperature * 1.25, top_p, top_k))
        assert chi_square_z(observed, other * count) > 5  # the test can tell a wrong temperature


def chi_square_z(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic as a standard normal deviate (Wilson and Hilferty 1931); rare tokens share a cell."""
    rare = expected < 5
    observed, expected = (np.append(counts[~rare], counts[rare].sum()) for counts in (observed, expected))
    observed, expected = observed[expected > 0], expected[expected > 0]
    degrees = len(expected) - 1
    ratio = ((observed - expected) ** 2 / expected).sum() / degrees
    return (ratio ** (1 / 3) - 1 + 2 / (9 * degrees)) / (2 / (9 * degrees)) ** 0.5


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 0.9, 0), (1.4, 0.95, 30), (0.0, 1.0, 0)]
)
def test_log_probabilities_are_those_of_teacher_forcing(stopping_policy, few_prompts, store, temperature, top_p, top_k):
    count = 1 if temperature == 0 else 4
    drawn = generate(
        few_prompts, stopping_policy, num_completions=count, temperature=temperature, top_p=top_p, top_k=top_k
    )
    tokenizer = policies.load_tokenizer(stopping_policy)
    for row, messages in enumerate(few_prompts.messages):
        prompt = chat.encode(tokenizer, messages)
        for column, cell in enumerate(drawn.token_ids[row]):
            logits = next_logits(stopping_policy, [*prompt, *cell.tolist()])[len(prompt) - 1 : -1]
            steps = np.arange(len(cell))
            sampler = modified_logprobs(logits, temperature, top_p, top_k)[steps, cell].sum()
            assert drawn.logprob[row, column] == pytest.approx(sampler, abs=1e-4)
            policy = modified_logprobs(logits, 1, 1)[steps, cell].sum()
            assert drawn.policy_logprob[row, column] == pytest.approx(policy, abs=1e-4)
    assert (drawn.policy_logprob < -0.5).all()


def test_a_completion_ends_at_its_first_eos_or_at_the_limit(stopping_policy, few_prompts, store):
    drawn = generate(few_prompts, stopping_policy, num_completions=40)
    eos = {2, *range(100, 139)}
    assert {"stop", "length"} == set(drawn.finish_reason.ravel())
    lengths = set()
    for cell, reason in zip(drawn.token_ids.ravel(), drawn.finish_reason.ravel(), strict=True):
        assert cell.dtype == np.int32
        assert not eos.intersection(cell[:-1].tolist())
        assert (cell[-1] in eos) == (reason == "stop")
        assert reason == "stop" or len(cell) == LIMIT
        lengths.add((len(cell), reason))
    assert (LIMIT, "stop") in lengths  # EOS as the very last token allowed
    assert (1, "stop") in lengths
    assert max(length for length, _ in lengths) == LIMIT


def test_one_new_token_is_the_first_of_many(random_policy, few_prompts, store):
    many, one = (generate(few_prompts, random_policy, max_new_tokens=limit) for limit in (LIMIT, 1))
    assert (one.length == 1).all()
    assert ids(one) == [[cell[:1] for cell in row] for row in ids(many)]


def test_many_completions_in_one_block_and_in_many(random_policy, store):
    prompts = asking("How many")
    assert generate(prompts, random_policy, num_completions=1).shape == (1, 1)
    whole = generate(prompts, random_policy, num_completions=256, block_size=256)
    assert whole.shape == (1, 256)
    assert ids(whole) == ids(generate(prompts, random_policy, num_completions=256, block_size=64))


def test_unicode_in_and_text_out(random_policy, store):
    drawn = generate(asking("Zoë a 3 🥐 , combien ?", "数一数"), random_policy, num_completions=8, temperature=1.5)
    tokenizer = policies.load_tokenizer(random_policy)
    decoder = tokenizer.backend_tokenizer.decoder
    for text, cell in zip(drawn.text.ravel(), drawn.token_ids.ravel(), strict=True):
        pieces = [
            token for token in tokenizer.convert_ids_to_tokens(cell.tolist()) if token not in ("<pad>", "<s>", "</s>")
        ]
        assert text == decoder.decode(pieces)


def test_greedy_is_what_model_generate_gives(stopping_policy, few_prompts, store):
    assert_greedy_agrees(stopping_policy, few_prompts, [2, *range(100, 139)])


def test_a_greedy_pool_is_one_whatever_the_seed_and_the_truncation(random_policy, few_prompts, store):
    for settings in ({}, {"seed": 5}, {"top_p": 0.5}, {"top_k": 3}, {"block_size": 8}):
        generate(few_prompts, random_policy, num_completions=1, temperature=0.0, **settings)
    assert built(store) == ["00000-00000", "00001-00000", "00002-00000"]


def assert_greedy_agrees(policy: Policy, prompts: Prompts, eos: list[int]) -> None:
    drawn = generate(prompts, policy, num_completions=1, temperature=0.0)
    model, tokenizer = policies.load_model(policy), policies.load_tokenizer(policy)
    for row, messages in enumerate(prompts.messages):
        prompt = torch.tensor([chat.encode(tokenizer, messages)])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT, eos_token_id=eos
        )
        assert drawn.token_ids[row, 0].tolist() == theirs[0, prompt.shape[1] :].tolist()
    assert (drawn.logprob == 0).all()


FAMILIES = ["bloom", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "mistral", "opt", "phi", "qwen2", "qwen3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_agree_with_model_generate(random_policy, few_prompts, store, tmp_path, family):
    assert_greedy_agrees(of_family(family, random_policy, tmp_path), few_prompts, [2])


def test_a_model_without_a_key_value_cache_is_refused_by_its_type(random_policy, few_prompts, store, tmp_path):
    with pytest.raises(BenchError, match="mamba"):
        generate(few_prompts, of_family("mamba", random_policy, tmp_path))
    assert not list(store.root.rglob("*.parquet"))


def of_family(family: str, tokens_from: Policy, path: Path) -> Policy:
    """A random model of another architecture with the random policy's tokenizer; windows shorter than the prompts."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = policies.load_tokenizer(tokens_from)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **({"sliding_window": 16} if family in ("mistral", "gemma2", "gemma3_text") else {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path / family)
    tokenizer.save_pretrained(path / family)
    return policies.folder(path / family)


def test_a_prompt_longer_than_the_context_is_refused_by_name(random_policy, store):
    with pytest.raises(BenchError, match=r"q1.*256"):
        generate(asking("How many", "How many coins? " * 100), random_policy)
    assert not list(store.root.rglob("*.parquet"))


def test_impossible_requests_are_refused(random_policy, few_prompts, store):
    with pytest.raises(BenchError, match="num_completions=2"):
        generate(few_prompts, random_policy, num_completions=2, temperature=0.0)
    with pytest.raises(BenchError, match="num_completions=0"):
        generate(few_prompts, random_policy, num_completions=0)
    with pytest.raises((BenchError, ValueError), match="top_p=0"):
        generate(few_prompts, random_policy, top_p=0.0)
    assert store.uses == []


def test_a_policy_whose_logits_are_not_numbers_is_refused(random_policy, few_prompts, store, tmp_path):
    model = policies.load_model(random_policy)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    policies.load_tokenizer(random_policy).save_pretrained(tmp_path / "broken")
    with pytest.raises(BenchError, match=r"finite|not numbers|NaN"):
        generate(few_prompts, policies.folder(tmp_path / "broken"))


def test_counts_of_a_unit(random_policy, few_prompts, store):
    drawn = generate(few_prompts, random_policy)
    tokenizer = policies.load_tokenizer(random_policy)
    counts = {name: sum(use.counts[name] for use in store.uses) for name in ("generated_tokens", "flops")}
    assert counts["generated_tokens"] == drawn.length.sum()
    prompt_tokens = sum(len(chat.encode(tokenizer, messages)) for messages in few_prompts.messages)
    parameters = policies.load_model(random_policy).num_parameters()
    assert counts["flops"] == 2 * parameters * (
        drawn.length.sum() + sum(use.counts["prompt_tokens"] for use in store.uses)
    )
    assert sum(use.counts["prompt_tokens"] for use in store.uses if use.part.endswith("-00000")) == prompt_tokens


def test_describe_counts_by_hand():
    token_ids = np.empty((2, 3), object)
    for cell, content in zip(np.ndindex(2, 3), ([5, 2], [5, 2], [6], [2], [7, 8, 9], [7, 8]), strict=True):
        token_ids[cell] = np.array(content, np.int32)
    reasons = np.array([["stop", "stop", "length"], ["stop", "length", "length"]])
    texts = np.array([["a", "a", " "], ["", "b", "c"]], object)
    found = pools.describe(Completions(texts, token_ids, reasons, np.zeros((2, 3)), np.zeros((2, 3)), key=""))
    assert found["truncated"] == 3
    assert found["empty"] == 2
    assert found["duplicate_share"] == pytest.approx(1 / 6)
    assert found["mean_length"] == pytest.approx(11 / 6)
