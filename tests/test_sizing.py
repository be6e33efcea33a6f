"""Estimates of size held against counted tensors, counted bytes and published numbers."""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import families
import pytest
from sharing import CONF, composed

from bench import size
from bench.errors import BenchError
from bench.models import loading
from bench.size import advice
from bench.sizing import memory, shapes, stages
from bench.sizing.memory import GIB, GPUS, machine
from bench.sizing.readers import PROGRAM, TASKS
from bench.sweeps.cells import Cell, cells

MEDIUM = {
    "vocab_size": 2_000,
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
NEAR = 0.25  # relative


def medium(**changes):
    from transformers import LlamaConfig

    return LlamaConfig(**{**MEDIUM, "tie_word_embeddings": False, **changes})


@pytest.mark.parametrize("family", ["qwen_2_5", "qwen_3", "llama_3", "gemma_2", "olmo_2"])
def test_parameters_are_those_of_the_stored_weights(family, tmp_path):
    policy = families.make(family, tmp_path)
    found = shapes.of_model(str(tmp_path))
    assert found.parameters == loading.load_model(policy).num_parameters()
    if family != "gemma_2":  # whose tied head is stored once, as here
        assert found.parameters == loading.count_parameters(policy)


def test_keys_and_values_have_the_bytes_of_a_cache(tmp_path):
    import torch

    policy = families.make("qwen_3", tmp_path)
    cache = loading.load_model(policy)(torch.ones(3, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
    assert shapes.of_model(str(tmp_path)).kv_bytes(3 * 7, 4) == held


def test_an_adapter_has_the_weights_that_peft_trains(tmp_path):
    from bench.training.lora import Lora, trainable

    policy = families.make("llama_3", tmp_path)
    lora = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", four_bit=False)
    model = trainable(policy, lora, in_bfloat16=False)
    learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert shapes.of_model(str(tmp_path)).lora_parameters(4, "all-linear") == learnt


@pytest.mark.parametrize(
    ("id", "published"),
    [("Qwen/Qwen2.5-1.5B", 1.54e9), ("meta-llama/Llama-3.1-8B-Instruct", 8.03e9)],
)
def test_known_models_have_their_published_parameters(id, published):
    assert shapes.of_model(id).parameters == pytest.approx(published, rel=0.005)


def test_the_reward_model_is_that_of_its_file_but_for_the_head():
    assert shapes.of_model("Skywork/Skywork-Reward-V2-Qwen3-0.6B").parameters + 1024 == 596_050_944


def test_a_size_is_read_from_a_name_and_said_to_be():
    found = shapes.of_model("someone/Model-1.5B-Chat")
    assert found.parameters == 1_500_000_000
    assert "read from the name" in found.source
    assert shapes.of_model("someone/Model-350M").parameters == 350_000_000
    assert shapes.of_model("someone/Nameless", parameters=2e9).parameters == 2_000_000_000
    with pytest.raises(BenchError, match=r"can't be told from its name; give size\.parameters"):
        shapes.of_model("someone/Nameless-v2.5")


def _kept(config, rows: int, width: int) -> int:
    """Bytes that the decoder's layers keep for the backward pass, each storage once, weights left out."""
    import torch
    from transformers import LlamaModel

    model = LlamaModel(config).train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.ones(rows, width, dtype=torch.long), use_cache=False)
    return sum(found.values())


@pytest.mark.parametrize("changes", [{}, {"intermediate_size": 2_048, "num_key_value_heads": 8}])
def test_activations_are_near_what_autograd_keeps(changes):
    config = medium(**changes)
    predicted = memory.activations(shapes.of_config(config, ""), 4 * 64, bfloat16=False, checkpointing=False)
    assert predicted == pytest.approx(_kept(config, 4, 64), rel=NEAR)


def test_training_is_near_the_growth_of_a_process(tmp_path):
    """A model of 25 M parameters, two updates of AdamW on 512 tokens: the second has all that later ones have."""
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(MEDIUM))
    program = f"""
import json, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
config = LlamaConfig(**json.load(open({str(settings)!r})), tie_word_embeddings=False)
def kib(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
warm = LlamaForCausalLM(LlamaConfig(**sizes))
optimizer = torch.optim.AdamW(warm.parameters(), fused=True)
warm(torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
optimizer.step()
before = kib("VmRSS")
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.ones(4, 128, dtype=torch.long)
for _ in range(2):
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print((kib("VmHWM") - before) * 1024)
"""
    gives_back = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # what a tensor had, at once: else the heap keeps some
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=gives_back)
    predicted = memory.training(shapes.of_config(medium(), ""), 4, 128, bfloat16=False, on_gpu=False)
    assert predicted == pytest.approx(float(answer.stdout.split()[-1]), rel=NEAR)


