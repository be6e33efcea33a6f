"""Packed batches, in which all examples lie in one row and none sees another; and sums over examples.

Positions restart with each packed example. Attention stays within examples (see bench.training.packed_attention); for
models that choose their own attention, transformers makes a mask that is causal and block-diagonal from the positions.
"""

import contextlib
from typing import Any

from bench.devices import device
from bench.errors import BenchError, is_out_of_gpu_memory

IGNORED = -100  # the label that carries no loss, in torch and TRL alike
PROBE = 6  # tokens of each of the two examples that test a model
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}  # of the largest logit, between packed and alone


def packed(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows {input_ids, labels, weight} as one batch: input_ids, position_ids, labels (1, T), owner (T,), weight (B,).

    owner: the number of the example that a token belongs to. An example's first token is not predicted: no loss.
    """
    import torch

    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example["input_ids"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
        "labels": torch.tensor([[label for example in examples for label in (IGNORED, *example["labels"][1:])]]),
        "owner": torch.arange(len(examples)).repeat_interleave(lengths),
        "weight": torch.tensor([example["weight"] for example in examples]),
    }


def parts(batch: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """The batch in parts of at most so many examples, with the padding of the whole."""
    if len(batch["weight"]) <= most:
        return [batch]
    found = []
    for start in range(0, len(batch["weight"]), most):
        rows = slice(start, start + most)
        if "owner" in batch:
            tokens = (batch["owner"] >= start) & (batch["owner"] < start + most)
            part = {name: value[:, tokens] for name, value in batch.items() if name not in ("owner", "weight")}
            found.append({**part, "owner": batch["owner"][tokens] - start, "weight": batch["weight"][rows]})
        else:
            found.append({name: value[rows] for name, value in batch.items()})
    return found


def of_examples(batch: dict[str, Any], values: Any) -> Any:
    """[B]: the sum of `values` over each example's tokens.

    values: (B, T - 1) or, packed, (1, T - 1), one for each predicted token.
    """
    if "owner" not in batch:
        return values.sum(dim=1)
    return values.new_zeros(len(batch["weight"])).index_add(0, batch["owner"][1:], values[0])


def loss_tokens(batch: dict[str, Any]) -> Any:
    """The number of tokens that carry loss, each counted with its example's weight."""
    counted = (batch["labels"][:, 1:] != IGNORED).to(batch["weight"].dtype)
    return batch["weight"] @ of_examples(batch, counted)


def count_tokens(batch: dict[str, Any]) -> Any:
    """The number of tokens of examples with a weight above 0, without padding."""
    counts = batch["weight"] > 0
    if "owner" in batch:
        return counts[batch["owner"]].sum()
    return batch["attention_mask"][counts].sum()


def inputs(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What the model reads of a batch."""
    from bench.training import packed_attention

    read = {name: value for name, value in batch.items() if name not in ("weight", "owner")}
    if "owner" in batch and model.config._attn_implementation == packed_attention.ATTENTION:
        read["examples"] = packed_attention.lengths(batch["owner"])
    return read


def packs(model: Any, asked: bool | None, *, in_bfloat16: bool = False) -> bool:
    """Whether a training packs its examples.

    asked: None: on a GPU, where attention can be kept within examples and the model reads them as it reads them alone.
    Raises BenchError where it is asked for, and the model reads a packed example differently.
    """
    if not asked and (asked is False or device() == "cpu" or not _within(model)):
        return False
    try:
        refuse_where_examples_meet(model, in_bfloat16=in_bfloat16)
    except BenchError:
        if asked:
            raise
        return False
    return True


def attention(model: Any) -> contextlib.AbstractContextManager[None]:
    """Around the reading of packed rows: attention is kept within examples, where the model lets others choose it."""
    from bench.training.packed_attention import within_examples

    return within_examples(model) if _within(model) else contextlib.nullcontext()


def _within(model: Any) -> bool:
    from bench.training.packed_attention import supported

    return supported(model)


def refuse_where_examples_meet(model: Any, *, in_bfloat16: bool = False) -> None:
    """Raise BenchError where a model reads a packed example differently than alone, e.g. as it passes on a state."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    first, other, second = (
        {"input_ids": [(start + 7 * i) % vocabulary for i in range(PROBE)], "labels": [0] * PROBE, "weight": 1.0}
        for start in (3, 11, 29)
    )

    def read(*examples: dict[str, Any]) -> Any:
        batch = {name: value.to(model.device) for name, value in packed(list(examples)).items()}
        read = {name: value for name, value in inputs(model, batch).items() if name != "labels"}
        return model(**read, use_cache=False).logits[0, -PROBE:].float()

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=in_bfloat16):
            alone = read(second)
            with attention(model):
                after_first, after_other = read(first, second), read(other, second)
    except (TypeError, RuntimeError) as error:  # it takes no positions, or the device lacks the kernel
        if is_out_of_gpu_memory(error):
            raise
        raise _unfit(model) from error
    finally:
        model.train(training)
    dtype = "bfloat16" if in_bfloat16 else str(model.dtype).removeprefix("torch.")
    most = TOLERANCE[dtype] * float(alone.abs().max())
    if not torch.equal(after_first, after_other) or float((after_first - alone).abs().max()) > most:
        raise _unfit(model)


def _unfit(model: Any) -> BenchError:
    return BenchError(
        f"training.packing=true is not allowed with {model.config.model_type} models: what they compute for an example "
        "depends on those packed before it; set it to false."
    )
