"""python -m bench.size: estimate memory, hours, tokens and FLOPs of every stage, before any download.

settings of the estimate:
  size.gpu=NAME                 the machine: h200, h100 (default), a100, l40s, 4090, or cpu for this one
  size.flops=NUMBER             the FLOP/s of the machine, if you know them
  size.parameters=NUMBER        the policy's number of parameters, if its files or name don't give it
  size.reward_parameters=NUMBER the reward model's number of parameters, if its files or name don't give it
  size.prompt_tokens=NUMBER     tokens per prompt, mean
  size.completion_tokens=NUMBER tokens per completion, mean

examples:
  python -m bench.size experiment=gsm8k_qwen size.gpu=a100
  python -m bench.size sweep=paper_kl_frontier        all cells together; shared work counts once
  python -m bench.size policy=hub policy.id=ME/MODEL size.parameters=3e9
"""

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from bench.config.compose import CONF, explained
from bench.errors import BenchError, CommandLine, did_you_mean
from bench.records.read import as_number
from bench.sizing.memory import GIB, Machine, machine
from bench.sizing.stages import SizeEstimate, SizeHints, estimate
from bench.sweeps.cells import Cell, cells
from bench.sweeps.plan import counted, duration

NUMBERS = ("flops", "parameters", "reward_parameters", "prompt_tokens", "completion_tokens")

Change = tuple[str, dict[str, Any]]  # its words, and the settings that it changes
LORA = {"r": 16, "target_modules": "all-linear", "four_bit": False}  # as in conf/training/lora.yaml
CHECKPOINTING = ("training.gradient_checkpointing=true", {"training.gradient_checkpointing": True})
SMALLEST_BATCH = ("training.micro_batch_size=1", {"training.micro_batch_size": 1})
ADAPTER = ("training=lora", {"training.lora": LORA})
FOUR_BITS = ("training.lora.four_bit=true", {"training.lora": {**LORA, "four_bit": True}})
SMALLER_SHARE = ("generation.gpu_memory_utilization=0.3", {"generation.gpu_memory_utilization": 0.3})
SHARDS = ("training.processes=8 training.fsdp=true on 8 of them", {"training.processes": 8, "training.fsdp": True})
BFLOAT16 = ("evaluation.kl_dtype=bfloat16", {"evaluation.kl_dtype": "bfloat16"})
FEWER_TOKENS = ("generation.batch_tokens=8192", {"generation.batch_tokens": 8_192})
# Combinations of changes, from the least to the most costly
TRAINING: tuple[tuple[Change, ...], ...] = (
    (CHECKPOINTING,),
    (CHECKPOINTING, SMALLEST_BATCH),
    (CHECKPOINTING, SMALLEST_BATCH, SMALLER_SHARE),
    (ADAPTER, CHECKPOINTING),
    (ADAPTER, CHECKPOINTING, SMALLEST_BATCH, SMALLER_SHARE),
    (ADAPTER, FOUR_BITS, CHECKPOINTING, SMALLEST_BATCH, SMALLER_SHARE),
    (SHARDS, CHECKPOINTING, SMALLEST_BATCH),
)
OTHERS: tuple[tuple[Change, ...], ...] = ((BFLOAT16,), (SMALLER_SHARE,), (BFLOAT16, SMALLER_SHARE), (FEWER_TOKENS,))


def main() -> None:
    """Print the table of stages, the assumptions, and the changes that would make a stage fit that does not."""
    parser = CommandLine(__doc__)
    parser.take_words("settings of an experiment or a sweep, and of the estimate")
    arguments = parser.parse_intermixed_args().words
    own = dict(argument[len("size.") :].partition("=")[::2] for argument in arguments if argument.startswith("size."))
    overrides = [argument for argument in arguments if not argument.startswith("size.")]
    with explained(overrides):
        unknown = [name for name in own if name not in ("gpu", *NUMBERS)]
        if unknown:
            names = ["size.gpu", *(f"size.{name}" for name in NUMBERS)]
            near = did_you_mean(f"size.{unknown[0]}", names, cutoff=0.7) or "."
            raise BenchError(f"size.{unknown[0]} is not a setting; there are {', '.join(names)}{near}")
        numbers = {name: _number(name, own[name]) for name in NUMBERS if name in own}
        listed = cells(overrides, CONF)
        if not listed:
            raise BenchError("This sweeper chooses its cells as it goes, so they can't be listed; size one of them.")
        threads = int(listed[0].cfg.threads)
        chosen = machine(own.get("gpu", "h100").lower(), numbers.pop("flops", None), threads=threads)
        hints = SizeHints(**numbers)
        estimated = estimate(listed, chosen, hints)
        print(table(estimated, chosen, len(listed)))
        for line in advice(listed, chosen, hints, estimated):
            print(f"  {line}")