@pytest.fixture(scope="session")
def cell() -> Callable[..., Cell]:
    return lambda *overrides: Cell("", composed(*overrides), ())


@pytest.fixture(scope="session")
def of(cell: Callable[..., Cell]) -> Callable[..., stages.SizeEstimate]:
    """The estimate of one experiment, made once for each of its settings."""

    @functools.cache
    def estimated(*overrides: str, gpu: str = "h100") -> stages.SizeEstimate:
        return stages.estimate([cell(*overrides)], machine(gpu), stages.SizeHints())

    return estimated


def by_name(found: stages.SizeEstimate) -> dict[str, stages.Stage]:
    return {stage.name: stage for stage in found.stages}


def test_flops_are_those_of_the_suite(of):
    from bench.estimators.compute import forward_flops, training_flops

    found = by_name(of("experiment=gsm8k_qwen", "evaluation.temperatures=null", "prompt_filter=all"))
    parameters = shapes.of_model("Qwen/Qwen2.5-1.5B").parameters
    assert found["fine-tuning"].flops == training_flops(parameters, found["fine-tuning"].tokens)
    assert found["fine-tuning"].tokens == 2 * 4_000 * 3 * (150 + 180)  # tuned and control, three epochs
    assert found["KL"].flops == forward_flops(parameters, found["KL"].tokens)
    assert found["KL"].tokens == (1 + 2 + 2) * 1_319 * 8 * (150 + 180)  # the base; the base and tuned; and control
    # pool; Best-of-N, whose first are the base's own samples, and its greedy ones; tuned and control, both ways
    drawn = 4_000 * 16 + 1_319 * (64 + 1) + 2 * 1_319 * (1 + 8)
    assert found["generation"].tokens == drawn * 180


def test_only_what_a_run_pretrains_is_counted(of, cell):
    assert "pretraining" not in by_name(of())  # the package ships the policies of seeds 0 to 4
    one = by_name(of("seed=5"))["pretraining"]
    assert one.tokens == 1_100 * 32 * (24 + 16)
    listed = [cell(f"seed={seed}") for seed in (0, 5, 6, 5)]
    together = stages.estimate(listed, machine("h100"), stages.SizeHints())
    assert by_name(together)["pretraining"].tokens == 2 * one.tokens


def test_lm_evals_own_tasks_are_counted_by_name_or_by_the_limit(of):
    gsm8k = by_name(of("experiment=gsm8k_qwen"))["lm-eval's own tasks"]
    assert gsm8k.tokens == 3 * 1_319 * 120  # three policies
    few = ["experiment=gsm8k_qwen", "evaluation.harness_limit=100", "evaluation.harness_fewshot=null"]
    both = by_name(of(*few, "evaluation.harness_tasks=[arc_easy,mine]", "evaluation.harness_seeds=[0,1]"))
    assert both["lm-eval's own tasks"].tokens == 3 * 2 * 100 * (4 * (27 + 5) + 180)
    lost = of("experiment=gsm8k_qwen", "evaluation.harness_tasks=[mine]")
    assert "lm-eval's own tasks" not in by_name(lost)
    assert any(note.startswith("lm-eval's mine is left out") for note in lost.notes)


