"""Reward models: a text's score is that of the model's own forward on that text alone, whatever it is batched with."""

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from own_code import halved
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.models import chat
from bench.models.classifiers import batches, find
from bench.models.reward_models import shared_lengths, shares_prefixes
from bench.scoring import prepared
from bench.scoring.combined import combined
from bench.scoring.judge import judge
from bench.scoring.reward_model import reward_model
from bench.store import Store

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
SHAPE = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "num_labels": 1}
TEXTS = ["9 + 8 = 17. #### 17", "", "a", "coins " * 20, " 17", "é ü 漢 #### 3", "9 + 8 = 17. #### 17"]


def decoder(tokenizer, *, pad_token_id: int | None = 0, **settings):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        intermediate_size=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=pad_token_id,
        **{**SHAPE, "max_position_embeddings": 512, **settings},
    )
    return LlamaForSequenceClassification(config)


def with_learnt_positions(tokenizer):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_head=2, n_layer=2, n_positions=512, num_labels=1, pad_token_id=0
    )
    return GPT2ForSequenceClassification(config)


def encoder(tokenizer):
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=64, initializer_range=0.2, pad_token_id=0, **SHAPE)
    return BertForSequenceClassification(config)


@pytest.fixture
def saved(tmp_path: Path, random_policy: Policy):
    """Save a model made from a tokenizer in a folder, with that tokenizer; both after the given changes."""

    def save(make=decoder, *, template: str | None = None, pair: bool = False, pad: str | None = "<pad>", **settings):
        tokenizer = AutoTokenizer.from_pretrained(random_policy.path)
        tokenizer.chat_template, tokenizer.pad_token = template, pad
        if pair:
            from tokenizers import processors

            tokenizer.sep_token, tokenizer.cls_token = "</s>", "<s>"
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>",
                pair="<s> $A </s> $B:1 </s>:1",
                special_tokens=[("<s>", 1), ("</s>", 2)],
            )
            tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
            tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # is what is saved
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = make(tokenizer, **settings)
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder), model.eval(), tokenizer

    return save


@pytest.fixture
def pool(few_prompts: Prompts) -> Completions:
    """Each of seven prompts with seven texts, in another order for each; the first text is there twice."""
    text = np.array([np.roll(np.array(TEXTS, object), row) for row in range(len(few_prompts))])
    numbers = np.zeros(text.shape)
    return Completions(text, np.full(text.shape, None), np.full(text.shape, "stop"), numbers, numbers, key="pool")


def alone(model, inputs: dict[str, list[int]]) -> float:
    """The model's own forward on one text, nothing padded, no mask."""
    with torch.no_grad():
        return float(model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0, 0])


def one_by_one(model, tokenizer, prompts: Prompts, pool: Completions) -> np.ndarray:
    return np.array(
        [
            [alone(model, chat.encode_conversations(tokenizer, [messages], [text])[0]) for text in texts]
            for messages, texts in zip(prompts.messages, pool.text, strict=True)
        ]
    )


CASES = {
    "decoder": {},
    "decoder, chat template": {"template": TEMPLATE},
    "decoder without a pad token": {"pad": None, "pad_token_id": None},
    "decoder that pads with EOS": {"pad": "</s>", "pad_token_id": 2},
    "decoder, chat template, pads with EOS": {"template": TEMPLATE, "pad": "</s>", "pad_token_id": 2},
    "decoder, learnt positions": {"make": with_learnt_positions},
    "encoder, pairs": {"make": encoder, "pair": True},
    "encoder, chat template": {"make": encoder, "template": TEMPLATE},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_a_score_is_that_of_the_text_alone(store, saved, few_prompts, pool, case, batch_tokens):
    folder, model, tokenizer = saved(**CASES[case])
    rewards = reward_model(few_prompts, pool, model=folder, batch_tokens=batch_tokens).value
    expected = one_by_one(model, tokenizer, few_prompts, pool)
    assert len(np.unique(np.round(expected, 4))) >= 20  # the texts do differ
    np.testing.assert_allclose(rewards, expected, atol=2e-5)


@pytest.mark.parametrize("case", ["decoder", "decoder that pads with EOS"])
def test_texts_that_do_not_fit_the_gpu_are_scored_in_smaller_batches(store, saved, few_prompts, pool, case, memory_for):
    folder, model, tokenizer = saved(**CASES[case])
    expected = one_by_one(model, tokenizer, few_prompts, pool)
    refused = memory_for(2)
    np.testing.assert_allclose(reward_model(few_prompts, pool, model=folder).value, expected, atol=2e-5)
    assert refused


def test_the_conversation_is_the_templates(saved, few_prompts):
    _, _, tokenizer = saved(template=TEMPLATE)
    messages = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]
    (row,) = chat.encode_conversations(tokenizer, [messages], ["17"])
    text = "<s>[system] Count.[user] How many?[assistant] 17</s>"
    assert row == {"input_ids": tokenizer.encode(text, add_special_tokens=False)}
    assert row["input_ids"].count(1) == 1  # one BOS, the template's
    assert row["input_ids"][-1] == 2


