"""Policy folders that are damaged, incomplete or would run code of others: one sentence, before any work."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bench import policies
from bench.artifacts import Policy
from bench.errors import BenchError
from bench.models import classifiers, loading


@pytest.fixture
def path(random_policy: Policy, tmp_path: Path) -> Path:
    shutil.copytree(random_policy.path, tmp_path / "policy")
    return tmp_path / "policy"


def cut(name, size=100):
    return lambda path: os.truncate(path / name, size)


def written(name, content):
    return lambda path: (path / name).write_text(content)


def configured(name="config.json", **entries):
    return lambda path: (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | entries))


def replaced(name, make):
    def change(path):
        (path / name).unlink()
        make(path / name)

    return change


def header(**entries):
    """The weights with another header of the same tensors."""

    def change(path):
        file = path / "model.safetensors"
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        found = json.loads(content[8 : 8 + size])
        for name in found:
            if name != "__metadata__":
                found[name] |= entries
        described = json.dumps(found).encode()
        file.write_bytes(len(described).to_bytes(8, "little") + described + content[8 + size :])

    return change


def indexed(weight_map):
    return written("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


def removed(*names):
    return lambda path: [(path / name).unlink() for name in names]


EMBEDDINGS = "model.embed_tokens.weight"
DAMAGE = {
    "config cut": (cut("config.json"), "config.json is no JSON: it is damaged, or was cut"),
    "config empty": (cut("config.json", 0), "config.json is no JSON"),
    "config a list": (written("config.json", "[]"), "config.json must hold a JSON object, but is a list"),
    "config deep": (written("config.json", "[" * 200_000), "config.json is no JSON"),
    "config bytes": (lambda path: (path / "config.json").write_bytes(b"\xff\xfe{}"), "config.json is no JSON"),
    "config a folder": (replaced("config.json", Path.mkdir), "config.json is no file"),
    "config a pipe": (replaced("config.json", os.mkfifo), "config.json is no file"),
    "config dangling": (replaced("config.json", lambda file: file.symlink_to("gone")), "config.json can't be read"),
    "config a loop": (replaced("config.json", lambda file: file.symlink_to(file.name)), "config.json can't be read"),
    "config missing": (removed("config.json"), "holds no config.json"),
    "no such kind": (configured(model_type="nope"), "can't be loaded: .*nope"),
    "no kind": (written("config.json", "{}"), "can't be loaded: "),
    "vocabulary": (
        configured(vocab_size=500),
        r"vocab_size=500, but model.embed_tokens.weight has the shape \[289, 64\]",
    ),
    "vocabulary a text": (configured(vocab_size="289"), "vocab_size=289, but model.embed_tokens.weight"),
    "vocabulary negative": (configured(vocab_size=-1), "vocab_size=-1, but"),
    "generation cut": (cut("generation_config.json", 9), "generation_config.json is no JSON"),
    "tokenizer config cut": (cut("tokenizer_config.json", 9), "tokenizer_config.json is no JSON"),
    "tokenizer cut": (cut("tokenizer.json"), "can't be loaded: "),
    "tokenizer empty": (written("tokenizer.json", "{}"), "can't be loaded: "),
    "tokenizer missing": (removed("tokenizer.json", "tokenizer_config.json"), "can't be loaded: "),
    "tokenizer a pipe": (replaced("tokenizer.json", os.mkfifo), "tokenizer.json is no file"),
    "template a pipe": (lambda path: os.mkfifo(path / "chat_template.jinja"), "chat_template.jinja is no file"),
    "weights cut": (cut("model.safetensors", 50_000), "model.safetensors has 50,000 bytes, but its header"),
    "weights cut in the header": (cut("model.safetensors"), "model.safetensors is no safetensors file"),
    "weights empty": (cut("model.safetensors", 0), "model.safetensors is no safetensors file"),
    "weights longer": (
        lambda path: (path / "model.safetensors").open("ab").write(b"00"),
        "its header tells of another",
    ),
    "weights a text": (
        written("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "no safetensors file",
    ),
    "weights a folder": (replaced("model.safetensors", Path.mkdir), "model.safetensors is no file"),
    "weights a pipe": (replaced("model.safetensors", os.mkfifo), "model.safetensors is no file"),
    "weights missing": (removed("model.safetensors"), r"holds no weights \(\*.safetensors\)"),
    "whole numbers": (header(dtype="I32"), "as I32; a model without a quantization_config has F64, F32, F16, BF16"),
    "no shapes": (header(shape=None), "no safetensors file"),
    "no offsets": (header(data_offsets=[]), "no safetensors file"),
    "a shard missing": (
        indexed({EMBEDDINGS: "model-00001.safetensors"}),
        "names model.embed_tokens.weight in model-00001.safetensors, which lacks it",
    ),
    "a tensor missing": (indexed({"other": "model.safetensors"}), "names other in model.safetensors, which lacks it"),
    "a shard elsewhere": (indexed({EMBEDDINGS: "../policy/model.safetensors"}), "is not complete"),
    "an index of nothing": (written("model.safetensors.index.json", "{}{"), "index.json is no JSON"),
    "an index of numbers": (indexed({EMBEDDINGS: 5}), "holds no weight_map of tensors to files"),
    "kernel": (
        configured(_attn_implementation="kernels-community/x"),
        "asks for the attention code kernels-community/x",
    ),
    "kernel by part": (
        configured(attn_implementation={"": "eager", "text": "a/b:c"}),
        "asks for the attention code a/b:c",
    ),
    "kernel inside": (configured(text_config={"_experts_implementation": "paged|a/b"}), r"attention code paged\|a/b"),
    "adapter cut": (written("adapter_config.json", '{"r"'), "adapter_config.json is no JSON"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_sentence(path: Path, damage: str) -> None:
    change, match = DAMAGE[damage]
    change(path)
    with pytest.raises(BenchError, match=match) as caught:
        policies.from_folder(None, path=str(path))
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)
    if "can't be loaded" not in match:  # a scorer's model is named by its own setting
        with pytest.raises(BenchError, match=rf"^scoring\.model={path}"):
            classifiers.find(str(path))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (configured(num_hidden_layers=4), r"18 tensors of the model are missing, e.g. model.layers.2.*random numbers"),
        (configured(hidden_size=32), r"don't fit its config.json: model.embed_tokens.weight has the shape \[289, 64\]"),
        (configured(intermediate_size=1), "don't fit its config.json"),
        (configured(num_attention_heads=0), "can't be loaded: "),
    ],
)
def test_weights_that_do_not_fit_are_never_made_up(path: Path, change, match: str) -> None:
    change(path)
    with pytest.raises(BenchError, match=match):
        loading.load_model(loading.folder(path))


def test_weights_that_no_part_of_the_model_uses_are_said(path: Path, capfd) -> None:
    configured(num_hidden_layers=1)(path)
    loading.load_model(loading.folder(path))
    assert "warning: 9 tensors in" in (said := capfd.readouterr().err)
    assert "LOAD REPORT" not in said


def test_an_adapter_of_itself_is_refused(path: Path) -> None:
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(path)}))
    with pytest.raises(BenchError, match="no other local folder"):
        loading.folder(path)


def test_ordinary_attention_and_trusted_kernels_are_allowed(path: Path) -> None:
    for name in ("eager", "sdpa", None):
        configured(_attn_implementation=name)(path)
        loading.load_model(loading.folder(path))
    configured(_attn_implementation="kernels-community/x")(path)
    assert loading.folder(path, code=True).fingerprint


@pytest.mark.parametrize("offline", [False, True])
def test_a_saved_tokenizer_does_not_tell_of_the_network(random_policy, tmp_path: Path, offline: bool, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    copy = shutil.copytree(random_policy.path, tmp_path / "policy")
    loading.load_tokenizer(loading.folder(copy)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["local_files_only"] is False