def _number(name: str, value: str) -> float:
    number = as_number(value) or 0.0
    if not 0 < number < float("inf"):
        raise BenchError(f"size.{name}={value} is not allowed: it must be a number above 0.")
    return number


def table(estimated: SizeEstimate, machine: Machine, cells: int) -> str:
    """One line per stage, the sum, whether the stages fit, and what was assumed."""
    peak = f"{machine.memory / GIB:.0f} GiB, at most {machine.flops:.3g} FLOP/s"
    lines = [f"estimate of {counted(cells)} on one {machine.name} ({peak})"]
    lines += [f"  {'stage':34}{'GiB':>8}{'tokens':>10}{'FLOPs':>10}{'FLOP/s':>10}{'time':>13}"]
    for stage in estimated.stages:
        lines.append(
            f"  {stage.name:34}{stage.bytes / GIB:8.2f}{stage.tokens:10.3g}{_work(stage.flops, stage.seconds)}"
        )
    flops = sum(stage.flops for stage in estimated.stages)
    lines.append(f"  {'all':34}{estimated.bytes / GIB:8.2f}{'':10}{_work(flops, estimated.seconds)}")
    lines.append("  time = FLOPs / (FLOP/s), where FLOP/s is the rate that a stage is assumed to reach")
    too_large = [stage.name for stage in estimated.stages if stage.bytes > machine.memory]
    lines.append(f"  does NOT fit: {', '.join(too_large)}" if too_large else "  it fits")
    return "\n".join([*lines, *(f"  {note}" for note in estimated.notes)])


def _work(flops: float, seconds: float) -> str:
    """FLOPs, the rate at which they are done, and the time: the first over the second is the third."""
    rate = f"{flops / seconds:.2g}" if flops and seconds else ""
    return f"{flops:10.2g}{rate:>10}{duration(seconds):>13}"


def advice(cells: Sequence[Cell], machine: Machine, hints: SizeHints, estimated: SizeEstimate) -> list[str]:
    """For each stage that does not fit, one sentence with the first usual changes that make it fit."""
    too_large = [stage for stage in estimated.stages if stage.bytes > machine.memory]
    return [_advice(cells, machine, hints, stage.name, stage.bytes) for stage in too_large]


def _advice(cells: Sequence[Cell], machine: Machine, hints: SizeHints, stage: str, needed: float) -> str:
    first = OmegaConf.create(cells[0].config)
    for changes in TRAINING if stage in ("fine-tuning", "pretraining") else OTHERS:
        new = [change for change in changes if _is_new(first, change)]
        if not new:
            continue
        cfg: Any = copy.deepcopy(first)
        for _, settings in new:
            for key, value in settings.items():
                OmegaConf.update(cfg, key, value, merge=False)
        after = {changed.name: changed.bytes for changed in estimate([Cell("", cfg, ())], machine, hints).stages}
        if after.get(stage, needed) <= machine.memory:
            return f"{stage} would take {after[stage] / GIB:.1f} GiB with {' '.join(words for words, _ in new)}"
    return f"{stage} needs a machine of {needed / GIB:.0f} GiB or a smaller model: none of the usual changes is enough"


def _is_new(cfg: Any, change: Change) -> bool:
    keys = {key.rpartition(".")[::2]: value for key, value in change[1].items()}
    return all(name in cfg[group] and cfg[group][name] != value for (group, name), value in keys.items())


if __name__ == "__main__":
    main()
