"""The contract of sampling with transformers: exact distributions, log-probabilities and limits; other families."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import LIMIT, asking, generate, ids

from bench import chat, policies
from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.generation.truncation import modified_logprobs
from bench.logprobs import sequence_logprobs


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


@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_log_probabilities_hold_in_a_batch_with_finished_rows(random_policy, few_prompts, store, top_p):
    wide = {"num_completions": 60, "block_size": 60, "shard_size": 7, "top_p": top_p}
    drawn = generate(few_prompts, random_policy, **wide)
    assert 0 < (drawn.finish_reason == "stop").mean() < 0.1  # too few for the batch to be packed anew
    for p, found in ((top_p, drawn.logprob), (1.0, drawn.policy_logprob)):
        scored = sequence_logprobs(random_policy, few_prompts, drawn, top_p=p)
        np.testing.assert_allclose(found, scored, atol=1e-4)


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


def test_a_policy_whose_logits_are_not_numbers_is_refused(random_policy, few_prompts, store, tmp_path):
    model = policies.load_model(random_policy)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    policies.load_tokenizer(random_policy).save_pretrained(tmp_path / "broken")
    with pytest.raises(BenchError, match=r"finite|not numbers|NaN"):
        generate(few_prompts, policies.folder(tmp_path / "broken"))