def test_the_table_of_lm_evals_tasks_is_that_of_its_files():
    """Whether an answer is written or chosen, and the examples shown by default."""
    import lm_eval
    import yaml

    class Loader(yaml.SafeLoader):
        """lm-eval's own tags, as text."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    folder = Path(lm_eval.__file__).with_name("tasks")
    files = {path.stem: path for path in folder.rglob("*.yaml") if "leaderboard" not in path.parts}
    checked = set()
    for name, task in TASKS.items():
        path = files.get(name) or files.get(name.replace("_cot", "-cot"))
        if path is None:  # a default.yaml, or a group of tasks
            continue
        found: dict = {}
        while path is not None:
            content = yaml.load(path.read_text(), Loader)
            found = content | found
            path = path.with_name(content["include"]) if "include" in content else None
        assert found["task"] == name
        assert found.get("num_fewshot", task.shots if name == "gsm8k_cot" else 0) == task.shots, name
        assert found["output_type"].startswith("generate") == (task.choices == 0), name
        checked.add(name)
    assert len(checked) > len(TASKS) / 2


def test_every_model_that_scores_is_counted_wherever_it_stands(of):
    def roles(*overrides: str) -> list[str]:
        scoring = ["scoring/verifier", "KL", "generation", "fine-tuning", "pretraining", "lm-eval"]
        return [stage.name for stage in of(*overrides).stages if stage.name not in scoring]

    trained = "reward model of the policy's size"
    assert roles() == []
    assert roles("scoring=trained_reward_model") == [trained]
    assert roles("scoring=ensemble", "scoring.size=3") == [trained] * 3
    assert roles("scoring=ensemble_of") == [trained] * 2
    assert roles("experiment=b_star") == [trained]


def test_programs_run_where_tests_score_and_where_they_judge(of):
    found = of("experiment=code_qwen", "evaluation.temperatures=null")
    drawn, pool = 300 * 32 + 400 * (64 + 1) + 2 * 400 * 9, 300 * 32
    assert by_name(found)["programs"].seconds == pytest.approx((drawn + drawn - pool) * PROGRAM / 8)


REAL = sorted(path.stem for path in CONF.glob("experiment/*.yaml") if "H100" in path.read_text())


@pytest.mark.parametrize("name", REAL)
def test_every_real_experiment_fits_a_gpu_of_80_gb(name, of):
    found = of(f"experiment={name}")
    assert found.bytes < GPUS["a100"].memory
    assert "name" not in " ".join(found.notes)  # no size is guessed from a name


def test_what_does_not_fit_is_said(of):
    with pytest.raises(BenchError, match=r"leaves vLLM 11\.2 GiB of size\.gpu=4090, and the model with one sequence"):
        of("experiment=math_llama", gpu="4090")
    with pytest.raises(BenchError, match=r"task\.train_prompts=null asks for all prompts"):
        of("experiment=gsm8k_qwen", "task.train_prompts=null")
    with pytest.raises(BenchError, match=r"size\.gpu=b900 is not known; it is one of cpu, h200"):
        machine("b900")


def test_what_would_make_a_stage_fit_is_said_and_true(of, cell):
    def advised(*overrides: str, gpu: str) -> list[str]:
        return advice([cell(*overrides)], machine(gpu), stages.SizeHints(), of(*overrides, gpu=gpu))

    assert advised("experiment=gsm8k_qwen", gpu="h100") == []
    (said,) = advised("experiment=gsm8k_qwen", gpu="l40s")
    changes = ["training.micro_batch_size=1", "generation.gpu_memory_utilization=0.3"]
    assert said.startswith("fine-tuning would take ")
    assert said.endswith(f" with {' '.join(changes)}")  # gradient checkpointing is on already
    assert f"{by_name(of('experiment=gsm8k_qwen', *changes, gpu='l40s'))['fine-tuning'].bytes / 2**30:.1f}" in said
    (said,) = advised("experiment=math_llama", "training=sft", gpu="a100")
    assert "with training=lora" in said
    (said,) = advised("experiment=math_llama", "evaluation.kl_dtype=float32", gpu="a100")
    assert said.endswith("evaluation.kl_dtype=bfloat16")


def test_mistakes_of_a_user_are_answered_in_a_sentence(monkeypatch):
    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["size", *arguments])
        with pytest.raises(SystemExit) as ended:
            size.main()
        return str(ended.value)

    assert said("size.parameters") == "error: size.parameters= is not allowed: it must be a number above 0."
    assert "size.params is not a setting; there are size.gpu" in said("size.params=3")
    assert "size.gpu=b900 is not known" in said("size.gpu=b900")
    assert "give size.parameters=NUMBER" in said("policy=hub", "policy.id=me/nameless")
    assert "/no/folder is no folder here" in said("policy=folder", "policy.path=/no/folder")
    named = ["scoring=reward_model", "scoring.model=me/nameless"]
    assert "size.reward_parameters=NUMBER" in said(*named, "size.gpu=h100")
    assert "model_size is not" in said("model_size=3")


def test_memory_falls_with_checkpointing_four_bits_and_shards():
    shape = shapes.of_model("meta-llama/Llama-3.1-8B-Instruct")
    whole = memory.training(shape, 4, 1_024)
    saved = memory.training(shape, 4, 1_024, checkpointing=True)
    accumulated = memory.training(shape, 4, 1_024, checkpointing=True, accumulation=2)
    adapter = memory.training(shape, 4, 1_024, checkpointing=True, learnt=42_000_000)
    four = memory.training(shape, 4, 1_024, checkpointing=True, learnt=42_000_000, four_bit=True)
    split = memory.training(shape, 4, 1_024, checkpointing=True, shards=8)
    assert whole > saved > adapter > four
    assert split < saved / 4
    assert accumulated > 16 * shape.parameters  # 4 of each weight, gradient and AdamW's two numbers


def test_paper_scale_sweeps_are_planned_without_the_hub(monkeypatch):
    from bench.sweeps import plan

    monkeypatch.setattr("bench.models.hub.snapshot", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.setattr("bench.tasks.rows.from_hub", lambda *_, **__: pytest.fail("asked the hub"))
    found = cells(["sweep=paper_kl_frontier", "seed=0", "temperature=1.0", "selection=softmax"], str(CONF))
    assert found is not None
    assert [cell.cfg.num_completions for cell in found] == [4, 16, 64]
    work = plan.workload(found)
    assert (work.pools, work.trainings) == (1, 3)
    assert work.completions > 64 * 4_000
    assert all(cell.cfg.name == "paper_kl_frontier" for cell in found)


def test_each_way_to_train_is_estimated_and_policies_from_elsewhere_are_noted(random_policy, of):
    def estimated(*given):
        found = of("policy=folder", f"policy.path={random_policy.path}", *given)
        return by_name(found)["fine-tuning"], found.notes

    pairs = "training=dpo"
    by_epochs, notes = estimated(pairs, "training.epochs=1")
    by_updates, _ = estimated(pairs, "training.epochs=null", "training.updates=100")
    assert by_updates.tokens > by_epochs.tokens
    assert by_updates.flops / by_updates.tokens == pytest.approx(by_epochs.flops / by_epochs.tokens)
    alike = ("num_completions=4", "procedure.prompts_per_update=8")  # 32 completions per update, as of training=sft
    online, of_arms = estimated("procedure=online", *alike, f"arms.mine={random_policy.path}")
    single, _ = estimated("num_completions=4")
    assert online.bytes - single.bytes == pytest.approx(2 * loading.count_parameters(random_policy))  # the base's
    assert set(of_arms) - set(notes) == {"policies from elsewhere (arms) are counted as the policy"}


def test_an_unknown_number_of_prompts_is_said_not_counted(monkeypatch, cell):
    from bench.sweeps import plan

    monkeypatch.setattr("bench.tasks.rows.from_hub", lambda *_, **__: pytest.fail("asked the hub"))
    found = cell("experiment=gsm8k_qwen", "task.train_prompts=null")
    assert plan.workload([found]).unknown == ("task.train_prompts",)
    text = plan.summary([found])
    assert "the number of prompts is unknown until the data is here: task.train_prompts=null" in text
    assert re.search(r"^  completions +unknown +unknown$", text, re.MULTILINE)


def test_the_main_small_sweeps_have_a_version_at_paper_size():
    paper = {path.stem.removeprefix("paper_") for path in Path(CONF, "sweep").glob("paper_*.yaml")}
    assert {"num_completions_by_temperature", "kl_frontier", "rounds", "selection_methods"} <= paper


STATED = re.compile(r"([\d.]+) hours on an H100, ([\d.]+) on an A100, (\d+) GiB at the peak")
SWEEPS = ["paper_lm_eval_transfer", "paper_reward_overoptimisation", "paper_rounds"]  # those with the fewest cells


@pytest.mark.parametrize("asked", [*(f"experiment={name}" for name in REAL), *(f"sweep={name}" for name in SWEEPS)])
def test_a_file_states_the_hours_and_the_memory_that_are_estimated(asked):
    text = (CONF / f"{asked.replace('=', '/')}.yaml").read_text().replace("\n# ", " ")
    stated = STATED.search(text)
    assert stated is not None
    found = cells([asked], str(CONF))
    for gpu, hours in zip(("h100", "a100"), stated.groups(), strict=False):
        estimated = stages.estimate(found, machine(gpu, None, threads=0), stages.SizeHints())
        assert estimated.seconds / 3600 == pytest.approx(float(hours), rel=0.03, abs=0.05)
        assert estimated.bytes / GIB == pytest.approx(float(stated[3]), abs=0.5)


def test_there_are_real_experiments_to_estimate():
    assert len(REAL) == 6


@pytest.mark.parametrize("overrides", [(), ("training.gradient_checkpointing=true",)])
def test_flops_over_the_rate_is_the_time(overrides, cell):
    chosen = machine("cpu", 1e11)
    estimated = stages.estimate([cell("experiment=quick", *overrides)], chosen, stages.SizeHints())
    lines = size.table(estimated, chosen, 1).splitlines()
    assert lines[0].endswith("at most 1e+11 FLOP/s)")
    assert lines[1].split()[-3:] == ["FLOPs", "FLOP/s", "time"]
    for stage, line in zip(estimated.stages, lines[2:], strict=False):
        flops, rate = map(float, line.split()[-4:-2])
        assert flops / rate == pytest.approx(stage.seconds, rel=0.1)  # two digits of each are shown
        assert rate <= 1e11
