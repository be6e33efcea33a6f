"""Pools from a real vLLM server on loopback, the CPU build with the tiny policy: pytest -m vllm."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from drawing import asking, chi_square_z, generate, ids, modified_logprobs, same

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation import http_client, server_engine
from bench.models import chat, loading
from bench.models.sampler import Sampler
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems

pytestmark = pytest.mark.vllm

LIMIT = 48
BOOT = 400  # seconds at most; half a minute on an idle machine


@pytest.fixture(scope="module")
def server(tiny_policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address and the process, whose group is the server's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    # vllm serve without its command line, which looks for a distribution named vllm; chunked prefill is what seeded
    # requests do not survive on a CPU
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_policy.path)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--dtype", "float32"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment | {"VLLM_NO_USAGE_STATS": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + BOOT
        while not healthy(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        end(process)


def healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def end(process: subprocess.Popen) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            continue


def draw(prompts: Prompts, policy: Policy, url: str, **settings) -> Completions:
    defaults = {"num_completions": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": LIMIT, "seed": 0}
    served = {"serves": str(policy.path), "url": url, "dtype": "float32", "block_size": 2, "shard_size": 20}
    return server_engine.generate(prompts, policy, **(defaults | served | settings))


@pytest.fixture(scope="module")
def problems() -> Prompts:
    return WordProblems().prompts("test")[:60]


def test_greedy_is_what_transformers_draws(server, tiny_policy, problems, store):
    settings = {"num_completions": 1, "temperature": 0.0}
    ours = generate(problems, tiny_policy, max_new_tokens=LIMIT, shard_size=60, **settings)
    theirs = draw(problems, tiny_policy, server[0], **settings)
    assert ids(theirs) == ids(ours)
    assert (np.asarray(theirs.text) == np.asarray(ours.text)).all()
    assert (theirs.finish_reason == ours.finish_reason).all()
    np.testing.assert_allclose(theirs.policy_logprob, ours.policy_logprob, atol=1e-3)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(0.7, 0.9, 0), (1.3, 0.9, 0), (1.0, 1.0, 5)])
def test_first_tokens_fit_the_exact_distribution(server, tiny_policy, store, temperature, top_p, top_k):
    prompts, count = asking("How many"), 1500  # an unsure beginning
    sampler = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    drawn = draw(prompts, tiny_policy, server[0], num_completions=count, max_new_tokens=1, block_size=count, **sampler)
    encoded = chat.encode(loading.load_tokenizer(tiny_policy), prompts.messages[0])
    with torch.inference_mode():
        logits = loading.load_model(tiny_policy)(torch.tensor([encoded])).logits[0, -1].numpy()
    observed = np.bincount([cell[0] for cell in drawn.token_ids[0]], minlength=len(logits))
    exact = np.exp(modified_logprobs(logits, Sampler(temperature, top_p, top_k)))
    assert observed[exact == 0].sum() == 0
    assert chi_square_z(observed, exact * count) < 3.5
    other = np.exp(modified_logprobs(logits, Sampler(temperature * 1.5, top_p, top_k)))
    assert chi_square_z(observed, other * count) > 5  # the test can tell a wrong temperature


def test_pools_nest_and_repeat(server, tiny_policy, problems, tmp_path):
    problems = problems[:30]
    with using(Store(tmp_path / "one")):
        four = draw(problems, tiny_policy, server[0])
        six = draw(problems, tiny_policy, server[0], num_completions=6)
    assert ids(four) == [row[:4] for row in ids(six)]
    with using(Store(tmp_path / "other")):
        assert same(six, draw(problems, tiny_policy, server[0], num_completions=6, concurrency=3))
    distinct = {cell for row in ids(six) for cell in row}
    assert len(distinct) > 120  # of 180: no two prompts or samples share a stream


def test_without_token_ids_texts_are_tokenized_again(server, tiny_policy, problems, tmp_path):
    pools = []
    for extended_fields in (True, False):
        with using(Store(tmp_path / str(extended_fields))) as store:
            pools.append(draw(problems, tiny_policy, server[0], temperature=1.5, extended_fields=extended_fields))
            otherwise = sum(use.counts["retokenized_otherwise"] for use in store.uses)
    exact, again = pools
    assert (np.asarray(exact.text) == np.asarray(again.text)).all()
    assert (exact.finish_reason == again.finish_reason).all()
    differ = sum(a != b for x, y in zip(ids(exact), ids(again), strict=True) for a, b in zip(x, y, strict=True))
    assert 0 < otherwise <= differ < 60  # a text in as many other tokens is not noticed


def test_another_policy_is_noticed(server, tiny_policy, problems, tmp_path, store):
    model = loading.load_model(tiny_policy)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=noise)
    model.save_pretrained(tmp_path / "other")
    loading.load_tokenizer(tiny_policy).save_pretrained(tmp_path / "other")
    with pytest.raises(BenchError, match=r"serves another model than .*other: .* nats per token"):
        draw(problems, loading.folder(tmp_path / "other"), server[0])


def test_chat_without_a_template_is_refused_in_the_server_s_words(server, tiny_policy, problems, store):
    with pytest.raises(BenchError, match=r"answers 400: .*chat template.*\(prompt test-"):
        draw(problems, tiny_policy, server[0], endpoint="chat")


def test_a_whole_experiment_with_the_tuned_policies_drawn_elsewhere(server, tiny_policy, tmp_path):
    sizes = ["task.train_prompts=24", "task.test_prompts=8", "num_completions=4", "baseline_completions=8"]
    sizes += ["training.epochs=1", "evaluation.temperatures=null", "evaluation.lm_eval=false"]
    command = [sys.executable, "-m", "bench", "generation=openai", f"generation.url={server[0]}", "policy=folder"]
    command += [f"policy.path={tiny_policy.path}", "evaluation.num_completions=2", "tracking=none", *sizes]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("generation.others draws from") == 2  # tuned and control
    (path,) = tmp_path.glob("outputs/*/*/lineage.json")
    engines: dict[str, set[str]] = {}
    for use in json.loads(path.read_text()):
        if use["stage"] == "generate":
            engines.setdefault(use["parents"]["policy"], set()).add(use["settings"]["engine"])
    assert engines.pop(tiny_policy.fingerprint) == {"openai/completions"}
    assert list(engines.values()) == [{"transformers"}] * 2


def test_a_killed_server_costs_the_unit_that_was_being_drawn(server, tiny_policy, problems, tmp_path, monkeypatch):
    """The last test: the server is gone."""
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 0.05)
    units = tmp_path / "store" / "generate"

    def kill_after_a_unit() -> None:
        while not finished(units):
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(server[1].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_unit)
    killer.start()
    with (
        using(Store(tmp_path / "store")),
        pytest.raises(http_client.UnavailableError, match="3 times in a row"),
    ):
        draw(problems, tiny_policy, server[0], num_completions=32, block_size=4, seed=1, retries=2)
    killer.join()
    assert 1 <= len(finished(units)) < 24
    assert all((path.parent / "manifest.json").is_file() for path in finished(units))
    assert not list(units.glob("**/.making*"))


def finished(units: Path) -> list[Path]:
    return [path for path in units.glob("*/*/completions.parquet") if not path.parent.name.startswith(".")]
