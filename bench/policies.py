"""The sources of a policy: a local folder, the Hugging Face hub, pretraining, or SFT on worked solutions.

The package ships the policies of the default settings and seeds 0 to 4, since training rounds differently on other
processors. Where their recipe changes, this makes them anew:

    python -m bench.policies
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from bench.artifacts import Policy
from bench.config.keys import configured
from bench.config.rules import (
    FOLDER,
    TRUE_OR_FALSE,
    Count,
    LearningRate,
    PromptCount,
    Seed,
    checked,
    here,
    or_null,
    text,
    whole,
)
from bench.errors import BenchError, CommandLine
from bench.models import hub
from bench.models.adapters import on_base
from bench.models.loading import ADAPTER, base_of, folder, load_config, load_tokenizer
from bench.store import SHIPPED, Store, using
from bench.store.files import ship
from bench.tasks import Corpus, refuse_without_solutions
from bench.training import sft
from bench.training.demonstrations import demonstrations, every
from bench.training.pretraining import pretrain

HUB_ID = text(r"\w[\w.-]*(/\w[\w.-]*)?", "the id of a model of the hub, e.g. Qwen/Qwen2.5-1.5B")
SYSTEM = or_null(text(r"(?s).*\S.*", "a text"))
THINKING = or_null(TRUE_OR_FALSE)
SEEDS = range(5)  # of the policies that the package ships


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Raise BenchError for sizes that no Llama can have: each head has an even number of dimensions."""
    width, heads = settings.get("hidden_size", 96), settings.get("heads", 3)
    if width % (2 * heads):
        raise BenchError(
            f"policy.hidden_size={width} is not allowed with policy.heads={heads}: it must be a multiple of twice as "
            f"many, {2 * heads}."
        )


@here(_check_sizes)
def tiny(
    task: Corpus,
    *,
    seed: Seed,
    demonstrations: PromptCount = 32_000,
    steps: Count = 1100,
    batch_size: Count = 32,
    learning_rate: LearningRate = 2.5e-3,
    hidden_size: Annotated[int, whole(1, 65_536)] = 96,
    layers: Annotated[int, whole(1, 1_000)] = 2,
    heads: Annotated[int, whole(1, 1_024)] = 3,
    feedforward_size: Count = 256,
    vocabulary: Count = 400,
    member: Annotated[int, whole(0)] = 0,
) -> Policy:
    """The embedded default: a small Llama pretrained from scratch on the task's noisy demonstrations.

    member: the policy's number in a family that shares only the tokenizer; see bench.training.pretraining.
    """
    if not hasattr(task, "demonstrations"):
        raise BenchError(
            f"policy=tiny is pretrained on its task's own corpus, and task={getattr(task, 'name', task)} has none: "
            "give a policy that can answer its prompts, e.g. policy=folder policy.path=PATH."
        )
    return pretrain(
        task,
        seed=seed,
        demonstrations=demonstrations,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        feedforward_size=feedforward_size,
        vocabulary=vocabulary,
        member=member,
    )


@here(lambda settings: from_folder(None, **settings))  # type: ignore[has-type]
def from_folder(
    task: Any,
    *,
    path: Annotated[str, FOLDER],
    system: Annotated[str | None, SYSTEM] = None,
    thinking: Annotated[bool | None, THINKING] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Policy:
    """A policy in a local folder, for any task. The other settings are those of `from_hub`."""
    return _with_chat_settings(folder(path, code=trust_remote_code), system, thinking, trust_remote_code)


@here(lambda settings: from_hub(None, **settings))  # type: ignore[has-type]
def from_hub(
    task: Any,
    *,
    id: Annotated[str, HUB_ID],
    revision: Annotated[str, text(r"\S+", "a branch, a tag or a commit")] = "main",
    system: Annotated[str | None, SYSTEM] = None,
    thinking: Annotated[bool | None, THINKING] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Policy:
    """A policy of the Hugging Face hub, for any task; its fingerprint is a hash of id and commit.

    system: the system prompt of conversations without one. thinking: whether a model that can reason before it answers
    does so. None leaves either to the chat template. A policy fine-tuned from this one has both in its own template.
    trust_remote_code: run the model's own Python files. BenchError says which of model, access or network is missing.
    """
    path = hub.snapshot(id, revision, code=trust_remote_code)
    return _with_chat_settings(folder(path), system, thinking, trust_remote_code)


def check_recipes(config: Mapping[str, Any]) -> None:
    """BenchError where the training settings of a warm-started policy, wherever it stands, don't go together."""
    for node in configured(config):
        if node["_target_"].endswith(f"policies.{warm_started.__name__}"):
            sft.check_recipe({**config, "training": node["training"]})


@checked(check_recipes)
def warm_started(task: Any, *, start: Callable[[Any], Policy], training: Callable[..., Policy], seed: Seed) -> Policy:
    """The policy `start`, fine-tuned on the worked solutions of the task's training prompts.

    It is the tuned policy of procedure=sft with this policy, recipe (`training`) and seed, and the store holds it once.
    BenchError, before any work, for a task without worked solutions.
    """
    refuse_without_solutions(task)
    base, prompts = start(task), task.prompts("train")
    return training(base, prompts, demonstrations(task, prompts, base, seed=seed), every(len(prompts)), seed=seed)


def from_elsewhere(
    task: Any,
    *,
    place: str,
    setting: str,
    base: Policy,
    system: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
) -> Policy:
    """A policy that was trained anywhere, for any task; `setting` names it in messages.

    place: a local folder, which may hold a LoRA adapter of `base`, or ID or ID@REVISION of the Hugging Face Hub. The
    other settings are those of `from_hub`. BenchError where there is no such policy, or it is not whole.
    """
    if (Path(place) / ADAPTER).is_file():
        found = on_base(Path(place).absolute(), base_of(base), setting=setting, code=trust_remote_code)
    elif Path(place).is_dir():
        found = folder(place, code=trust_remote_code, setting=setting)
    else:
        id, _, revision = place.partition("@")
        if not HUB_ID.allows(id):
            raise BenchError(f"{setting}={place} is not allowed: there is no such folder.")
        asking = hub.Asking(setting, f"{setting}: revision", "give a folder that exists")
        found = folder(hub.snapshot(id, revision or "main", code=trust_remote_code, asking=asking))
    return _with_chat_settings(found, system, thinking, trust_remote_code)


def _with_chat_settings(policy: Policy, system: str | None, thinking: bool | None, trust_remote_code: bool) -> Policy:
    """The policy with these settings. Raises BenchError where its tokenizer or chat template doesn't support them."""
    policy = replace(policy, system=system, thinking=thinking, trust_remote_code=trust_remote_code)
    load_config(base_of(policy))
    load_tokenizer(policy)
    return policy


def main() -> None:
    """Pretrain the policies of the default settings, and store them in the package (bench/store/shipped)."""
    from hydra import compose

    from bench.config.checks import build_parts
    from bench.config.compose import CONF, composing

    CommandLine(
        f"python -m bench.policies: {str(main.__doc__).lower()}\n\nexamples:\n  python -m bench.policies"
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder, using(Store(Path(folder), shipped=None)) as store:
        for seed in SEEDS:
            with composing(CONF):
                parts = build_parts(compose("config", [f"seed={seed}"]))
            policy = parts["policy"](parts["task"])
            print(f"seed {seed}: {policy.fingerprint}, pretrained in {store.uses[-1].seconds:.0f} s")
        ship(store.root, SHIPPED)
    print(f"all are in {SHIPPED}")


if __name__ == "__main__":
    main()
