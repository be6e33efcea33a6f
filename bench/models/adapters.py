"""Put LoRA adapters that were trained elsewhere on the run's base, whatever they name as their base model.

TRL and PEFT write the name under which the base was loaded: an id of the hub, or a folder of the machine that trained.
"""

import json
import shutil
from pathlib import Path

from bench.artifacts import Policy
from bench.errors import BenchError, quoted
from bench.models import hub, loading
from bench.progress import say
from bench.store import Address, current

STAGE = "put_on_base"
PREFIX = "base_model.model."  # PEFT's, before the name of a module
SIDES = {"lora_A": (1, 1), "lora_B": (0, 0), "lora_embedding_A": (1, 0), "lora_embedding_B": (0, 1)}  # axis, that of W


def on_base(folder: Path, base: Policy, *, setting: str, code: bool = False) -> Policy:
    """The adapter in `folder` as a policy on `base`, a whole model.

    An adapter that names a local folder of the base's content, and brings a tokenizer, is taken as it is. Any other one
    is copied to the store, where it names `base`, and has the base's tokenizer if it brings none. BenchError where it
    names a local folder of another model, or its shapes are not those of `base`.
    """
    made = loading.folder(folder, code=code, setting=setting, on=base.fingerprint)
    named = Path(str((loading.adapter_config(folder) or {}).get(loading.BASE_PLACE)))
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    is_here = (named / "config.json").is_file() and named.resolve() != folder.resolve()
    if is_here and loading.folder(named, code=code).fingerprint != base.fingerprint:
        raise BenchError(
            f"{setting}={folder} is an adapter of the model in {named}, but the run's base is the one in {base.path}: "
            "give the merged model (merge_and_unload), or an adapter of the base."
        )
    if is_here and has_tokenizer:
        return made
    refuse_other_shapes(folder, base, setting=setting)

    def build(out: Path) -> dict[str, float]:
        for file in folder.iterdir():
            if file.is_file() and file.suffix in loading.FILES and file.name != "manifest.json":
                shutil.copyfile(file, out / file.name)
        config = json.loads((folder / loading.ADAPTER).read_text()) | {loading.BASE_PLACE: str(base.path)}
        (out / loading.ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True))
        if not has_tokenizer:
            loading.load_tokenizer(base).save_pretrained(out)
        return {}

    address = Address(STAGE, 1, {}, {"adapter": made.key, "policy": base.fingerprint})
    put = Policy(current().make(address, build, lambda out: out), made.fingerprint)
    if not is_here and str(named) != (hub.named_by(base.path) or ("",))[0]:
        say(f"warning: {setting}: the adapter names {named} as its base model, and is put on the run's base")
    return put


def refuse_other_shapes(folder: Path, base: Policy, *, setting: str) -> None:
    """BenchError where a weight of the adapter in `folder` belongs to no module of `base`, or has another shape."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(loading.load_config(base), trust_remote_code=base.trust_remote_code)
    transposed = (loading.adapter_config(folder) or {}).get("fan_in_fan_out", False)
    for name, shape in loading.weights(folder):
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        whole = f"{module}.weight" if side in SIDES else name.removeprefix(PREFIX)
        try:
            needed = list(model.get_parameter(whole).shape)
        except AttributeError:
            raise BenchError(
                f"{setting}={folder} doesn't fit the run's base in {base.path}, which has no {quoted(whole)}."
            ) from None
        if side in SIDES:
            axis, of_whole = SIDES[side]
            shape, needed = [shape[axis]], [needed[:: -1 if transposed else 1][of_whole]]
        if shape != needed:
            raise BenchError(
                f"{setting}={folder} doesn't fit the run's base in {base.path}: {quoted(name)} needs {needed} "
                f"in place of {shape}."
            )
