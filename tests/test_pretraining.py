"""Pretraining: the same bytes twice, an ordinary Hugging Face folder, a tokenizer that round-trips."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import policies
from bench.artifacts import Policy
from bench.models import loading
from bench.models.chat import encode
from bench.seeds import generator
from bench.store import Store, current, using
from bench.tasks.word_problems import WordProblems
from bench.training.pretraining import batches, encode_pairs, train_tokenizer

SMALL = {"demonstrations": 300, "steps": 6, "batch_size": 8, "hidden_size": 32, "heads": 1, "feedforward_size": 64}


def small(seed: int = 0, **settings) -> Policy:
    return policies.tiny(WordProblems(), seed=seed, **(SMALL | settings))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(WordProblems().demonstrations(2000, generator(0, "test")), 400)


def test_two_trainings_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        with using(Store(tmp_path / name)):
            found.append(small(seed))
    one, two, three = found
    weights = [(policy.path / "model.safetensors").read_bytes() for policy in found]
    assert weights[0] == weights[1] != weights[2]
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert one.path != two.path


def test_neither_global_generator_nor_thread_count_matters_or_changes(tmp_path: Path) -> None:
    found = []
    threads = torch.get_num_threads()
    try:
        for seed in (5, 6):
            torch.manual_seed(seed)
            torch.set_num_threads(seed - 4)
            before = torch.get_rng_state()
            with using(Store(tmp_path / str(seed))):
                found.append(small().fingerprint)
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.get_num_threads() == seed - 4
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_the_stage_is_keyed_by_what_matters(store: Store) -> None:
    first = small()
    again = policies.tiny(WordProblems(test_prompts=7, seed=3), seed=0, **SMALL)  # no prompt enters the corpus
    assert again.path == first.path
    assert [use.reused for use in store.uses] == [False, True]
    assert small(learning_rate=1e-3).path != first.path
    counts = store.uses[0].counts
    assert counts["train_flops"] == 6 * counts["train_tokens"] * loading.load_model(first).num_parameters()
    pairs = WordProblems().demonstrations(SMALL["demonstrations"], generator(0, "pretrain", "corpus"))
    lengths = [len(p) + len(c) for p, c in encode_pairs(loading.load_tokenizer(first), pairs)]
    assert min(lengths) * 48 < counts["train_tokens"] < max(lengths) * 48


def test_the_folder_is_an_ordinary_one(store: Store) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = small()
    names = {path.name for path in policy.path.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= names
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy.path), AutoTokenizer.from_pretrained(policy.path)
    config = json.loads((policy.path / "config.json").read_text())
    generation = json.loads((policy.path / "generation_config.json").read_text())
    for name, token in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        number = tokenizer.convert_tokens_to_ids(token)
        assert getattr(tokenizer, f"{name}_token_id") == number
        assert config[f"{name}_token_id"] == generation[f"{name}_token_id"] == number
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 400
    assert str(current().root) not in "".join(path.read_text() for path in policy.path.glob("*config.json"))
    assert policies.from_folder(None, path=policy.path) == policy


def test_embeddings_are_tied_once_in_the_file(store: Store) -> None:
    from safetensors import safe_open

    with safe_open(small().path / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    assert sum("embed_tokens" in name for name in names) == 1
    assert not any("lm_head" in name for name in names)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_round_trips(tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("<pad>", "").replace("<s>", "").replace(
        "</s>", ""
    )
    assert not text or tokenizer.encode(text, add_special_tokens=False) == ids[1:]


def test_a_saved_tokenizer_is_the_same_one(store: Store) -> None:
    pairs = WordProblems().demonstrations(SMALL["demonstrations"], generator(0, "pretrain", "corpus"))
    made, loaded = train_tokenizer(pairs, 400), loading.load_tokenizer(small())
    for prompt, completion in pairs[:100]:
        assert made.encode(prompt + completion) == loaded.encode(prompt + completion)
    prompts = WordProblems().prompts("test")
    assert encode(loaded, prompts.messages[0]) == [
        loaded.bos_token_id,
        *loaded.encode(prompts.messages[0][0]["content"])[1:],
    ]


def test_prompt_and_completion_meet_as_they_do_when_a_policy_generates(tokenizer) -> None:
    pairs = WordProblems().demonstrations(200, generator(1, "test"))
    for (prompt, completion), (prompt_ids, completion_ids) in zip(pairs, encode_pairs(tokenizer, pairs), strict=True):
        assert prompt_ids + completion_ids == [*tokenizer.encode(prompt + completion), tokenizer.eos_token_id]
        assert len(completion_ids) <= 21


def test_every_number_is_one_token(tokenizer) -> None:
    for number in range(21):
        assert len(tokenizer.encode(f" {number}", add_special_tokens=False)) == 1


def test_batches_take_every_row_once_before_any_again() -> None:
    lengths = np.random.default_rng(0).integers(10, 60, size=1000)
    rows = list(batches(lengths, batch_size=8, steps=125, rng=np.random.default_rng(1)))
    assert sorted(np.concatenate(rows)) == list(range(1000))
    assert len(list(batches(lengths, batch_size=8, steps=300, rng=np.random.default_rng(1)))) == 300
    spread = np.mean([np.ptp(lengths[batch]) for batch in rows])
    assert spread < 5 < np.ptp(lengths)  # alike in length
    starts = [lengths[batch].mean() for batch in rows]
    assert abs(np.corrcoef(starts, np.arange(125))[0, 1]) < 0.3  # but not presented in order of length


def test_only_completions_carry_loss(tmp_path: Path) -> None:
    """With completions that are the same for every prompt, prompts' tokens are never learnt."""

    class Constant:
        key = "constant"

        def demonstrations(self, count, rng):
            return [(f"{rng.integers(1000)} {rng.integers(1000)}?", " yes") for _ in range(count)]

    with using(Store(tmp_path)):
        policy = policies.tiny(Constant(), seed=0, **(SMALL | {"steps": 60, "vocabulary": 280, "learning_rate": 1e-2}))
    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    ids = torch.tensor([[*tokenizer.encode("12 345? yes"), tokenizer.eos_token_id]])
    answer = len(tokenizer.encode(" yes", add_special_tokens=False)) + 1
    with torch.no_grad():
        logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert logp[-answer:].sum() > -0.1  # learnt: " yes" and EOS
    assert logp[0] < -4  # the first token after BOS is a digit in every prompt, and was never trained


def test_the_fixture_is_a_policy_that_reasons(tiny_policy: Policy) -> None:
    task = WordProblems()
    model, tokenizer = loading.load_model(tiny_policy), loading.load_tokenizer(tiny_policy)
    prompts = task.prompts("test")[:60]
    right, shaped = 0, 0
    for messages, answer in zip(prompts.messages, prompts.answer, strict=True):
        ids = torch.tensor([encode(tokenizer, messages)])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=task.max_new_tokens
        )
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        right += task.is_correct(text, answer)
        shaped += task.extract_answer(text) is not None
    assert shaped == 60
    assert right >= 6  # a constant guess is right on about 1 in 18
