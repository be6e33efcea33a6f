"""Policy KL and sequence log-probabilities against every sequence of a policy small enough to enumerate."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import modified_logprobs
from safetensors.numpy import load_file

from bench import devices
from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.models import loading
from bench.models.logprobs import divergence_samples, sequence_logprobs
from bench.models.sampler import GREEDY, RAW, Sampler
from bench.store import Store

WORDS = ["<pad>", "<s>", "</s>", "a", "b", "c"]
EOS, LIMIT = 2, 3
PROMPTS = Prompts(
    id=np.array(["short", "long"]),
    messages=tuple(({"role": "user", "content": text},) for text in ("a b", "c c b a b a c")),
    answer=np.array(["", ""]),
)


def small_policy(path: Path, seed: int) -> Policy:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.6,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(path)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(path)
    return loading.folder(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    folder = tmp_path_factory.mktemp("pair")
    return small_policy(folder / "policy", 0), small_policy(folder / "reference", 1)


def every_completion() -> Completions:
    """[2, all]: each sequence that ends in EOS, or at the limit without it; the pad token is one like any other."""
    stopped = [(*head, EOS) for n in range(LIMIT) for head in itertools.product([0, 1, 3, 4, 5], repeat=n)]
    cut = list(itertools.product([0, 1, 3, 4, 5], repeat=LIMIT))
    ids = np.empty((2, len(stopped) + len(cut)), object)
    for column, sequence in enumerate([*stopped, *cut]):
        ids[0, column] = ids[1, column] = np.array(sequence, np.int32)
    reasons = np.array([["stop"] * len(stopped) + ["length"] * len(cut)] * 2)
    nothing = np.zeros(ids.shape)
    return Completions(np.full(ids.shape, "", object), ids, reasons, nothing, nothing, key="every completion")


def by_hand(policy: Policy, completions: Completions, sampler: Sampler = RAW) -> np.ndarray:
    """[M, N] log-probabilities, one unpadded forward a sequence, summed step by step."""
    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    total = np.zeros(completions.shape)
    for row, messages in enumerate(PROMPTS.messages):
        prompt = tokenizer.encode(messages[0]["content"])
        for column, drawn in enumerate(completions.token_ids[row]):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *drawn.tolist()]])).logits[0].numpy()
            for step, token in enumerate(drawn):
                total[row, column] += modified_logprobs(logits[len(prompt) - 1 + step], sampler)[token]
    return total


@pytest.mark.parametrize("sampler", [RAW, Sampler(0.7, 0.8), Sampler(1.4), Sampler(0.3), GREEDY])
def test_expectations_over_every_sequence_are_the_exact_kl(pair, store: Store, sampler):
    policy, reference = pair
    completions = every_completion()
    ours, theirs = by_hand(policy, completions, sampler), by_hand(reference, completions)
    probability = np.exp(ours)
    assert probability.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    drawn = probability > 0
    exact = np.where(drawn, probability * (np.where(drawn, ours, 0) - theirs), 0).sum(axis=1)
    assert (exact > 0.05).all()

    found = divergence_samples(policy, reference, PROMPTS, completions, **sampler.settings)
    assert (probability * found.rao_blackwell).sum(axis=1) == pytest.approx(exact, abs=1e-5)
    assert (probability * found.k1).sum(axis=1) == pytest.approx(exact, abs=1e-5)
    assert (found.rao_blackwell >= -1e-6).all()


@pytest.mark.parametrize("sampler", [RAW, Sampler(0.7, 0.8)])
def test_sequence_logprobs_are_those_of_one_forward_a_sequence(pair, sampler):
    completions = every_completion()
    expected = by_hand(pair[0], completions, sampler)
    found = sequence_logprobs(pair[0], PROMPTS, completions, sampler)
    inside = np.isfinite(expected)
    assert inside.any()
    assert found[inside] == pytest.approx(expected[inside], rel=1e-5)  # float32 sums of a dozen large terms


def test_a_policy_is_at_no_distance_from_itself(pair, store: Store):
    found = divergence_samples(pair[0], pair[0], PROMPTS, every_completion(), temperature=1.0, top_p=1.0)
    assert (found.rao_blackwell == 0).all()
    assert (found.k1 == 0).all()


def test_the_same_weights_in_another_folder_are_at_no_distance_through_two_models(pair, store: Store, tmp_path: Path):
    twin = small_policy(tmp_path / "twin", 0)
    other = Policy(twin.path, "told apart")
    found = divergence_samples(pair[0], other, PROMPTS, every_completion(), temperature=1.0, top_p=1.0)
    assert np.abs(found.rao_blackwell).max() < 1e-5
    assert np.abs(found.k1).max() < 1e-5


def test_batches_change_no_number(pair, store: Store):
    completions = every_completion()
    found = [
        sequence_logprobs(pair[0], PROMPTS, completions, Sampler(0.9, 0.95), batch_tokens=tokens)
        for tokens in (1, 40, 10**6)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_a_long_completion_is_measured_in_parts(pair, monkeypatch):
    from bench.models import logprobs

    given = (pair[0], PROMPTS, every_completion(), Sampler(0.7, 0.8))
    whole = sequence_logprobs(*given)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 2 * len(WORDS))  # two steps of one completion
    measured, measure = [], logprobs._sampler_logprobs

    def spy(logits, *others):
        measured.append(tuple(logits.shape[:2]))
        return measure(logits, *others)

    monkeypatch.setattr(logprobs, "_sampler_logprobs", spy)
    assert sequence_logprobs(*given) == pytest.approx(whole, abs=1e-5)
    assert set(measured) == {(1, 1), (1, 2)}


def test_a_model_that_takes_no_positions_and_gives_all_logits_is_scored_alike(pair, monkeypatch):
    from transformers import LlamaForCausalLM

    class Plain(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask)

    expected = sequence_logprobs(pair[0], PROMPTS, every_completion())
    monkeypatch.setattr(loading, "load_model", lambda policy, **_: Plain.from_pretrained(policy.path).eval())
    assert sequence_logprobs(pair[0], PROMPTS, every_completion()) == pytest.approx(expected, abs=1e-4)


def test_a_model_of_texts_and_images_is_scored(pair, tmp_path: Path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(WORDS), "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    config = Gemma3Config(text_config=text, vision_config={**small, "image_size": 28, "patch_size": 14})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    loading.load_tokenizer(pair[0]).save_pretrained(tmp_path)
    policy = loading.folder(tmp_path)
    completions = every_completion()
    assert sequence_logprobs(policy, PROMPTS, completions) == pytest.approx(by_hand(policy, completions), abs=1e-4)


def test_completions_that_do_not_fit_the_gpu_are_read_in_smaller_batches(pair, store: Store, memory_for):
    completions = every_completion()
    by_hand = sequence_logprobs(pair[0], PROMPTS, completions, batch_tokens=1)
    distances = divergence_samples(*pair, PROMPTS, completions, temperature=0.9, top_p=1.0, batch_tokens=1)
    refused = memory_for(1)
    assert (sequence_logprobs(pair[0], PROMPTS, completions) == by_hand).all()
    assert refused[-1] in (2, 3)
    again = divergence_samples(*pair, PROMPTS, completions.first(20), temperature=0.9, top_p=1.0)
    assert (again.rao_blackwell == distances.rao_blackwell[:, :20]).all()
    assert (again.k1 == distances.k1[:, :20]).all()


def test_one_that_does_not_fit_alone_is_refused_and_other_errors_stay_as_they_are():
    def fail(part: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.") if len(part) < 3 else KeyError("other")

    halving = devices.Halving("completion", "set this")
    with pytest.raises(BenchError, match=r"^The GPU's memory ran out with one completion at a time: set this\.$"):
        list(halving.each(fail, [[1, 2]]))
    with pytest.raises(KeyError, match="other"):
        list(devices.Halving("completion", "set this").each(fail, [[1, 2, 3]]))


def test_half_of_a_gpus_free_memory_is_planned_for(monkeypatch):
    assert devices.that_fit(5, 1.0, 10**6) == 5
    monkeypatch.setattr(devices, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 600)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 400)
    assert devices.that_fit(5, 2.0, 10**6) == 300  # (1000 + 600 - 400) / 2 bytes, 2 bytes each
    assert devices.that_fit(5, 2.0, 100) == 100
    assert devices.that_fit(5, 1e6, 100) == 1


def test_memory_is_bounded_by_the_batch(monkeypatch):
    from bench.models import logprobs

    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 1000)
    lengths, steps = np.array([30, 12, 25, 9, 40, 12]), np.array([10, 2, 5, 3, 20, 2])
    batches = list(logprobs._batches(lengths, steps, 60, 30, padded=True))
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    for cells in batches:
        padded = len(cells) * lengths[cells].max(), len(cells) * (steps[cells].max() + 1) * 30
        assert len(cells) == 1 or (padded[0] <= 60 and padded[1] <= 1000)
    assert max(map(len, batches)) > 1


def test_what_is_stored_is_what_is_returned(pair, store: Store):
    for _ in range(2):
        found = divergence_samples(*pair, PROMPTS, every_completion(), temperature=1.0, top_p=1.0)
    assert [use.reused for use in store.uses] == [False, True]
    (path,) = store.root.glob("divergence_samples/*/divergence.safetensors")
    assert (load_file(path)["k1"] == found.k1).all()


def test_a_model_that_padding_harms_is_scored_in_batches_of_equal_lengths(monkeypatch):
    from bench.models import logprobs

    lengths, steps = np.array([30, 12, 30, 9, 12, 12]), np.full(6, 2)
    batches = [sorted(lengths[batch].tolist()) for batch in logprobs._batches(lengths, steps, 10**6, 30, padded=False)]
    assert batches == [[30, 30], [12, 12, 12], [9]]
