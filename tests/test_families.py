"""Chat formats, endings and BOS of the families that users train, through generation, rescoring and fine-tuning."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawing import asking, generate, next_logits, nll
from families import FAMILIES, make

from bench import policies
from bench.artifacts import Policy, Selection
from bench.errors import BenchError
from bench.models import chat, loading, tokens
from bench.models.logprobs import sequence_logprobs
from bench.models.tokens import ending_ids, opens_thinking, unconfigured_end
from bench.tasks.gsm8k import Gsm8k
from bench.training.sft import fine_tune, tokenized, training_log, training_set

HI = ({"role": "user", "content": "Hi"},)


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Policy] = {}

    def policy(name: str) -> Policy:
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return policy


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_reads_as_the_family_writes_it_with_one_bos(of, name):
    family, tokenizer = FAMILIES[name], loading.load_tokenizer(of(name))
    ids = chat.encode(tokenizer, HI)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == ("<s>Hi" if name == "base" else family.asked)
    assert chat.render(tokenizer, HI) == family.asked
    bos = [] if family.bos is None else [tokenizer.convert_tokens_to_ids(family.bos)]
    assert ids[: len(bos)] == bos
    assert [ids.count(token) for token in bos] == [1] * len(bos)


@pytest.mark.parametrize("name", FAMILIES)
def test_completions_end_where_the_family_ends_and_train_on_that_ending(of, name, store):
    policy, prompts = of(name), asking("How many coins?", "Hi")
    drawn = generate(prompts, policy, num_completions=24, block_size=24)
    token_ids = np.asarray(drawn.token_ids)
    tokenizer, model = loading.load_tokenizer(policy), loading.load_model(policy)
    ends = ending_ids(tokenizer, model.generation_config)
    assert ends == {tokenizer.convert_tokens_to_ids(token) for token in FAMILIES[name].endings}
    last = [int(ids[-1]) for ids in token_ids.ravel()]
    assert set(last) >= ends  # each of them was drawn
    for ids, reason in zip(token_ids.ravel(), drawn.finish_reason.ravel(), strict=True):
        assert (reason == "stop") == (int(ids[-1]) in ends)
        assert not ends.intersection(ids[:-1].tolist())
    for text in np.asarray(drawn.text).ravel():
        assert not any(token in text for token in FAMILIES[name].special)

    for row in range(len(prompts)):  # a plain forward on prompt and completion, nothing padded or cached
        prompt = chat.encode(tokenizer, prompts.messages[row])
        for column in range(0, 24, 6):
            ids = token_ids[row, column]
            logits = next_logits(policy, [*prompt, *ids.tolist()])[len(prompt) - 1 : -1].astype(float)
            logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            plain = logprobs[np.arange(len(ids)), ids].sum()
            assert drawn.policy_logprob[row, column] == pytest.approx(plain, abs=1e-3)
    assert sequence_logprobs(policy, prompts, drawn) == pytest.approx(drawn.policy_logprob, abs=1e-3)

    cells = Selection(np.repeat([0, 1], 24), np.tile(np.arange(24), 2), np.ones(48))
    rows = tokenized(training_set(prompts, drawn, cells), tokenizer, ends)
    for number, (ids, labels) in enumerate(zip(rows["input_ids"], rows["labels"], strict=True)):
        prompt = chat.encode(tokenizer, prompts.messages[number // 24])
        completion = token_ids[number // 24, number % 24].tolist()
        assert ids == [*prompt, *completion]
        assert labels == [-100] * len(prompt) + completion
    tuned = fine_tune(policy, prompts, drawn, cells, epochs=1, batch_size=48, warmup=0.0, seed=0)
    assert training_log(tuned)[0]["loss"] == pytest.approx(-drawn.policy_logprob.sum() / drawn.length.sum(), rel=1e-3)
    assert ending_ids(loading.load_tokenizer(tuned), loading.load_model(tuned).generation_config) == ends
    assert chat.encode(loading.load_tokenizer(tuned), HI) == chat.encode(tokenizer, HI)


def test_attention_scores_are_capped_where_the_model_caps_them(of, store, tmp_path):
    """transformers' "eager" attention alone does."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(of("gemma_2").path, tmp_path / "capped")
    file = tmp_path / "capped" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "attn_logit_softcapping": 0.5}))
    policy, prompts = loading.folder(tmp_path / "capped"), asking("How many coins?", "Hi")
    drawn = generate(prompts, policy, num_completions=2, block_size=2)
    model = AutoModelForCausalLM.from_pretrained(policy.path, attn_implementation="eager").eval()
    tokenizer = loading.load_tokenizer(policy)
    prompt_ids = [chat.encode(tokenizer, messages) for messages in prompts.messages]
    with torch.inference_mode():
        expected = [
            [-float(nll(model, prompt_ids[row], drawn.token_ids[row, column].tolist())) for column in (0, 1)]
            for row in (0, 1)
        ]
    assert drawn.policy_logprob == pytest.approx(np.array(expected), abs=1e-3)
    assert sequence_logprobs(policy, prompts, drawn) == pytest.approx(np.array(expected), abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_template_says_how_a_turn_ends_and_only_what_it_alone_says_sets_pools_apart(of, name):
    policy, family = of(name), FAMILIES[name]
    tokenizer = loading.load_tokenizer(policy)
    end = chat.turn_end(tokenizer)
    if family.template is None:
        assert end is None
    else:
        assert tokenizer.convert_ids_to_tokens(end) == family.asked.partition("Hi")[2].split(">")[0].strip() + ">" or (
            name == "olmo_2" and end == tokenizer.eos_token_id  # whose user turns end otherwise
        )
    assert unconfigured_end(policy) == (end if name == "qwen_2_5_base" else None)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}", None),
        ("{% for m in messages %}<|im_start|>{{ m['content'] }}  <|im_end|>\n{% endfor %}<|endoftext|>", "<|im_end|>"),
        ("{{ raise_exception('No.') }}", None),
    ],
)
def test_other_templates_end_turns_with_a_special_token_or_none(of, template, end):
    tokenizer = loading.load_tokenizer(of("qwen_2_5"))
    tokenizer.chat_template = template
    assert chat.turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].told])
