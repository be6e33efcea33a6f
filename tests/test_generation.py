"""The contract of sampling with transformers: exact distributions, log-probabilities and limits; other families."""

import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import LIMIT, asking, generate, ids, modified_logprobs, next_logits, same

from bench.artifacts import Policy, Prompts
from bench.errors import BenchError
from bench.generation import decoding, transformers_engine
from bench.models import chat, kv_cache, loading, sampler
from bench.models.logprobs import sequence_logprobs
from bench.models.sampler import RAW, Sampler
from bench.seeds import generator, stream_key
from bench.store import Store, using


@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_log_probabilities_hold_in_a_batch_with_finished_rows(random_policy, few_prompts, store, top_p):
    wide = {"num_completions": 60, "block_size": 60, "shard_size": 7, "top_p": top_p}
    drawn = generate(few_prompts, random_policy, **wide)
    assert 0 < (drawn.finish_reason == "stop").mean() < 0.1  # too few for the batch to be packed anew
    for p, found in ((top_p, drawn.logprob), (1.0, drawn.policy_logprob)):
        scored = sequence_logprobs(random_policy, few_prompts, drawn, Sampler(top_p=p))
        np.testing.assert_allclose(found, scored, atol=1e-4)


def assert_greedy_agrees(policy: Policy, prompts: Prompts, eos: list[int]) -> None:
    drawn = generate(prompts, policy, num_completions=1, temperature=0.0)
    model, tokenizer = loading.load_model(policy), loading.load_tokenizer(policy)
    for row, messages in enumerate(prompts.messages):
        prompt = torch.tensor([chat.encode(tokenizer, messages)])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT, eos_token_id=eos
        )
        assert drawn.token_ids[row, 0].tolist() == theirs[0, prompt.shape[1] :].tolist()
    assert (drawn.logprob == 0).all()