def test_without_a_template_the_completion_follows_as_it_was_drawn(saved, random_policy, few_prompts):
    _, _, tokenizer = saved()
    (row,) = chat.encode_conversations(tokenizer, [few_prompts.messages[0]], ["9 + 8"])
    prompt = chat.encode(tokenizer, few_prompts.messages[0])
    assert row["input_ids"] == [*prompt, *tokenizer.encode("9 + 8", add_special_tokens=False), 2]


def test_an_encoder_gets_prompt_and_completion_as_a_pair(saved, few_prompts):
    _, _, tokenizer = saved(encoder, pair=True)
    (row,) = chat.encode_conversations(tokenizer, [few_prompts.messages[0]], ["9 + 8"])
    prompt, completion = (
        tokenizer.encode(text, add_special_tokens=False) for text in (few_prompts.messages[0][0]["content"], "9 + 8")
    )
    assert row["input_ids"] == [1, *prompt, 2, *completion, 2]
    assert row["token_type_ids"] == [0] * (len(prompt) + 2) + [1] * (len(completion) + 1)


def test_each_distinct_text_is_scored_once_and_again_never(store: Store, saved, few_prompts, pool):
    folder, model, tokenizer = saved()
    first = reward_model(few_prompts, pool, model=folder)
    counts = store.uses[0].counts
    inputs = [
        chat.encode_conversations(tokenizer, [messages], [text])[0]["input_ids"]
        for messages in few_prompts.messages
        for text in set(TEXTS)
    ]
    assert counts["scored"] == 7 * 6
    assert counts["scored_tokens"] == sum(map(len, inputs))
    prompts = sum(len(chat.encode(tokenizer, messages)) for messages in few_prompts.messages)
    read = sum(map(len, inputs)) - 5 * prompts  # the prompt once for its six distinct texts
    assert counts["flops"] == 2 * sum(p.numel() for p in model.parameters()) * read
    assert counts["parameters"] == sum(p.numel() for p in model.parameters())
    again = reward_model(few_prompts, pool, model=folder, batch_tokens=100)
    assert store.uses[1].reused
    assert (first.value == again.value).all()


@pytest.mark.parametrize(
    ("case", "shares"), [("decoder", True), ("decoder, learnt positions", True), ("encoder, pairs", False)]
)
def test_a_prompt_is_read_once_by_models_that_read_left_to_right(saved, case, shares):
    _, model, _ = saved(**CASES[case])
    assert shares_prefixes(model) is shares


def test_a_decoder_that_looks_ahead_reads_each_text_whole(saved):
    _, model, _ = saved()
    before = type(model.model).forward
    assert shares_prefixes(model)

    def looking_ahead(self, input_ids=None, **settings):
        result = before(self, input_ids=input_ids, **settings)
        result.last_hidden_state = result.last_hidden_state + result.last_hidden_state.mean(dim=1, keepdim=True)
        return result

    model.model.forward = looking_ahead.__get__(model.model)
    assert not shares_prefixes(model)


def test_what_texts_share_leaves_each_an_end_to_find():
    ids = [[*range(10, 20), 1, 2], [*range(10, 20), 1, 3], [*range(10, 20), 2], [*range(10, 20)], [*range(10, 20), 7]]
    group = np.array([0, 0, 1, 1, 2])
    assert shared_lengths(ids, group, pad_id=2).tolist() == [10, 10, 9, 9, 0]
    assert shared_lengths(ids, group, pad_id=None).tolist() == [11, 11, 9, 9, 0]
    assert shared_lengths([ids[2], ids[2]], group[:2], pad_id=2).tolist() == [9, 9]
    assert shared_lengths([[1, 2, 3], [1, 2, 4]], group[:2], pad_id=0).tolist() == [0, 0]