def test_a_system_prompt_goes_where_the_family_puts_it(of, name):
    told = policies.from_folder(None, path=str(of(name).path), system="Be brief.")
    assert chat.render(loading.load_tokenizer(told), HI) == FAMILIES[name].told
    own = ({"role": "system", "content": "Be brief."}, *HI)
    other = policies.from_folder(None, path=str(of(name).path), system="Be long.")
    assert chat.render(loading.load_tokenizer(other), own) == FAMILIES[name].told  # a conversation's own comes first
    assert len({policy.key for policy in (of(name), told, other)}) == 3


def test_thinking_is_as_the_template_has_it_or_as_asked(of):
    folder = str(of("qwen_3").path)
    rendered = {
        thinking: chat.render(loading.load_tokenizer(policies.from_folder(None, path=folder, thinking=thinking)), HI)
        for thinking in (None, True, False)
    }
    assert rendered[None] == rendered[True] == FAMILIES["qwen_3"].asked
    assert rendered[False] == FAMILIES["qwen_3"].asked + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_templates_that_open_no_thinking_leave_the_keys_of_pools_as_they_were(of, name):
    assert not opens_thinking(of(name), asking("Hi", "What does <think> mean?"))


@pytest.mark.parametrize("tag", ["<think>", "<thinking>\n", "<think>\n\n"])
def test_a_reasoning_that_the_template_opens_and_that_does_not_end_has_no_answer(of, tag, tmp_path, store):
    shutil.copytree(of("qwen_3").path, tmp_path / "opens")
    template = tmp_path / "opens" / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + tag.replace("\n", "{{ '\\n' }}"), encoding="utf-8")
    policy, prompts = loading.folder(tmp_path / "opens"), asking("Hi", "Say 7.")
    assert opens_thinking(policy, prompts)
    drawn = generate(prompts, policy, num_completions=2)
    assert all(text.startswith(tag.strip()) for text in np.asarray(drawn.text).ravel())

    tokenizer, end = loading.load_tokenizer(policy), f"</{tag.strip()[1:]}"
    texts = ["3 + 4 = 7, so the answer is 7. Wait,", f"It is 6.{end}\n\n#### 7", f"It is 7.{end}", "It is 7.\n#### 7"]
    token_ids, zeros = np.empty((2, 2), object), np.zeros((2, 2))
    for cell, text in enumerate(texts):
        token_ids.flat[cell] = np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)
    told = {"eos_ids": {0}, "logprob": zeros, "policy_logprob": zeros, "dtype": "float32"}
    read = tokens.decode(tokenizer, token_ids, prompts, **told).text.ravel()
    assert [Gsm8k().is_correct(text, "7") for text in read] == [False, True, False, False]
    assert [end in text for text in read] == [False, True, True, False]  # <think> is a special token here


