"""What an experiment needs, imported once for all forked commands; none of it is garbage."""

import gc
import importlib

IMPORTS = [
    *("torch", "transformers", "trl.trainer.sft_trainer", "lm_eval.evaluator", "matplotlib.pyplot", "wandb"),
    *("bench.__main__", "bench.launching.runner", "bench.procedures.parts", "bench.reporting.exhibits"),
    *("transformers.models.llama.modeling_llama", "bench.training.sft", "bench.records.write"),
]

gc.disable()
for name in IMPORTS:
    importlib.import_module(name)
gc.freeze()
gc.enable()