def test_another_model_in_the_same_folder_scores_anew(store: Store, saved, few_prompts, pool):
    folder, model, _ = saved()
    before = reward_model(few_prompts, pool, model=folder)
    with torch.no_grad():
        model.score.weight.mul_(-1)
    model.save_pretrained(folder)
    after = reward_model(few_prompts, pool, model=folder)
    np.testing.assert_allclose(after.value, -before.value, atol=1e-6)


def test_long_inputs_lose_what_follows_their_first_token_and_are_counted(store, saved, few_prompts, pool, capfd):
    folder, model, tokenizer = saved()
    rewards = reward_model(few_prompts, pool, model=folder, max_length=40).value
    encoded = [
        chat.encode_conversations(tokenizer, [messages], [text])[0]["input_ids"]
        for messages, texts in zip(few_prompts.messages, pool.text, strict=True)
        for text in texts
    ]
    cut = [ids if len(ids) <= 40 else [ids[0], *ids[-39:]] for ids in encoded]
    expected = np.array([alone(model, {"input_ids": ids}) for ids in cut]).reshape(rewards.shape)
    np.testing.assert_allclose(rewards, expected, atol=2e-5)
    long = {tuple(ids) for ids in encoded if len(ids) > 40}
    assert 0 < store.uses[0].counts["truncated_inputs"] == len(long) < 42
    said = f"warning: {len(long)} of 42 inputs of the reward model were longer than max_length=40 and were cut"
    assert said in capfd.readouterr().err
    reward_model(few_prompts, pool, model=folder, max_length=40)
    assert said in capfd.readouterr().err  # also where the scores were found in the store


def test_what_the_model_can_read_is_its_limit(store, saved, few_prompts, pool):
    folder, _, _ = saved()
    with pytest.raises(BenchError, match=r"scoring\.max_length=513 is more than the 512 tokens"):
        reward_model(few_prompts, pool, model=folder, max_length=513)
    assert np.isfinite(reward_model(few_prompts, pool, model=folder).value).all()
    assert store.uses[-1].counts["truncated_inputs"] == 0
    short, _, _ = saved(max_position_embeddings=50)
    reward_model(few_prompts, pool, model=short)
    assert store.uses[-1].counts["truncated_inputs"] > 0


def test_scores_that_are_not_finite_are_nan_and_counted(store, saved, few_prompts, pool, capfd):
    """A token that overflows: only texts with it are lost."""
    folder, model, tokenizer = saved()
    (unlucky,) = tokenizer.encode("é", add_special_tokens=False)[:1]
    with torch.no_grad():
        model.model.embed_tokens.weight[unlucky] = float("inf")
    model.save_pretrained(folder)
    rewards = reward_model(few_prompts, pool, model=folder)
    assert (np.isnan(rewards.value) == (pool.text == TEXTS[5])).all()
    assert rewards.unscored == 7
    assert store.uses[0].counts["not_finite"] == 7
    assert "7 of 42 scores of the reward model were not finite and count as unscored" in capfd.readouterr().err


def test_bfloat16_scores_are_read_out_in_float32(store, saved, few_prompts, pool):
    folder, model, tokenizer = saved()
    rewards = reward_model(few_prompts, pool, model=folder, dtype="bfloat16").value
    np.testing.assert_allclose(rewards, one_by_one(model, tokenizer, few_prompts, pool), atol=0.3)
    as_bfloat16 = torch.tensor(rewards).to(torch.bfloat16).double().numpy()
    assert (rewards != as_bfloat16).mean() > 0.9
    assert (rewards == rewards.astype(np.float32)).all()


def test_models_that_are_no_reward_models_are_refused(store, saved, few_prompts, pool, random_policy):
    two, _, _ = saved(num_labels=2)
    with pytest.raises(BenchError, match=r"has 2 outputs; it must be a sequence classifier with one"):
        reward_model(few_prompts, pool, model=two)
    with pytest.raises(BenchError, match=r"has 2 outputs"):  # what a causal model's config says
        reward_model(few_prompts, pool, model=str(random_policy.path))

    def causal(tokenizer):
        config = decoder(tokenizer).config
        return LlamaForCausalLM(config)

    headless, _, _ = saved(causal)
    with pytest.raises(BenchError, match=r"lack score\.weight, which would be random numbers"):
        reward_model(few_prompts, pool, model=headless)
    assert not list(store.root.glob("score_reward_model/*/*.safetensors"))


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(model):
    with pytest.raises(BenchError, match=rf"scoring\.model={model} is not a folder"):
        find(model)


