"""LoRA (Hu et al. 2021, arXiv 2106.09685): train a low-rank addition to a frozen model, and keep that alone.

    python -m bench training=lora training.lora.r=8
    python -m bench training=lora training.lora.four_bit=true        QLoRA; extra qlora

The result is a folder with the adapter, which names the folder of its base model. Generation, log-probabilities and
evaluation read it like any other policy (bench.policies).
"""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bench.artifacts import Policy
from bench.config.rules import ABOVE_ZERO, TRUE_OR_FALSE, Rule, number, whole
from bench.errors import BenchError
from bench.models import loading
from bench.training import processes

GENERATION = "generation_config.json"
ALL_LINEAR = "all-linear"


def _names_modules(value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value == ALL_LINEAR
    return bool(value) and all(isinstance(name, str) and name for name in value)


MODULES = Rule(_names_modules, f"{ALL_LINEAR} (every linear layer but the head), or a list of module names")


@dataclass(frozen=True)
class Lora:
    """W + (alpha / r) B A in place of each target module's W, where A starts at random and B at 0.

    four_bit: hold the frozen weights in 4-bit NF4 (QLoRA, Dettmers et al. 2023, arXiv 2305.14314) while training, on a
    GPU or a CPU. Generation, log-probabilities and KL put the adapter on the base's own weights, not on rounded ones.
    The policy that is judged then differs from the base only by the adapter, and from the trained one by the rounding.
    """

    r: Annotated[int, whole(1, 65_536)]
    alpha: Annotated[float, ABOVE_ZERO]
    dropout: Annotated[float, number(0, 1, open_high=True)]
    target_modules: Annotated[str | tuple[str, ...], MODULES]
    four_bit: Annotated[bool, TRUE_OR_FALSE]

    def __post_init__(self) -> None:
        if not isinstance(self.target_modules, str):  # a list, as YAML gives it
            object.__setattr__(self, "target_modules", tuple(self.target_modules))


def trainable(policy: Policy, lora: Lora | None, *, in_bfloat16: bool) -> Any:
    """The policy's model ready for training: whole in float32, or frozen with an adapter in float32.

    A policy that is itself an adapter is continued where `lora` has the same shape: rounds that start from the current
    policy stay one adapter on the original base. Without `lora`, the adapter is merged into its base and the whole is
    trained. Raises BenchError where `lora` has another shape, names no module, or needs a package that is missing.
    """
    if lora is None:
        from transformers import GenerationConfig

        model = loading.load_model(policy) if loading.base_of(policy) == policy else _merged(policy)
        own = model.generation_config.to_dict()  # some bases' settings contradict each other, and can't be saved
        model.generation_config = GenerationConfig(**{name: own[name] for name in own if name.endswith("_token_id")})
        return model
    if lora.four_bit:
        check_four_bit()
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model

    base = loading.base_of(policy)
    dtype, device = "bfloat16" if in_bfloat16 else "float32", processes.device() if lora.four_bit else "cpu"
    frozen = loading.load_model(base, dtype=dtype, device=device, four_bit=lora.four_bit)
    if lora.four_bit:
        from peft import prepare_model_for_kbit_training

        frozen = prepare_model_for_kbit_training(frozen, use_gradient_checkpointing=False)
    if base != policy:
        _refuse_another_shape(policy, lora)
        return PeftModel.from_pretrained(frozen, policy.path, is_trainable=True)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    alpha: Any = lora.alpha  # PEFT annotates it as int, and divides it by r
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=lora.r, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=targets
    )
    if "lm_head" in targets:
        raise BenchError(
            "training.lora.target_modules=lm_head can't be adapted: the loss reads the head's own weights."
        )
    try:
        return get_peft_model(frozen, config)
    except ValueError as error:
        if isinstance(targets, list):
            raise BenchError(
                f"training.lora.target_modules={','.join(targets)} are no modules of {policy.path}: {error}"
            ) from error
        raise


def save(model: Any, policy: Policy, folder: Path) -> None:
    """Write a trained model, or its adapter alone, and its tokenizer to `folder`; equal adapters have equal files."""
    from peft import PeftModel

    loading.load_tokenizer(policy).save_pretrained(folder)
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder)
        if (settings := loading.base_of(policy).path / GENERATION).is_file():
            shutil.copyfile(settings, folder / GENERATION)
        return
    model.save_pretrained(str(folder), selected_adapters=["default"])  # without TRL's copy of it, the reference
    (folder / "README.md").unlink(missing_ok=True)  # an unfilled template of PEFT
    config = json.loads((folder / loading.ADAPTER).read_text())
    config[loading.BASE_PLACE] = str(loading.base_of(policy).path)
    in_order = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    (folder / loading.ADAPTER).write_text(json.dumps(in_order, indent=2, sort_keys=True))


def fill(model: Any, weights: dict[str, Any]) -> None:
    """Load the trained weights by name; one of several tied weights may stand for all.

    Raises RuntimeError where a weight is unknown or missing.
    """
    own = {name: weight for name, weight in model.state_dict().items() if not is_frozen(model, name)}
    unknown = sorted(set(weights) - set(own))
    given = {own[name].data_ptr() for name in weights if name in own}
    missing = sorted(name for name in set(own) - set(weights) if own[name].data_ptr() not in given)
    if unknown or missing:
        raise RuntimeError(f"of gathered weights {unknown[:3]} are unknown to the model and {missing[:3]} are missing")
    model.load_state_dict(weights, strict=False)


def is_frozen(model: Any, name: str) -> bool:
    """Whether an entry of the model's state is a weight that is not trained."""
    try:
        return not model.get_parameter(name).requires_grad
    except AttributeError:  # a buffer
        return False


def _merged(policy: Policy) -> Any:
    """The base model with the adapter added into its weights."""
    from peft import PeftModel

    base = loading.load_model(loading.base_of(policy))
    return PeftModel.from_pretrained(base, policy.path).merge_and_unload().requires_grad_(True)


def _refuse_another_shape(policy: Policy, lora: Lora) -> None:
    """Raise BenchError where `lora` differs from the policy's own adapter."""
    config = json.loads((policy.path / loading.ADAPTER).read_text())
    has = {"r": config["r"], "alpha": config["lora_alpha"], "dropout": config["lora_dropout"]}
    wanted: dict[str, Any] = {"r": lora.r, "alpha": lora.alpha, "dropout": lora.dropout}
    if not isinstance(lora.target_modules, str):
        has["target_modules"], wanted["target_modules"] = sorted(config["target_modules"]), sorted(lora.target_modules)
    for name, value in wanted.items():
        if has[name] != value:
            raise BenchError(
                f"training.lora.{name}={value} is not what the policy's own adapter in {policy.path} has ({has[name]}),"
                " and fine-tuning continues that adapter; set the same value, or merge it into its base model first."
            )


def check_four_bit() -> None:
    """Raise BenchError where bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BenchError(
            "training.lora.four_bit=true needs bitsandbytes, which is not installed (extra qlora: pip install "
            "'bitsandbytes>=0.50,<1'); install it, or set four_bit to false."
        )
