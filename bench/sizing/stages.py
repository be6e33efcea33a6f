"""Tokens, FLOPs, hours and memory of every stage of cells, from their configuration alone.

2 FLOPs a parameter and token read or written, 6 trained (4 where frozen), attention left out (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1), as bench.estimators.compute counts them. A step of decoding takes as long as its
arithmetic, or as reading the weights and the keys and values once, whichever is more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from bench.errors import BenchError
from bench.sizing import harness, memory
from bench.sizing.machines import GIB, Machine
from bench.sizing.scorers import GOLD, PROGRAM, programs, readers
from bench.sizing.shapes import Shape, of_policy
from bench.sweeps.cells import Cell
from bench.sweeps.workload import workload

# Assumed tokens of a prompt with its template, and of a completion, on average
LENGTHS = {
    "WordProblems": (24, 16),
    "ListPrograms": (70, 30),
    "Gsm8k": (150, 180),
    "Math500": (150, 400),
    "Mbpp": (250, 120),
    "HumanEval": (250, 150),
    "IfEval": (80, 400),
    "UltraFeedback": (250, 400),
}
SEQUENCES = 256  # that vLLM decodes at once by default on most GPUs


@dataclass(frozen=True)
class Told:
    """What the user says about sizes: numbers of parameters, mean lengths in tokens; None: found or assumed."""

    parameters: float | None = None
    reward_parameters: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None


@dataclass(frozen=True)
class Stage:
    """tokens: read, written or trained on, an epoch at a time. bytes: at its peak, all that this process then holds."""

    name: str
    tokens: float
    flops: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class SizeEstimate:
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]  # what was assumed

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def bytes(self) -> float:
        return max(stage.bytes for stage in self.stages)


def lengths(cfg: dict[str, Any], told: Told) -> tuple[float, float]:
    """Mean tokens of a prompt and of a completion."""
    task, most = cfg["task"]["_target_"].rpartition(".")[2], cfg["task"]["max_new_tokens"]
    prompt, completion = LENGTHS.get(task, (200, most / 2))
    return told.prompt_tokens or prompt, min(told.completion_tokens or completion, most)


def estimate(cells: Sequence[Cell], machine: Machine, told: Told) -> SizeEstimate:
    """Of these cells together; models, lengths and memory are the first one's."""
    configs: list[Any] = [OmegaConf.to_container(cell.cfg, resolve=True) for cell in cells]
    cfg, asked = configs[0], workload(cells)
    if asked.unknown:
        raise BenchError(
            f"{asked.unknown[0]}=null asks for all prompts that there are, which only the data can tell; give a number."
        )
    shape = of_policy(cfg["policy"], told.parameters)
    prompt, completion = lengths(cfg, told)
    notes = [
        f"policy: {shape.parameters:,} parameters ({shape.source})",
        f"assumed {prompt:.0f} tokens a prompt and {completion:.0f} a completion, on average",
    ]
    reading = readers(cfg, shape, told.reward_parameters)
    resident = sum(reader.shape.parameters for reader in reading if reader.role == GOLD)  # stays loaded
    base = _Sizes(cfg, machine, shape, prompt, completion, resident)
    made = len({json.dumps(one["policy"]) for one in configs})  # of policy=tiny, one a seed
    stages = [*base.pretraining(made), *base.drawing(asked.completions)]
    held_out = asked.completions - asked.sampled
    for reader in reading:
        notes += [f"{reader.role}: {reader.shape.parameters:,} parameters ({reader.shape.source})", *reader.notes]
        stages.append(base.scoring(reader.role, reader.shape, held_out if reader.held_out else asked.completions))
    if run := programs(cfg, asked.completions, held_out):
        notes.append(f"assumed {PROGRAM} s a program in the sandbox, run on CPUs")
        stages.append(Stage("programs", 0, 0, run * PROGRAM / cfg["scoring"].get("workers", 1), 0))
    stages += [base.training(asked.examples), base.divergence(asked.compared)]
    if cfg["evaluation"]["lm_eval"]:
        stages.append(base.lm_eval(asked.harness_completions))
    wanted, said = harness.requests(cfg["evaluation"], prompt, completion)
    if wanted:
        stages.append(base.harness_tasks(wanted, asked.harnessed))
    notes += said
    notes.append("assumed rewards at random, of prompts whose difficulty is uniform, for what depends on them")
    if len(cfg["procedure"].get("drawn_by", ())) > 1:
        notes.append("other generators are counted as if they were the policy")
    return SizeEstimate(tuple(stages), tuple(notes))