def test_a_hub_model_that_is_not_at_hand_is_one_sentence():
    with pytest.raises(BenchError, match=r"scoring\.model=nobody/nothing at revision v3 is not in the .*--revision v3"):
        find("nobody/nothing", "v3")


def test_a_model_that_is_missing_is_told_before_anything_is_drawn():
    """Inside another scorer too; a scorer that names a server's model, without a revision, is left alone."""
    missing = functools.partial(reward_model, model="nobody/nothing")
    for scoring in (missing, functools.partial(combined, parts={"one": {"weight": 1.0, "scorer": missing}})):
        with pytest.raises(BenchError, match=r"scoring\.model=nobody/nothing at revision main is not in the local"):
            prepared(scoring, base=None, task=None, generation=None)
    served = functools.partial(judge, model="nobody/nothing", url="http://localhost/v1")
    assert prepared(served, base=None, task=None, generation=None).keywords["model"] == "nobody/nothing"


def test_a_hub_model_is_pinned_to_the_commit_of_its_revision(store, saved, few_prompts, pool, tmp_path, monkeypatch):
    """From a cache laid out as the hub's client does, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--judge"
    (repository / "refs").mkdir(parents=True)
    expected = []
    for revision, commit in (("main", "1" * 40), ("v2", "2" * 40)):
        folder, model, tokenizer = saved(num_hidden_layers=1) if revision == "v2" else saved()
        (repository / "refs" / revision).write_text(commit)
        (repository / "snapshots").mkdir(exist_ok=True)
        Path(folder).rename(repository / "snapshots" / commit)
        expected.append(one_by_one(model, tokenizer, few_prompts, pool))
    for revision, values in zip(("main", "v2"), expected, strict=True):
        rewards = reward_model(few_prompts, pool, model="owner/judge", revision=revision)
        np.testing.assert_allclose(rewards.value, values, atol=2e-5)
    assert find("owner/judge", "v2").revision == "2" * 40
    assert find("owner/judge").key == f"owner/judge@{'1' * 40}"
    assert not np.allclose(*expected, atol=1e-2)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchError, match=r"lacks config\.json or \*\.safetensors"):
        find(str(tmp_path))


@pytest.mark.parametrize("padding", [0, 40, 10_000])
def test_batches_hold_every_row_once_within_the_budget(padding):
    lengths = np.random.default_rng(0).integers(1, 90, 200)
    found = list(batches(lengths, 256, padding))
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    assert all(len(rows) * lengths[rows].max() <= 256 for rows in found)
    wasted = [len(rows) * lengths[rows].max() - lengths[rows].sum() for rows in found]
    assert max(wasted) <= padding
    for batch, following in pairwise(found):  # none could have taken one more
        longer = np.append(batch, following[0])
        size = len(longer) * lengths[longer].max()
        assert size > 256 or size - lengths[longer].sum() > padding


def test_a_text_longer_than_the_budget_goes_alone():
    assert [rows.tolist() for rows in batches(np.array([5, 300, 5]), 10, 128)] == [[1], [0, 2]]


def test_code_of_a_model_is_run_only_where_it_is_trusted(saved, few_prompts, pool, store, tmp_path, own_modules):
    folder, model, tokenizer = saved()
    coded = halved(folder, tmp_path / "coded")
    with pytest.raises(BenchError, match=r"coded brings Python code of its own.*: scoring\.trust_remote_code=true\."):
        reward_model(few_prompts, pool, model=str(coded))
    found = reward_model(few_prompts, pool, model=str(coded), trust_remote_code=True).value
    assert found == pytest.approx(one_by_one(model, tokenizer, few_prompts, pool) / 2, abs=1e-5)  # its code did it
    plain = reward_model(few_prompts, pool, model=folder).value
    assert reward_model(few_prompts, pool, model=folder, trust_remote_code=True).value == pytest.approx(plain, abs=1e-5)


def test_what_its_code_says_is_part_of_what_a_model_is(saved, tmp_path):
    coded = halved(saved()[0], tmp_path / "coded")
    trusted, untrusted = (find(str(coded), trust_remote_code=code).key for code in (True, False))
    assert untrusted == find(str(coded)).key != trusted
    (coded / "halving.py").write_text((coded / "halving.py").read_text() + "# changed")
    assert find(str(coded)).key == untrusted  # it is not run
    assert find(str(coded), trust_remote_code=True).key != trusted
