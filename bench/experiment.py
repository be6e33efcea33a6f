"""The experiment of one round. `python -m bench` composes its parts from conf/ and calls `run`."""

from bench.procedures.findings import Results
from bench.procedures.parts import Parts
from bench.selection.cells import prompts_dropped


def run(parts: Parts) -> Results:
    """Sample, score, select, fine-tune; compare with a random control and with Best-of-N on one measured KL axis.

    Every policy is trained from the base. The random control is fine-tuned on as many completions of the same prompts,
    chosen without the reward (control="none": no control). Best-of-N is the base with the training pool's temperature
    and top-p. All are judged on the prompts of `split`: "test", or "validation" to choose one of many runs.
    """
    train, base = parts.train, parts.base
    score = parts.scorer  # a learned scorer is trained here

    pool = parts.generation(train, base, num_completions=parts.num_completions, seed=parts.seed)  # [M, N]
    rewards = score(train, pool).of(pool)  # [M, N]
    eligible = parts.prompt_filter(rewards.value)  # [M, N], NaN where the prompt is left out
    selections = parts.select(eligible, pool)  # [K] completions per arm: tuned, control

    # fine-tune the base on each selection; judge both policies, the base and Best-of-N on held-out prompts
    return parts.train_and_judge(pool, rewards, selections, prompts_filtered=prompts_dropped(rewards.value, eligible))
