"""A search in place of a grid: Optuna proposes cells for two objectives, judged on validation prompts only.

    python -m bench sweep=search_temperature_top_p                         run it, or continue it
    python -m bench -m hydra/sweeper=optuna 'temperature=interval(0.4,1.6)' 'top_p=interval(0.5,1.0)'
    python -m bench sweep=search_temperature_top_p plan=true               only say what would run, and its cost
    python -m bench.status sweep=search_temperature_top_p                  trials so far, and the best of them

The result of a trial is read from its run folder, so that it may run anywhere. outputs/<name>/search.journal keeps the
trials, in Optuna's own format. When all are done, the chosen cell and the baseline are judged on test prompts.
"""

from bench.search.definition import Search, read

__all__ = ["Search", "read"]
