"""python -m bench.size [setting=value ...]: memory, hours, tokens and FLOPs by stage, before anything is downloaded.

    python -m bench.size experiment=gsm8k_qwen size.gpu=a100
    python -m bench.size sweep=paper_kl_frontier                     all its cells together, what they share once
    python -m bench.size policy=hub policy.id=ME/MODEL size.parameters=3e9 ...

size.gpu: h200, h100 (default), a100, l40s, 4090, or cpu: this machine. size.flops: FLOP/s instead of the machine's.
size.parameters and size.reward_parameters: of models that are not here and whose names do not say it.
size.prompt_tokens and size.completion_tokens: mean lengths.
"""

import sys

from bench.config.compose import CONF, explained
from bench.errors import BenchError
from bench.sizing.advice import advice
from bench.sizing.machines import GIB, Machine, machine
from bench.sizing.stages import SizeEstimate, Told, estimate
from bench.sweeps.plan import counted, duration

NUMBERS = ("flops", "parameters", "reward_parameters", "prompt_tokens", "completion_tokens")


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun")]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    mine = dict(argument[len("size.") :].partition("=")[::2] for argument in arguments if argument.startswith("size."))
    rest = [argument for argument in arguments if not argument.startswith("size.")]
    with explained(rest):
        from bench.sweeps.cells import cells

        unknown = [name for name in mine if name not in ("gpu", *NUMBERS)]
        if unknown:
            raise BenchError(f"size.{unknown[0]} is not a setting; there are size.gpu, size.{', size.'.join(NUMBERS)}.")
        told = {name: _number(name, mine[name]) for name in NUMBERS if name in mine}
        found = cells(rest, CONF)
        if not found:
            raise BenchError("Another sweeper than Hydra's own chooses these cells as it goes; size one of them.")
        threads = int(found[0].cfg.threads)
        on = machine(mine.get("gpu", "h100").lower(), told.pop("flops", None), threads=threads)
        sizes = Told(**told)
        estimated = estimate(found, on, sizes)
        print(table(estimated, on, len(found)))
        for line in advice(found, on, sizes, estimated):
            print(f"  {line}")


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise BenchError(f"size.{name}={value} is not allowed: it must be a number above 0.")
    return number


def table(found: SizeEstimate, on: Machine, cells: int) -> str:
    """A line a stage, the sum, whether it fits, and what was assumed."""
    lines = [f"{counted(cells)} on one {on.name} ({on.memory / GIB:.0f} GiB, {on.flops:.3g} FLOP/s); an estimate"]
    lines += [f"  {'stage':34}{'GiB':>8}{'time':>10}{'tokens':>12}{'FLOPs':>10}"]
    for stage in found.stages:
        taken = f"{stage.bytes / GIB:8.2f}{duration(stage.seconds):>10}"
        lines.append(f"  {stage.name:34}{taken}{stage.tokens:12.3g}{stage.flops:10.2g}")
    flops = sum(stage.flops for stage in found.stages)
    lines.append(f"  {'all':34}{found.bytes / GIB:8.2f}{duration(found.seconds):>10}{'':12}{flops:10.2g}")
    tight = [stage for stage in found.stages if stage.bytes > on.memory]
    lines.append("  it fits" if not tight else f"  does NOT fit: {', '.join(stage.name for stage in tight)}")
    return "\n".join([*lines, *(f"  {note}" for note in found.notes)])


if __name__ == "__main__":
    main()
