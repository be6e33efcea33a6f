"""Models that bring Python code of their own: a Llama whose last hidden states are halved, by the file beside them."""

import json
import shutil
from pathlib import Path

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaForTokenClassification
from transformers import LlamaModel


class HalvedConfig(LlamaConfig):
    model_type = "halved"


class HalvedModel(LlamaModel):
    config_class = HalvedConfig

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        if isinstance(found, tuple):
            return (found[0] / 2, *found[1:])
        found.last_hidden_state = found.last_hidden_state / 2
        return found


def halved(kind):
    class Halved(kind):
        config_class = HalvedConfig

        def __init__(self, config):
            super().__init__(config)
            self.model = HalvedModel(config)
            self.post_init()

    Halved.__name__ = Halved.__qualname__ = kind.__name__.replace("Llama", "Halved")
    return Halved


HalvedForCausalLM = halved(LlamaForCausalLM)
HalvedForSequenceClassification = halved(LlamaForSequenceClassification)
HalvedForTokenClassification = halved(LlamaForTokenClassification)
"""
CLASSES = {
    "AutoConfig": "HalvedConfig",
    "AutoModel": "HalvedModel",
    **{
        f"AutoModelFor{kind}": f"HalvedFor{kind}"
        for kind in ("CausalLM", "SequenceClassification", "TokenClassification")
    },
}


def halved(llama: str | Path, folder: Path) -> Path:
    """A copy in `folder` of the Llama that lies in `llama`, its hidden states halved by code beside it."""
    shutil.copytree(llama, folder)
    (folder / "halving.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "halved",
        "architectures": [config["architectures"][0].replace("Llama", "Halved")],
        "auto_map": {auto: f"halving.{name}" for auto, name in CLASSES.items()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
