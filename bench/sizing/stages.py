"""Tokens, FLOPs, hours and memory of every stage of some cells, from their configuration alone.

FLOPs per parameter and token: 2 to read or write, 6 to train (4 where frozen), without attention (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1), as in bench.estimators.compute. A decoding step takes the longer of two times: that of
its arithmetic, and that of reading the weights, keys and values once.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.keys import drawing
from bench.errors import BenchError
from bench.selection.pairs import gives_pairs
from bench.sizing import memory
from bench.sizing.memory import GIB, Machine
from bench.sizing.readers import BATCH, GOLD, PROGRAM, Requests, programs, readers, requests
from bench.sizing.shapes import Shape, of_policy
from bench.store import Finder, MissingError, using
from bench.sweeps.cells import Cell
from bench.sweeps.plan import workload

# Assumed mean tokens per prompt, template included, and per completion
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
SEQUENCES = 256  # decoded at once by vLLM, by default on most GPUs


@dataclass(frozen=True)
class SizeHints:
    """Sizes that the user gives: numbers of parameters, mean lengths in tokens. None: looked up or assumed."""

    parameters: float | None = None
    reward_parameters: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None


@dataclass(frozen=True)
class Stage:
    name: str
    tokens: float  # read, written or trained on; those of an epoch count again in the next
    flops: float
    seconds: float
    bytes: float  # peak memory of the process


@dataclass(frozen=True)
class SizeEstimate:
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]  # assumptions, in words

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def bytes(self) -> float:
        return max(stage.bytes for stage in self.stages)


def lengths(cfg: dict[str, Any], hints: SizeHints) -> tuple[float, float]:
    """Mean tokens (per prompt, per completion)."""
    task, most = cfg["task"]["_target_"].rpartition(".")[2], cfg["task"]["max_new_tokens"]
    prompt, completion = LENGTHS.get(task, (200, most / 2))
    return hints.prompt_tokens or prompt, min(hints.completion_tokens or completion, most)


def estimate(cells: Sequence[Cell], machine: Machine, hints: SizeHints) -> SizeEstimate:
    """The estimate of these cells together. Models, lengths and memory are those of the first cell."""
    cfg, work = cells[0].config, workload(cells)
    if work.unknown:
        raise BenchError(f"{work.unknown[0]}=null asks for all prompts, whose number is unknown here; give a number.")
    shape = of_policy(cfg["policy"], hints.parameters)
    prompt, completion = lengths(cfg, hints)
    notes = [
        f"policy: {shape.parameters:,} parameters ({shape.source})",
        f"assumed means: {prompt:.0f} tokens per prompt, {completion:.0f} per completion",
    ]
    reading = readers(cfg, shape, hints.reward_parameters)
    resident = sum(reader.shape.parameters for reader in reading if reader.role == GOLD)  # stays loaded
    base = _Sizes(cfg, machine, shape, prompt, completion, resident)
    stages = [*base.pretraining(_pretrained(cells)), *base.drawing(work.completions)]
    held_out = work.completions - work.sampled
    for reader in reading:
        notes += [f"{reader.role}: {reader.shape.parameters:,} parameters ({reader.shape.source})", *reader.notes]
        stages.append(base.scoring(reader.role, reader.shape, held_out if reader.held_out else work.completions))
    if count := programs(cfg, work.completions, held_out):
        notes.append(f"assumed {PROGRAM} s per program in the sandbox, on CPUs")
        stages.append(Stage("programs", 0, 0, count * PROGRAM / cfg["scoring"].get("workers", 1), 0))
    stages += [base.training(work.examples), base.divergence(work.compared)]
    if cfg["evaluation"]["lm_eval"]:
        stages.append(base.lm_eval(work.harness_completions))
    tasks, harness_notes = requests(cfg["evaluation"], prompt, completion)
    if tasks:
        stages.append(base.harness_tasks(tasks, work.harnessed))
    notes += harness_notes
    notes.append("assumed random rewards, with the difficulty of prompts uniform, wherever the work depends on rewards")
    if cfg["arms"]:
        notes.append("policies from elsewhere (arms) are counted as the policy")
    if len(cfg["procedure"].get("drawn_by", ())) > 1:
        notes.append("other generators are counted as the policy")
    return SizeEstimate(tuple(stages), tuple(notes))


def _pretrained(cells: Sequence[Cell]) -> int:
    """The number of policies to pretrain, e.g. one per seed: those of the cells that the package does not ship."""
    missing = set()
    with tempfile.TemporaryDirectory() as empty, using(Finder(Path(empty))):
        for cell in cells:
            if "steps" not in cell.config["policy"].get("start", cell.config["policy"]):  # it may have to be downloaded
                continue
            try:
                cell.parts["policy"](cell.parts["task"])
            except MissingError as error:
                missing.add(error.address.key)
    return len(missing)


class _Sizes:
    def __init__(
        self, cfg: dict[str, Any], machine: Machine, shape: Shape, prompt: float, completion: float, resident: int
    ) -> None:
        self.cfg, self.machine, self.shape = cfg, machine, shape
        self.prompt, self.completion, self.both = prompt, completion, prompt + completion
        self.width = 2 if machine.on_gpu else 4  # bytes per number outside training
        self.generation = drawing(cfg["generation"])
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
        policy = self.cfg["policy"].get("start", self.cfg["policy"])
        if not policies:
            return []
        tokens = policies * policy["steps"] * policy.get("batch_size", 32) * self.both
        flops = 6 * self.shape.parameters * tokens
        rows, width = policy.get("batch_size", 32), round(self.both)
        peak = memory.training(self.shape, rows, width, bfloat16=False, on_gpu=self.machine.on_gpu)
        seconds = flops / (self.machine.flops * self.machine.pretraining)
        return [Stage("pretraining", tokens, flops, seconds, peak)]

    def _rows(self) -> int:
        """Completions decoded at once, at most those of one unit of a pool."""
        prompts = self._prompts("train", self.cfg["split"])
        if self.engine == "transformers":
            most = self.generation["batch_tokens"] or memory.at_once(self.shape, self.machine, self.held, self.width)
            return max(1, min(prompts * self.generation["block_size"], most // self.longest))
        if not self.held:
            return SEQUENCES
        room = self.generation["gpu_memory_utilization"] * self.machine.memory - self.shape.parameters * 2
        fit = int(room // self.shape.kv_bytes(round(self.both), self.width))
        return max(1, min(self.generation.get("max_num_seqs") or SEQUENCES, fit))

    def _written(
        self, completions: float, rows: int, *, shared: int, of: Requests | None = None
    ) -> tuple[float, float, float]:
        """(tokens written, FLOPs, seconds), prompts included. shared: completions per reading of a prompt.

        of: the requests that are answered; None: those of the suite's own task.
        """
        prompt, completion = (of.prompt, of.answer) if of else (self.prompt, self.completion)
        tokens, parameters = completions * completion, self.shape.parameters
        read, prefill = self._read(completions / shared * prompt, parameters, self.machine.reading)
        moved = parameters * self.width + self.shape.kv_bytes(round(rows * (prompt + completion / 2)), self.width)
        step = max(
            moved / (self.machine.bandwidth * self.machine.decoding),
            2 * parameters * rows / (self.machine.flops * self.machine.decoding),
        )
        return tokens, read + 2 * parameters * tokens, prefill + tokens / rows * step

    def drawing(self, completions: float) -> list[Stage]:
        rows, samples = self._rows(), self.cfg["num_completions"]
        needed = memory.generation(self.shape, rows=rows, width=self.longest, number_bytes=self.width)
        if self.engine == "transformers":
            return [Stage("generation", *self._written(completions, rows, shared=samples), needed + self.held)]
        # vLLM takes its whole share of the GPU; it needs at least the weights and one whole sequence
        least = memory.generation(self.shape, rows=1, width=self.longest, number_bytes=self.width)
        share = self.generation.get("gpu_memory_utilization", 1.0) * self.machine.memory
        if self.machine.on_gpu and self.engine == "vllm" and least > share:
            raise BenchError(
                f"generation.gpu_memory_utilization={share / self.machine.memory:g} leaves vLLM {share / GIB:.1f} GiB "
                f"of size.gpu={self.machine.name}, and the model with one sequence takes {least / GIB:.1f}: "
                "raise it, or use a larger GPU or a smaller model."
            )
        stages = [Stage("generation", *self._written(completions, rows, shared=samples), max(self.held, least))]
        tokens = completions * self.both  # the suite's own log-probabilities, by teacher forcing
        flops, seconds = self._read(tokens, self.shape.parameters, self.machine.reading)
        held = self._read_together(self.width, self._prompts("train", self.cfg["split"]) * samples, models=1)
        return [*stages, Stage("log-probabilities", tokens, flops, seconds, held + self.held)]

    def _prompts(self, *splits: str) -> int:
        """The most prompts of one unit of a pool, of these splits."""
        known = [count for split in splits if (count := self.cfg["task"].get(f"{split}_prompts"))]
        return min(self.generation.get("shard_size", 256), max(known, default=SEQUENCES))

    def _read_together(self, width: int, rows: int, *, models: int) -> float:
        """Bytes of teacher forcing. rows: completions; width: bytes per number."""
        steps = self.cfg["task"]["max_new_tokens"]
        return memory.divergence(
            self.shape, number_bytes=width, rows=rows, width=self.longest, steps=steps, models=models
        )

    def scoring(self, role: str, model: Shape, completions: float) -> Stage:
        tokens = completions * self.both
        flops, seconds = self._read(tokens, model.parameters, self.machine.reading)
        peak = model.parameters * self.width + 16_384 * self.width * (model.hidden * 4 + model.intermediate * 3)
        return Stage(role, tokens, flops, seconds, (0 if role == GOLD else peak) + self.held)

    def training(self, examples: float) -> Stage:
        cfg = self.cfg["training"]
        lora = cfg["lora"]
        each = 2 if gives_pairs(self.cfg) else 1  # completions per example
        processes, batch, procedure = cfg.get("processes", 1), cfg["batch_size"], self.cfg["procedure"]
        held = self.held
        if (prompts := procedure.get("prompts_per_update")) is not None:  # online: an update reads all of a draw
            batch = prompts * (procedure["num_generations"] or self.cfg["num_completions"])
            held += self.shape.parameters * self.width  # the base, which measures the KL of each draw
        rows = cfg["micro_batch_size"] or batch // processes
        learnt = self.shape.lora_parameters(lora["r"], lora["target_modules"]) if lora else self.shape.parameters
        peak = memory.training(
            self.shape,
            rows * each,
            # batches are unsorted, so that each is as wide as its longest sequence
            round(min(self.longest, self.prompt + 2 * self.completion)),
            accumulation=batch // (rows * processes),
            checkpointing=cfg["gradient_checkpointing"],
            bfloat16=cfg["precision"] == "bfloat16" or (cfg["precision"] == "auto" and self.machine.on_gpu),
            learnt=learnt if lora else None,
            four_bit=bool(lora and lora["four_bit"]),
            shards=processes if cfg.get("fsdp") else 1,
            on_gpu=self.machine.on_gpu,
        )
        tokens = examples * each * self.both
        frozen = self.shape.parameters if lora else 0
        flops = (6 * learnt + 4 * frozen) * tokens
        if each == 2:  # the reference reads each pair once: at most all that `updates` read
            flops += 2 * (learnt + frozen) * tokens / (cfg["epochs"] or 1)
        # checkpointing computes the forward pass again: it takes time, but the suite's FLOPs leave it out
        again = 2 * (learnt + frozen) * tokens if cfg["gradient_checkpointing"] else 0
        seconds = (flops + again) / (self.machine.flops * self.machine.training)
        return Stage("fine-tuning", tokens, flops, seconds / processes, peak + held)

    def divergence(self, completions: float) -> Stage:
        """The KL. completions: counted for each of the two models that read them."""
        tokens = completions * self.both
        width = 2 if self.cfg["evaluation"]["kl_dtype"] == "bfloat16" else 4
        flops, seconds = self._read(tokens, self.shape.parameters, self.machine.reading)
        if width == 4 and self.machine.on_gpu:
            seconds *= 8  # float32 runs at about an eighth of the tensor cores' bfloat16 rate, in TF32 or less
        rows = self._prompts(self.cfg["split"]) * self.cfg["evaluation"]["kl_completions"]
        held = self._read_together(width, rows, models=2)
        return Stage("KL", tokens, flops, seconds, held + self.held)

    def lm_eval(self, completions: float) -> Stage:
        needed = memory.generation(self.shape, rows=BATCH, width=self.longest, number_bytes=self.width)
        return Stage("lm-eval", *self._written(completions, BATCH, shared=1), needed + self.held)

    def harness_tasks(self, tasks: Sequence[Requests], policies: int) -> Stage:
        """lm-eval's own tasks. They run in another process, so that a GPU holds the libraries twice."""
        tokens = flops = seconds = peak = 0.0
        for task in tasks:
            count, both = policies * task.count, task.prompt + task.answer
            if task.written:
                work = self._written(count, BATCH, shared=1, of=task)
            else:
                work = (count * both, *self._read(count * both, self.shape.parameters, self.machine.reading))
            # a choice needs the logits of every token, and their log-softmax
            logits = 0.0 if task.written else 2 * BATCH * both * self.shape.vocabulary * self.width
            held = memory.generation(self.shape, rows=BATCH, width=round(both), number_bytes=self.width)
            tokens, flops, seconds = tokens + work[0], flops + work[1], seconds + work[2]
            peak = max(peak, held + logits)
        twice = memory.OVERHEAD if self.machine.on_gpu else 0.0
        return Stage("lm-eval's own tasks", tokens, flops, seconds, peak + self.held + twice)
