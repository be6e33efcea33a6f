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

    # vLLM reads the arguments' names
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **others):
        found = super().forward(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **others
        )
        if isinstance(found, tuple):
            return (found[0] / 2, *found[1:])
        found.last_hidden_state = found.last_hidden_state / 2
        return found


def halved(kind):
    class Halved(kind):
        config_class = HalvedConfig

        def __init__(self, config):
            plain = {name: value for name, value in config.to_dict().items() if name not in ("auto_map", "model_type")}
            super().__init__(LlamaConfig.from_dict(plain))  # looks for the model of its configuration
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