def test_a_base_model_whose_prompt_opens_a_reasoning_has_no_answer_before_it_ends(of):
    assert opens_thinking(of("base"), asking("Say 7. <think>"))
    assert not opens_thinking(of("base"), asking("Say 7. <think>no</think>"))


def test_a_tuned_policy_is_asked_as_its_base_was_by_whoever_loads_it(of, store):
    from transformers import AutoTokenizer

    odd = 'Say "no" {% if %} \\n %}\n日本 🥐'
    base = policies.from_folder(None, path=str(of("qwen_3").path), system=odd, thinking=False)
    prompts = asking("Hi")
    drawn = generate(prompts, base, num_completions=2)
    tuned = fine_tune(base, prompts, drawn, Selection(np.array([0]), np.array([0]), np.ones(1)), epochs=1, seed=0)
    text = chat.render(loading.load_tokenizer(base), HI)
    assert text.startswith(f"<|im_start|>system\n{odd}<|im_end|>")
    assert text.endswith("</think>\n\n")
    assert chat.render(AutoTokenizer.from_pretrained(tuned.path), HI) == text
    assert (tuned.system, tuned.thinking) == (None, None)
    plain = generate(prompts, of("qwen_3"), num_completions=2)
    assert plain.key != drawn.key


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("base", {"system": "Be brief."}, "no chat template that policy.system"),
        ("base", {"thinking": True}, "no chat template that policy.thinking"),
        ("llama_3", {"thinking": False}, "without thinking modes"),
    ],
)
def test_what_a_template_can_not_do_is_said_before_any_work(of, name, settings, complaint):
    with pytest.raises(BenchError, match=complaint):
        policies.from_folder(None, path=str(of(name).path), **settings)


def test_a_reward_models_template_that_refuses_is_quoted(of):
    told = ({"role": "system", "content": "Be brief."}, *HI)
    with pytest.raises(BenchError, match="refuses messages by system, user, assistant: System role not supported"):
        chat.encode_conversations(loading.load_tokenizer(of("gemma_2")), [told], ["Ho"])


def test_a_template_that_refuses_is_quoted(of):
    told = policies.from_folder(None, path=str(of("gemma_2").path), system="Be brief.")
    with pytest.raises(BenchError, match=r"refuses messages by .*System role not supported"):
        chat.render(loading.load_tokenizer(told), HI)


def test_python_files_beside_the_weights_are_not_run(of, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    policy = make("base", tmp_path / "coded")
    config = json.loads((policy.path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (policy.path / "config.json").write_text(json.dumps(config))
    (policy.path / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(BenchError, match=r"policy\.trust_remote_code=true"):
        loading.load_model(loading.folder(policy.path))
    with pytest.raises(SystemExit, match="it ran"):
        loading.load_model(replace(loading.folder(policy.path), trust_remote_code=True))