class _Sizes:
    """One configuration's stages on one machine."""

    def __init__(
        self, cfg: dict[str, Any], machine: Machine, shape: Shape, prompt: float, completion: float, resident: int
    ) -> None:
        self.cfg, self.machine, self.shape = cfg, machine, shape
        self.prompt, self.completion, self.both = prompt, completion, prompt + completion
        self.width = 2 if machine.on_gpu else 4  # bytes a number outside training
        self.generation = cfg["generation"].get("worker", cfg["generation"])  # of generation=ray, what each runs
        self.engine = self.generation["_target_"].split(".")[-2].removesuffix("_engine")
        share = self.generation.get("gpu_memory_utilization", 0.0)
        self.held = share * machine.memory if self.engine == "vllm" and machine.on_gpu else 0.0
        self.held += resident * self.width
        self.held += memory.OVERHEAD if machine.on_gpu else 0.0
        self.longest = round(prompt) + cfg["task"]["max_new_tokens"]

    def _read(self, tokens: float, parameters: float, share: float) -> tuple[float, float]:
        flops = 2 * parameters * tokens
        return flops, flops / (self.machine.flops * share)

    def pretraining(self, policies: int) -> list[Stage]:
        policy = self.cfg["policy"]
        if "steps" not in policy:
            return []
        tokens = policies * policy["steps"] * policy.get("batch_size", 32) * self.both
        flops = 6 * self.shape.parameters * tokens
        how = memory.Training(
            policy.get("batch_size", 32), round(self.both), bfloat16=False, on_gpu=self.machine.on_gpu
        )
        seconds = flops / (self.machine.flops * self.machine.pretraining)
        return [Stage("pretraining", tokens, flops, seconds, memory.training(self.shape, how))]

    def _rows(self) -> int:
        """Completions decoded at once: of one unit of a pool at most."""
        prompts = self._prompts("train", self.cfg["split"])
        if self.engine == "transformers":
            return max(1, min(prompts * self.generation["block_size"], self.generation["batch_tokens"] // self.longest))
        if not self.held:
            return SEQUENCES
        room = self.generation["gpu_memory_utilization"] * self.machine.memory - self.shape.parameters * 2
        fit = int(room // self.shape.kv_bytes(round(self.both), self.width))
        return max(1, min(self.generation.get("max_num_seqs") or SEQUENCES, fit))

    def decode(
        self, completions: float, rows: int, *, of_one: int, prompt: float, completion: float
    ) -> tuple[float, float, float]:
        """Tokens written, FLOPs with those of the prompts, seconds; of_one: completions of one prompt, read once."""
        tokens, parameters = completions * completion, self.shape.parameters
        read, prefill = self._read(completions / of_one * prompt, parameters, self.machine.reading)
        moved = parameters * self.width + self.shape.kv_bytes(round(rows * (prompt + completion / 2)), self.width)
        step = max(
            moved / (self.machine.bandwidth * self.machine.decoding),
            2 * parameters * rows / (self.machine.flops * self.machine.decoding),
        )
        return tokens, read + 2 * parameters * tokens, prefill + tokens / rows * step

    def _written(self, completions: float, rows: int, *, of_one: int) -> tuple[float, float, float]:
        return self.decode(completions, rows, of_one=of_one, prompt=self.prompt, completion=self.completion)

    def drawing(self, completions: float) -> list[Stage]:
        rows, samples = self._rows(), self.cfg["num_completions"]
        needed = memory.generation(self.shape, rows=rows, width=self.longest, bytes_a_number=self.width)
        if self.engine == "transformers":
            return [Stage("generation", *self._written(completions, rows, of_one=samples), needed + self.held)]
        # vLLM takes its share whatever it needs; what it can't do without are the weights and one whole sequence
        least = memory.generation(self.shape, rows=1, width=self.longest, bytes_a_number=self.width)
        share = self.generation.get("gpu_memory_utilization", 1.0) * self.machine.memory
        if self.machine.on_gpu and self.engine == "vllm" and least > share:
            raise BenchError(
                f"generation.gpu_memory_utilization={share / self.machine.memory:g} leaves vLLM {share / GIB:.1f} GiB "
                f"of size.gpu={self.machine.name}, and the model with one sequence takes {least / GIB:.1f}: "
                "raise it, or take a larger GPU or a smaller model."
            )
        stages = [Stage("generation", *self._written(completions, rows, of_one=samples), max(self.held, least))]
        tokens = completions * self.both  # the suite's own log-probabilities, by teacher forcing
        flops, seconds = self._read(tokens, self.shape.parameters, self.machine.reading)
        held = self._read_together(self.width, self._prompts("train", self.cfg["split"]) * samples, models=1)
        return [*stages, Stage("log-probabilities", tokens, flops, seconds, held + self.held)]

    def _prompts(self, *splits: str) -> int:
        """Of a unit of a pool of these splits, at most."""
        known = [count for split in splits if (count := self.cfg["task"].get(f"{split}_prompts"))]
        return min(self.generation.get("shard_size", 256), max(known, default=SEQUENCES))

    def _read_together(self, width: int, rows: int, *, models: int) -> float:
        """Bytes of teacher forcing of completions, of which there are so many rows."""
        steps = self.cfg["task"]["max_new_tokens"]
        return memory.divergence(
            self.shape, bytes_a_number=width, rows=rows, width=self.longest, steps=steps, models=models
        )

    def scoring(self, role: str, model: Shape, completions: float) -> Stage:
        tokens = completions * self.both
        flops, seconds = self._read(tokens, model.parameters, self.machine.reading)
        peak = model.parameters * self.width + 16_384 * self.width * (model.hidden * 4 + model.intermediate * 3)
        return Stage(role, tokens, flops, seconds, (0 if role == GOLD else peak) + self.held)

    def training(self, examples: float) -> Stage:
        of, lora = self.cfg["training"], self.cfg["training"]["lora"]
        rows = of["micro_batch_size"] or of["batch_size"] // of["processes"]
        learnt = self.shape.lora_parameters(lora["r"], lora["target_modules"]) if lora else self.shape.parameters
        how = memory.Training(
            rows,
            # sorted by nothing, a batch is as wide as its longest
            round(min(self.longest, self.prompt + 2 * self.completion)),
            accumulation=of["batch_size"] // (rows * of["processes"]),
            checkpointing=of["gradient_checkpointing"],
            bfloat16=of["precision"] == "bfloat16" or (of["precision"] == "auto" and self.machine.on_gpu),
            learnt=learnt if lora else None,
            four_bit=bool(lora and lora["four_bit"]),
            shards=of["processes"] if of["fsdp"] else 1,
            on_gpu=self.machine.on_gpu,
        )
        tokens = examples * self.both
        frozen = self.shape.parameters if lora else 0
        flops = (6 * learnt + 4 * frozen) * tokens
        # what checkpointing computes again takes time, and is not counted as the suite counts FLOPs
        again = 2 * (learnt + frozen) * tokens if how.checkpointing else 0
        seconds = (flops + again) / (self.machine.flops * self.machine.training)
        return Stage(
            "fine-tuning", tokens, flops, seconds / of["processes"], memory.training(self.shape, how) + self.held
        )

    def divergence(self, completions: float) -> Stage:
        """completions: read by either model."""
        tokens = completions * self.both
        width = 2 if self.cfg["evaluation"]["kl_dtype"] == "bfloat16" else 4
        flops, seconds = self._read(tokens, self.shape.parameters, self.machine.reading)
        if width == 4 and self.machine.on_gpu:
            seconds *= 8  # float32 goes without the tensor cores' bfloat16 rate: about an eighth of it in TF32 or less
        rows = self._prompts(self.cfg["split"]) * self.cfg["evaluation"]["kl_completions"]
        held = self._read_together(width, rows, models=2)
        return Stage("KL", tokens, flops, seconds, held + self.held)

    def lm_eval(self, completions: float) -> Stage:
        rows = 64
        needed = memory.generation(self.shape, rows=rows, width=self.longest, bytes_a_number=self.width)
        return Stage("lm-eval", *self._written(completions, rows, of_one=1), needed + self.held)

    def harness_tasks(self, wanted: Sequence[harness.Requests], policies: int) -> Stage:
        """lm-eval in a process of its own, so that a GPU holds the libraries twice."""
        tokens = flops = seconds = peak = 0.0
        for one in wanted:
            count, both = policies * one.count, one.prompt + one.answer
            if one.written:
                work = self.decode(count, harness.BATCH, of_one=1, prompt=one.prompt, completion=one.answer)
            else:
                work = (count * both, *self._read(count * both, self.shape.parameters, self.machine.reading))
            # of choices the logits of every token are made, and their log-softmax beside them
            logits = 0.0 if one.written else 2 * harness.BATCH * both * self.shape.vocabulary * self.width
            held = memory.generation(self.shape, rows=harness.BATCH, width=round(both), bytes_a_number=self.width)
            tokens, flops, seconds = tokens + work[0], flops + work[1], seconds + work[2]
            peak = max(peak, held + logits)
        twice = memory.OVERHEAD if self.machine.on_gpu else 0.0
        return Stage("lm-eval's own tasks", tokens, flops, seconds, peak + self.held + twice)
