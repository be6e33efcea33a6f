"""What every engine promises, tried on each: distributions, log-probabilities, limits, streams, pools that nest."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import EOS, LIMIT, asking, chi_square_z, ids, modified_logprobs, next_logits, same

from bench.artifacts import Completions, Prompts
from bench.errors import BenchError
from bench.generation import transformers_engine, vllm_engine
from bench.generation.pool import describe
from bench.models import chat, loading
from bench.models.sampler import GREEDY, RAW, Sampler
from bench.store import Store, using

Generate = Callable[..., Completions]
SMALL = {
    "num_completions": 4,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": LIMIT,
    "seed": 0,
    "dtype": "float32",
    "block_size": 2,
    "shard_size": 3,
}
# So few tokens at once that vLLM can't read a unit's prompts in one step: what a shard's first step leaves waits.
VLLM = {"kv_cache_gib": 0.25, "max_num_batched_tokens": 256, "max_num_seqs": 64}


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def generate(request: pytest.FixtureRequest) -> Generate:
    if request.param == "transformers":
        return partial(transformers_engine.generate, **SMALL)
    return partial(vllm_engine.generate, **SMALL, **VLLM)  # its engine stays for the next module


def test_equal_seeds_repeat_and_others_differ(generate, random_policy, few_prompts, tmp_path):
    drawn = []
    for number, seed in enumerate([0, 0, 1]):
        with using(Store(tmp_path / str(number))):
            drawn.append(generate(few_prompts, random_policy, seed=seed, top_p=0.95))
            np.asarray(drawn[-1].text)
    assert same(drawn[0], drawn[1])
    flat = [[cell for row in ids(pool) for cell in row] for pool in drawn]
    assert sum(a == b for a, b in zip(flat[0], flat[2], strict=True)) <= 1


@pytest.mark.parametrize("sampler", [Sampler(0.7, 0.9), Sampler(1.3, 0.9), RAW, Sampler(top_k=7)])
def test_first_tokens_fit_the_exact_distribution(generate, random_policy, store, sampler):
    prompts, count = asking("How many", "Leo has 9 coins. How many coins in all?"), 4000
    drawn = generate(
        prompts,
        random_policy,
        num_completions=count,
        max_new_tokens=1,
        block_size=count,
        **sampler.settings,
    )
    tokenizer = loading.load_tokenizer(random_policy)
    for row, messages in enumerate(prompts.messages):
        logits = next_logits(random_policy, chat.encode(tokenizer, messages))[-1]
        observed = np.bincount([cell[0] for cell in drawn.token_ids[row]], minlength=len(logits))
        exact = np.exp(modified_logprobs(logits, sampler))
        assert observed[exact == 0].sum() == 0
        assert chi_square_z(observed, exact * count) < 3.5
        other = np.exp(modified_logprobs(logits, replace(sampler, temperature=sampler.temperature * 1.3)))
        assert chi_square_z(observed, other * count) > 5  # the test can tell a wrong temperature


@pytest.mark.parametrize("sampler", [RAW, Sampler(0.7, 0.9), Sampler(1.4, 0.95, 30), GREEDY])
def test_log_probabilities_are_those_of_teacher_forcing(generate, stopping_policy, few_prompts, store, sampler):
    drawn = generate(few_prompts, stopping_policy, num_completions=1 if sampler.is_greedy else 4, **sampler.settings)
    tokenizer = loading.load_tokenizer(stopping_policy)
    for row, messages in enumerate(few_prompts.messages):
        prompt = chat.encode(tokenizer, messages)
        for column, cell in enumerate(drawn.token_ids[row]):
            logits = next_logits(stopping_policy, [*prompt, *cell.tolist()])[len(prompt) - 1 : -1]
            steps = np.arange(len(cell))
            under_sampler = modified_logprobs(logits, sampler)[steps, cell].sum()
            assert drawn.logprob[row, column] == pytest.approx(under_sampler, abs=1e-4)
            under_policy = modified_logprobs(logits)[steps, cell].sum()
            assert drawn.policy_logprob[row, column] == pytest.approx(under_policy, abs=1e-4)
    assert (drawn.policy_logprob < -0.5).all()


def test_a_completion_ends_at_its_first_eos_or_at_the_limit(generate, stopping_policy, few_prompts, store):
    drawn = generate(few_prompts, stopping_policy, num_completions=40, block_size=20)
    lengths = set()
    for row in range(len(few_prompts)):
        for cell, reason in zip(drawn.token_ids[row], drawn.finish_reason[row], strict=True):
            assert cell.dtype == np.int32
            assert not set(EOS).intersection(cell[:-1].tolist())
            assert (cell[-1] in EOS) == (reason == "stop")
            assert reason == "stop" or len(cell) == LIMIT
            lengths.add((len(cell), str(reason)))
    assert {(1, "stop"), (LIMIT, "stop"), (LIMIT, "length")} <= lengths  # EOS as the first and as the last token too
    assert max(length for length, _ in lengths) == LIMIT
    assert (drawn.length == [[len(cell) for cell in row] for row in ids(drawn)]).all()


def test_one_new_token_is_the_first_of_many(generate, random_policy, few_prompts, store):
    many, one = (generate(few_prompts, random_policy, max_new_tokens=limit) for limit in (LIMIT, 1))
    assert (one.length == 1).all()
    assert ids(one) == [[cell[:1] for cell in row] for row in ids(many)]


def test_one_sample_and_256_of_them(generate, random_policy, few_prompts, store):
    prompts = few_prompts[0:2]
    one, many = (generate(prompts, random_policy, num_completions=n, block_size=64) for n in (1, 256))
    assert one.shape == (2, 1)
    assert many.shape == (2, 256)
    assert same(one, many.first(1))
    assert len({cell for row in ids(many) for cell in row}) > 500  # 512 samples, all but a few short ones distinct


def test_extending_a_pool_gives_what_drawing_at_once_gives(generate, random_policy, few_prompts, tmp_path):
    settings = {"temperature": 1.2, "top_p": 0.95}
    with using(Store(tmp_path / "grown")) as store:
        grown = [generate(few_prompts, random_policy, num_completions=n, **settings) for n in (2, 6, 5)]
        grown_ids = [ids(pool) for pool in grown]
        drawn_units = sum(not use.reused for use in store.uses)
    with using(Store(tmp_path / "at once")):
        at_once = generate(few_prompts, random_policy, num_completions=6, **settings)
        assert same(grown[1], at_once)
        assert same(grown[2], at_once.first(5))
        assert same(grown[0], at_once.first(2))
    assert drawn_units == 3 * 3  # shards x blocks: the extension drew only what was missing, the prefix nothing
    assert grown_ids[0] == [row[:2] for row in grown_ids[1]]


def test_no_two_samples_share_a_random_stream(generate, random_policy, store):
    """Identical prompts under different ids: whichever two samples shared a stream would be equal from end to end."""
    prompts = asking(*["Leo has 9 coins. How many coins in all?"] * 12)
    drawn = generate(prompts, random_policy, num_completions=48, block_size=16, shard_size=6, temperature=1.5)
    long = [cell for row in ids(drawn) for cell in row if len(cell) >= 6]
    assert len(long) > 400
    assert [cell for cell, count in Counter(long).items() if count > 1] == []
    assert describe(drawn)["twins_alarm"] == 0
    # First tokens of different prompts, samples and blocks agree as often as independent draws would.
    first = np.array([[cell[0] for cell in row] for row in ids(drawn)])  # [12, 48]
    logits = next_logits(random_policy, chat.encode(loading.load_tokenizer(random_policy), prompts.messages[0]))[-1]
    agreement = np.exp(2 * modified_logprobs(logits, Sampler(1.5))).sum()  # P(two independent draws are equal)
    for shift_rows, shift_columns in [(1, 0), (0, 1), (0, 16), (6, 0), (1, 1), (1, 16), (5, 31)]:
        equal = (first == np.roll(first, (shift_rows, shift_columns), axis=(0, 1))).mean()
        assert abs(equal - agreement) < 5 * np.sqrt(agreement / first.size)


def test_greedy_is_what_model_generate_gives(generate, stopping_policy, few_prompts, store):
    drawn = generate(few_prompts, stopping_policy, num_completions=1, temperature=0.0)
    model, tokenizer = loading.load_model(stopping_policy), loading.load_tokenizer(stopping_policy)
    for row, messages in enumerate(few_prompts.messages):
        prompt = torch.tensor([chat.encode(tokenizer, messages)])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT, eos_token_id=EOS
        )
        assert drawn.token_ids[row, 0].tolist() == theirs[0, prompt.shape[1] :].tolist()
    assert (drawn.logprob == 0).all()
    assert (drawn.policy_logprob < 0).all()


def test_unicode_in_and_text_out(generate, random_policy, store):
    drawn = generate(asking("Zoë a 3 🥐 , combien ?", "数一数"), random_policy, num_completions=8, temperature=1.5)
    tokenizer = loading.load_tokenizer(random_policy)
    decoder = tokenizer.backend_tokenizer.decoder
    for row in range(2):
        for text, cell in zip(drawn.text[row], drawn.token_ids[row], strict=True):
            pieces = tokenizer.convert_ids_to_tokens(cell.tolist())
            assert text == decoder.decode([piece for piece in pieces if piece not in ("<pad>", "<s>", "</s>")])
    assert any(ord(letter) > 127 for row in range(2) for text in drawn.text[row] for letter in text)


def test_a_prompt_longer_than_the_context_is_refused_by_name(generate, random_policy, store):
    tokenizer = loading.load_tokenizer(random_policy)
    text = "coins " * 30
    while len(chat.encode(tokenizer, ({"role": "user", "content": text},))) + LIMIT <= 256:
        text += "x"
    with pytest.raises(BenchError, match=r"q1 has 245 tokens.*max_new_tokens=12.*256"):
        generate(asking("How many", text), random_policy)
    assert not list(store.root.rglob("*.parquet"))
    assert generate(asking(text[:-1]), random_policy).shape == (1, 4)  # one token less just fits


def test_a_policy_whose_logits_are_not_numbers_is_refused(generate, random_policy, few_prompts, store, tmp_path):
    model = loading.load_model(random_policy)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    loading.load_tokenizer(random_policy).save_pretrained(tmp_path / "broken")
    with pytest.raises(BenchError, match="not finite numbers"):
        generate(few_prompts, loading.folder(tmp_path / "broken"))


def test_the_policy_is_only_read(generate, random_policy, few_prompts, store):
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents(random_policy.path)
    generate(few_prompts, random_policy, num_completions=1)
    assert contents(random_policy.path) == before


def test_the_sampled_prompts_alone_decide(generate, random_policy, few_prompts: Prompts, store):
    """A shard drawn alone is the one that the whole pool has."""
    whole, part = (generate(prompts, random_policy) for prompts in (few_prompts, few_prompts[3:6]))
    assert ids(part) == ids(whole)[3:6]
    assert (part.policy_logprob == whole.policy_logprob[3:6]).all()