def sampled_one_by_one(policy: Policy, prompts: Prompts, count: int, sampler: Sampler) -> list:
    """What the contract says, in plain NumPy: each token from all that precede it, by its own stream's next number."""
    model, tokenizer, drawn = loading.load_model(policy), loading.load_tokenizer(policy), []
    for name, messages in zip(prompts.id, prompts.messages, strict=True):
        prompt = chat.encode(tokenizer, messages)
        drawn.append([])
        for sample in range(count):
            cell: list[int] = []
            for uniform in generator(0, "generate", str(name), sample).random(LIMIT):
                with torch.inference_mode():
                    logits = model(torch.tensor([[*prompt, *cell]]), use_cache=False).logits[0, -1].numpy()
                probabilities = np.exp(modified_logprobs(logits, sampler))
                order = np.arange(len(logits)) if sampler.top_p == 1 else np.argsort(probabilities, kind="stable")
                cumulative = probabilities[order].cumsum()
                cell.append(int(order[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")]))
                if cell[-1] == 2:
                    break
            drawn[-1].append(tuple(cell))
    return drawn


@pytest.mark.parametrize("sampler", [RAW, Sampler(0.7, 0.9), Sampler(1.3, 0.8, 40), Sampler(top_k=5)])
def test_each_sample_follows_its_own_stream(random_policy, few_prompts, store, sampler):
    prompts = few_prompts[:4]  # two shards
    drawn = generate(prompts, random_policy, **sampler.settings)
    assert ids(drawn) == sampled_one_by_one(random_policy, prompts, 4, sampler)


SHARING = ["bloom", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "mistral", "opt", "phi", "qwen2", "qwen3", "xglm"]
PLAIN = ["jamba", "mamba", "openai-gpt", "recurrent_gemma"]


@pytest.mark.parametrize("family", [*SHARING, *PLAIN])
def test_any_family_agrees_with_generate_and_with_one_by_one(
    random_policy, few_prompts, store, tmp_path, capsys, family
):
    policy, prompts = of_family(family, random_policy, tmp_path), few_prompts[:4]  # two shards, of two blocks each
    assert_greedy_agrees(policy, prompts, [2])
    drawn = generate(prompts, policy, num_completions=3, top_p=0.9)
    assert ids(drawn) == sampled_one_by_one(policy, prompts, 3, Sampler(top_p=0.9))
    assert sequence_logprobs(policy, prompts, drawn) == pytest.approx(drawn.policy_logprob, abs=1e-3)
    assert ("reads its prompt anew" in capsys.readouterr().err) == (family in PLAIN)


def test_without_sharing_the_contract_is_the_same(random_policy, few_prompts, store, tmp_path, capsys):
    policy = of_family("mamba", random_policy, tmp_path)
    at_once = generate(few_prompts, policy, num_completions=6, temperature=0.8)
    assert capsys.readouterr().err.count("reads its prompt anew") == 1
    with using(Store(tmp_path / "another")):
        generate(few_prompts, policy, num_completions=2, temperature=0.8)
        assert same(generate(few_prompts, policy, num_completions=6, temperature=0.8), at_once)
    for temperature, found in ((0.8, at_once.logprob), (1.0, at_once.policy_logprob)):
        for row, messages in enumerate(few_prompts.messages):
            prompt = chat.encode(loading.load_tokenizer(policy), messages)
            for column, cell in enumerate(at_once.token_ids[row]):
                logits = next_logits(policy, [*prompt, *cell.tolist()])[len(prompt) - 1 : -1]
                exact = modified_logprobs(logits, Sampler(temperature))[np.arange(len(cell)), cell].sum()
                assert found[row, column] == pytest.approx(exact, abs=1e-4)
    stopped = at_once.finish_reason == "stop"
    assert stopped.any()
    assert not stopped.all()
    for cell, reason in zip(np.asarray(at_once.token_ids).flat, at_once.finish_reason.flat, strict=True):
        assert 2 not in cell[:-1]
        assert (cell[-1] == 2) == (reason == "stop")
        assert reason == "stop" or len(cell) == LIMIT


def of_family(family: str, tokens_from: Policy, path: Path) -> Policy:
    """A random model of another architecture with the random policy's tokenizer; windows shorter than the prompts."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = loading.load_tokenizer(tokens_from)
    own = {
        "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_dt_rank": 4},
        "recurrent_gemma": {"num_key_value_heads": 1, "attention_window_size": 16, "num_hidden_layers": 3},
        **{name: {"sliding_window": 16} for name in ("mistral", "gemma2", "gemma3_text")},
        **{name: {"n_embd": 64, "n_layer": 2, "n_head": 4} for name in ("gpt2", "openai-gpt", "bloom")},
        "xglm": {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96},
    }
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{**shape, **own.get(family, {})},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path / family)
    tokenizer.save_pretrained(path / family)
    return loading.folder(path / family)


def test_rows_move_into_the_gaps_of_dropped_ones():
    from transformers.cache_utils import Cache

    layer = kv_cache.GrowingLayer(4)
    layer.update(*torch.arange(2 * 5 * 3 * 2 * 2.0).reshape(2, 5, 3, 2, 2))
    before = [part.clone() for part in layer.filled()]
    kept = torch.tensor([1, 2, 4])
    order = kv_cache.drop(Cache(layers=[layer]), kept)
    assert order.tolist() == [4, 1, 2]  # only the last row was copied
    for part, original in zip(layer.filled(), before, strict=True):
        assert torch.equal(part, original[order])
    assert torch.equal(layer.repeated(2, 9, 9, kv_cache.Room()).filled()[1], layer.filled()[1].repeat_interleave(2, 0))


def test_a_caches_memory_is_used_again_where_it_is_large_enough():
    from transformers.cache_utils import Cache

    room, layer = kv_cache.Room(), kv_cache.GrowingLayer(3)
    layer.update(*torch.randn(2, 5, 3, 3, 2))
    small, large = (Cache(layers=[layer.repeated(copies, 4, 6, room)]) for copies in (1, 2))
    parts = {part.data_ptr() for part in (large.layers[0].keys, large.layers[0].values)}
    for cache in (small, large):
        room.give_back(cache)
    for _ in range(2):
        again = Cache(layers=[layer.repeated(2, 5, 6, room)])
        assert {part.data_ptr() for part in (again.layers[0].keys, again.layers[0].values)} == parts
        for part, original in zip(again.layers[0].filled(), layer.filled(), strict=True):
            assert torch.equal(part, original.repeat_interleave(2, 0))
        room.give_back(again)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_attention_of_one_query_is_that_of_torch(monkeypatch, mask, key_heads, on_cpu):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from bench.models.kv_cache import attend

    monkeypatch.setattr(sampler, "on_cpu", lambda _: on_cpu)
    random = torch.Generator().manual_seed(0)
    query = torch.randn(5, 1, 6, 8, generator=random).transpose(1, 2)
    key, value = (torch.randn(5, key_heads, 11, 8, generator=random) for _ in range(2))
    seen = torch.rand(5, 1, 1, 11, generator=random) < 0.7
    seen[..., -1] = True
    masks = {"none": None, "bool": seen, "float": torch.zeros(5, 1, 1, 11).masked_fill(~seen, -1e9)}
    module = torch.nn.Module()
    module.num_key_value_groups = 6 // key_heads
    given = (module, query, key, value, masks[mask], 0.0, 0.3)
    torch.testing.assert_close(attend(*given)[0], sdpa_attention_forward(*given)[0])


def test_uniforms_are_those_of_the_generator_of_each_key():
    keys = [stream_key(7, "generate", "p", sample) for sample in range(20)]
    expected = [generator(7, "generate", "p", sample).random(13) for sample in range(20)]
    np.testing.assert_array_equal(transformers_engine._uniforms(keys, 13), expected)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("kind", ["peaked", "flat", "tied"])
def test_a_large_vocabularys_nucleus_is_exact(monkeypatch, kind, on_cpu):
    monkeypatch.setattr(sampler, "on_cpu", lambda _: on_cpu)
    rng, size = np.random.default_rng(3), 5000
    logits = {
        "peaked": rng.normal(0, 3, (40, size)),
        "flat": rng.normal(0, 0.1, (40, size)),  # its nucleus holds thousands
        "tied": rng.integers(0, 9, (40, size)) / 2.0,
    }[kind].astype(np.float32)
    uniforms = rng.random(40)
    nucleus = Sampler(0.7, 0.9)
    exact = modified_logprobs(logits, nucleus)
    kept = torch.isfinite(sampler.truncate(torch.from_numpy(logits), nucleus)).numpy()
    assert (kept != np.isfinite(exact)).sum() <= (kind != "peaked") * 40  # float32 masses: a token at the edge a row
    order = np.argsort(np.exp(exact), axis=-1, kind="stable")
    cumulative = np.take_along_axis(np.exp(exact), order, -1).cumsum(-1)
    places = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1, keepdims=True)
    expected = np.take_along_axis(order, places, -1)[:, 0]
    drawn, logprobs = decoding.draw(torch.from_numpy(logits), torch.from_numpy(uniforms), nucleus)
    if kind == "flat":  # neighbours are 1e-4 apart in mass: at most one place off
        np.testing.assert_allclose(logits[np.arange(40), drawn], logits[np.arange(40), expected], atol=1e-3)
    else:
        assert (drawn.numpy() == expected).mean() >= 0.95
    np.testing.assert_allclose(logprobs[:, 0], exact[np.arange(40), drawn], atol=1e-3)
    np.testing.assert_allclose(logprobs[:, 1], modified_logprobs(logits)[np.arange(40), drawn], atol=1e-4)


@pytest.mark.parametrize("size", [300, 512, 5000])
def test_a_gpus_draw_by_blocks_is_a_cpus(monkeypatch, size):
    rng = np.random.default_rng(1)
    weights = rng.gamma(0.05, size=(200, size)).astype(np.float32)
    weights[:50] = rng.integers(0, 2, (50, size))  # ties, and half of the tokens never drawn
    weights[:100, :: size - 1] = 0
    weights /= weights.sum(-1, keepdims=True)
    uniforms = rng.random((200, 1))
    uniforms[::10] = np.nextafter(1, 0)
    uniforms[1::10] = 0
    given = torch.from_numpy(weights), torch.from_numpy(uniforms)
    expected, mass = sampler.at_quantile(*given)
    monkeypatch.setattr(sampler, "on_cpu", lambda _: False)
    drawn, found = sampler.at_quantile(*given)
    assert (given[0].gather(-1, drawn) > 0).all()
    np.testing.assert_allclose(found, mass, rtol=1e-12)
    inner = (uniforms > 0) & (uniforms < 0.999999)
    assert torch.equal(drawn[inner], expected[inner])
    assert not any(torch.isfinite(sampler.at_quantile(given[0] * torch.nan, given[1])[1]))


def test_a_prompt_longer_than_the_context_is_refused_by_name(random_policy, store):
    with pytest.raises(BenchError, match=r"q1.*256"):
        generate(asking("How many", "How many coins? " * 100), random_policy)
    assert not list(store.root.rglob("*.parquet"))


def test_positions_that_a_batch_stretches_are_used_up_to_where_that_begins():
    from transformers import LlamaConfig, Phi3Config

    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 160}
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 40}
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    stretched = Phi3Config(**shape, original_max_position_embeddings=40, rope_parameters=longrope)
    assert loading.context(stretched) == 40
    assert loading.context(Phi3Config(**shape)) == 160
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}  # stretches beyond the configured length
    assert loading.context(LlamaConfig(**shape, rope_parameters=dynamic)) == 160


def test_a_family_that_transformers_computes_wrongly_in_batches_is_refused(random_policy, few_prompts, store, tmp_path):
    shutil.copytree(random_policy.path, tmp_path / "rwkv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_engine, "MISTAKEN_IN_BATCHES", ("llama",))
        with pytest.raises(BenchError, match="llama models wrongly"):
            generate(few_prompts, loading.folder(tmp_path / "rwkv"))


def test_prefills_beyond_the_token_budget_are_not_kept(random_policy, few_prompts, store, monkeypatch):
    alive, most = [], []
    prefill = decoding.prefill

    def counted(model, prompt_ids):
        made = prefill(model, prompt_ids)
        alive.append(weakref.ref(made))
        most.append(sum(ref() is not None for ref in alive))
        return made

    monkeypatch.setattr(decoding, "prefill", counted)
    generate(few_prompts, random_policy, shard_size=7, num_completions=4, batch_tokens=100)
    assert len(most) >= 7
    assert max(most) <= 2  # the one at work, and the next


def test_prompts_that_do_not_fit_the_gpu_are_drawn_in_smaller_batches(
    random_policy, few_prompts, store, memory_for, tmp_path
):
    asked = {"num_completions": 4, "shard_size": 7}
    with using(Store(tmp_path / "by hand")):
        by_hand = generate(few_prompts, random_policy, batch_tokens=1, **asked)
    refused = memory_for(4)
    found = generate(few_prompts, random_policy, **asked)
    assert refused == [7, 6]  # seven prompts are read; two samples of each of three are drawn
    assert same(found, by_hand)
    memory_for(1)
    with pytest.raises(BenchError, match=r"memory ran out with one prompt at a time: lower generation\.block_size"):
        generate(few_prompts, random_policy, seed=1, **asked)


def test_an_adapter_is_a_policy_of_its_own_and_of_its_base(random_policy, few_prompts, store, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = loading.folder(shutil.copytree(random_policy.path, tmp_path / "base"))
    model = get_peft_model(loading.load_model(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    loading.load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    adapter = loading.folder(tmp_path / "adapter")
    assert ids(generate(few_prompts, adapter)) == ids(generate(few_prompts, base))  # a new adapter changes nothing yet
    (tmp_path / "base" / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.5}')
    assert loading.folder(tmp_path / "adapter").fingerprint != adapter.fingerprint != base.fingerprint


def test_a_policy_whose_logits_are_not_numbers_is_refused(random_policy, few_prompts, store, tmp_path):
    model = loading.load_model(random_policy)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    loading.load_tokenizer(random_policy).save_pretrained(tmp_path / "broken")
    with pytest.raises(BenchError, match=r"finite|not numbers|NaN"):
        generate(few_prompts, loading.folder(tmp_path / "broken"))
