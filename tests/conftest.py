"""Fixtures shared by the tests: a store in a temporary folder, small policies, and what all workers share."""

import gc
import os
import shutil
import subprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and `make test` runs one process per core
# GPUs are hidden, as numbers are compared that are exact on a CPU alone; tests marked `cuda` or `vllm` see them again
os.environ.setdefault("BENCH_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # CUDA starts when it is first used

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from drawing import EOS
from hypothesis import settings
from sandbox_attacks import skip_where_it_may_not
from sharing import Finished, Shared, shared_folder

from bench import policies
from bench.artifacts import Policy, Prompts
from bench.devices import device
from bench.models import loading
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems

# The same examples on every run, and no failure because a machine is busy.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs, for tests marked `cuda` or `vllm`; the former are skipped where there are none."""
    marks = {mark.name for mark in request.node.iter_markers()}
    if marks & {"cuda", "vllm"}:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        if (visible := os.environ["BENCH_GPUS"]) != "all":
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if "cuda" in marks and device() == "cpu":
        pytest.skip("there is no GPU")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Seek no garbage while tests are collected, nor afterwards among what was imported; seek it seldom in tests."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.set_threshold(10_000, 10, 1000)
    gc.enable()
    return collected


@pytest.fixture(autouse=True)
def what_stays_is_no_garbage() -> Iterator[None]:
    """Each training collects garbage: from the first on, not among what was imported or is kept for other tests."""
    yield
    if _whole_collections() > _at_last_freeze[0]:
        gc.collect()
        gc.freeze()
        _at_last_freeze[0] = _whole_collections()


_at_last_freeze = [0]


def _whole_collections() -> int:
    return gc.get_stats()[-1]["collections"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with using(Store(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What all workers share."""
    return Shared(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def random_policy(shared: Shared) -> Policy:
    """A randomly initialised 2-layer Llama with a byte-level BPE tokenizer, BOS and EOS; its samples are noise."""
    return loading.folder(shared.once("random_policy", _save_random_policy))


def _save_random_policy(path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["Leo has 9 coins. How many in all? 9 + 8 = 17. #### 17"] * 8, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    fast.save_pretrained(path)


@pytest.fixture(scope="session")
def tiny_policy(shared: Shared) -> Policy:
    """The default policy, which is shipped: right now and then."""
    with using(Store(shared.root / "store")):
        return policies.tiny(WordProblems(), seed=0)


@pytest.fixture(scope="session")
def finished_run(shared: Shared, tiny_policy: Policy) -> Callable[..., Finished]:
    """Run a small experiment of the tiny policy once for all workers, in the shared store. Given: its settings."""
    return lambda *settings: shared.run(tiny_policy, *settings)


@pytest.fixture
def few_prompts() -> Prompts:
    """Seven prompts of different lengths, with numeric answers."""
    texts = [f"Leo has {n} coins. " + "Eve has 1 fewer. " * (n % 3) + "How many coins in all?" for n in range(3, 10)]
    return Prompts(
        id=np.array([f"p{i}" for i in range(len(texts))]),
        messages=tuple(({"role": "user", "content": text},) for text in texts),
        answer=np.array([str(n) for n in range(3, 10)]),
    )


@pytest.fixture(scope="session")
def stopping_policy(random_policy: Policy, shared: Shared) -> Policy:
    """The random policy with forty tokens that end a generation, so that most completions stop early."""

    def save(path: Path) -> None:
        shutil.copytree(random_policy.path, path, dirs_exist_ok=True)
        model = loading.load_model(random_policy)
        model.generation_config.eos_token_id = EOS
        model.generation_config.save_pretrained(path)

    return loading.folder(shared.once("stopping_policy", save))


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """From now on a Llama's forward (or, where asked, its backward) runs out of a GPU's memory above so many rows.

    Returned is a list that grows by the rows of each batch that did not fit.
    """
    import torch
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def limit(most: int, *, backward: bool = False) -> list[int]:
        refused: list[int] = []

        def run_out(rows: int) -> None:
            refused.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory.")

        def limited(self, input_ids=None, **given):
            packed = len(input_ids) == 1 and given.get("position_ids") is not None
            rows = int((given["position_ids"] == 0).sum()) if packed else len(input_ids)
            embedded = self.embed_tokens(input_ids)
            if rows > most and not backward:
                run_out(rows)
            if rows > most and embedded.requires_grad:
                embedded.register_hook(lambda gradient: run_out(rows))  # after the gradients of all layers
            return forward(self, **{**given, "inputs_embeds": embedded})

        monkeypatch.setattr(LlamaModel, "forward", limited)
        return refused

    return limit


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers copies of models' own code lies in the test's folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder in which the jobs of a test leave notes."""
    path = tmp_path / "desk"
    path.mkdir()
    return path


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 kB, which root can mount."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", place]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are tried again at once."""
    monkeypatch.setattr("bench.generation.http_client.FIRST_PAUSE", 0.01)


@pytest.fixture(scope="session")
def isolation() -> None:
    """Where programs can be isolated; else the tests are skipped."""
    skip_where_it_may_not("auto")
