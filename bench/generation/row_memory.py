"""The rows of a batch and their cache: growing on a CPU, or at fixed addresses, where a GPU replays captured steps.

A small model's step is some hundred kernels, and to start one takes longer than to compute it. A CUDA graph starts them
all at once, if shapes and addresses stay as they were: rows and attended positions are rounded up, and each shape is
captured once. What this gains on a GPU is not measured; equal tokens are tested on a CPU, where nothing is captured.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache

from bench.errors import first_line, is_out_of_gpu_memory
from bench.models import kv_cache
from bench.progress import say

DROP_BELOW = 0.96  # share of unfinished rows under which a growing cache is repacked without the finished ones
ROOM = 8  # tokens by which it grows: attention is fastest on keys that lie close together
FIXED_DROP_BELOW = 0.75  # the same share for fixed rows, each number of which is a shape to capture
FEWEST, POSITIONS, SPAN = 8, 64, 128  # units of fixed rows, of their capacity, and of the positions they attend to


class GrowingRows:
    """Rows whose cache grows by a few positions at a time, without those that have finished."""

    def __init__(self, model: Any) -> None:
        self.model, self.room = model, kv_cache.Room()
        self.cache: Any = None

    def begin(self, prompts: Any, copies: int, steps: int) -> None:
        """Start with `copies` rows of each prompt of a Prefill, next to each other, for at most `steps` tokens."""
        self.forget()
        self.used, self.limit = prompts.width, prompts.width + steps
        self.capacity = min(self.used + ROOM, self.limit)
        self.cache = self._repeated(prompts.cache, copies)
        self.position = prompts.attended.sum(dim=-1).repeat_interleave(copies, 0)
        attended = torch.nn.functional.pad(prompts.attended, (0, steps), value=True)
        self.attended = attended.repeat_interleave(copies, 0)

    def forward(self, drawn: torch.Tensor) -> torch.Tensor:
        """[rows, V] logits after one more token per row [rows]."""
        if self.used == self.capacity:
            self.capacity = min(self.capacity + ROOM, self.limit)
            full, self.cache = self.cache, self._repeated(self.cache, 1)
            self.room.give_back(full)
        self.used += 1
        attended, positions = self.attended[:, : self.used], self.position[:, None]
        logits = kv_cache.forward(self.model, drawn[:, None], attended, positions, self.cache)
        self.position = self.position + 1
        return logits

    def drop(self, live: torch.Tensor) -> torch.Tensor | None:
        """Keep the rows of the ascending numbers `live`, in the order returned; None where all stay."""
        if len(live) >= DROP_BELOW * len(self.position):
            return None
        order = kv_cache.drop(self.cache, live)
        self.attended, self.position = self.attended[order], self.position[order]
        return order

    def forget(self) -> None:
        if self.cache is not None:
            self.room.give_back(self.cache)
        self.cache = None

    def _repeated(self, cache: Any, copies: int) -> Any:
        return Cache(layers=[layer.repeated(copies, self.capacity, self.limit, self.room) for layer in cache.layers])


class FixedRows:
    """As GrowingRows, at addresses that batches share; `rows` of them are computed, the last ones for nothing.

    Their memory is for up to an eighth more rows, and up to 63 more positions, than the batch has.

    capture: gives a step as a graph that `replay`s it, in the memory of `pool` (see `captured`); None on a CPU.
    """

    def __init__(self, model: Any, capture: Callable[[Callable[[], None], Any], Any] | None) -> None:
        self.model, self.capture = model, capture
        self.forget()

    def forget(self) -> None:
        """Give all memory back, and the graphs, which read the weights where they lie now."""
        self.memory: dict[str, torch.Tensor] = {}
        self.graphs: dict[tuple[int, int, int], Any] = {}  # None: this shape was computed once, which loads its kernels
        self.pool: Any = None
        self.cache: Any = None
        self.ids, self.positions, self.attended, self.slot, self.logits = (torch.empty(0),) * 5

    def begin(self, prompts: Any, copies: int, steps: int) -> None:
        count, self.cache = len(prompts.logits) * copies, None
        self.rows, self.used = rounded(count), prompts.width
        self.capacity = -(-(prompts.width + steps) // POSITIONS) * POSITIONS
        self.ids = self._place("ids", prompts.attended.long(), self.rows, 1).zero_()
        self.positions = self._place("positions", self.ids, self.rows, 1).zero_()
        self.positions[:count, 0] = prompts.attended.sum(dim=-1).repeat_interleave(copies, 0)
        self.attended = self._place("attended", prompts.attended, self.rows, self.capacity).fill_(True)
        self.attended[:count, : prompts.width] = prompts.attended.repeat_interleave(copies, 0)
        self.slot = self._place("slot", self.ids).fill_(prompts.width)  # where the next token is written
        self.logits = self._place("logits", prompts.logits, self.rows, prompts.logits.shape[1])
        layers: list[Any] = []
        for number, layer in enumerate(prompts.cache.layers):
            keys, values = (
                self._place(f"{name} {number}", part, self.rows, part.shape[1], self.capacity, part.shape[3])
                for name, part in zip(("keys", "values"), layer.filled(), strict=True)
            )
            layers.append(kv_cache.FixedLayer(keys, values, self.slot))
            layers[-1].fill(layer, copies)
        self.cache = Cache(layers=layers)

    def forward(self, drawn: torch.Tensor) -> torch.Tensor:
        self.ids[: len(drawn), 0] = drawn
        self.used += 1
        shape = self.rows, min(-(-self.used // SPAN) * SPAN, self.capacity), self.capacity
        for layer in self.cache.layers:
            layer.rows, layer.used = shape[:2]
        if self.capture is None or shape not in self.graphs:
            self.graphs[shape] = None
            self._step()
        else:
            self._replay(shape)
        return self.logits[: len(drawn)]

    def drop(self, live: torch.Tensor) -> torch.Tensor | None:
        rows = rounded(len(live))
        if rows > FIXED_DROP_BELOW * self.rows:
            return None
        order, self.rows = kv_cache.drop(self.cache, live), rows
        for part in (self.positions, self.attended):
            part[: len(order)] = part[order]
        return order

    def _step(self) -> None:
        """Compute the logits after `ids`. It reads and writes nothing but the fixed memory, so it can be captured."""
        rows, span = self.cache.layers[0].rows, self.cache.layers[0].used
        ids, attended, positions = self.ids[:rows], self.attended[:rows, :span], self.positions[:rows]
        self.logits[:rows] = kv_cache.forward(self.model, ids, attended, positions, self.cache)
        self.positions += 1
        self.slot += 1

    def _replay(self, shape: tuple[int, int, int]) -> None:
        """Compute a step of a known shape by its graph; without graphs from now on where it can't be captured."""
        assert self.capture is not None
        if self.graphs[shape] is None:
            try:
                self.graphs[shape] = self.capture(self._step, self.pool)
            except RuntimeError as error:
                if is_out_of_gpu_memory(error):
                    raise
                say(f"The decoding step can't be captured as a CUDA graph, so it is slower: {first_line(error)}")
                self.capture = None
                self._step()
                return
            self.pool = self.graphs[shape].pool()
        self.graphs[shape].replay()

    def _place(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """The memory of this name in a shape; larger memory has other addresses, so that all graphs go.

        It never holds NaN, by which a masked position would spread.
        """
        size = torch.Size(shape).numel()
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory.pop(name, None)
            self.graphs, self.pool = {}, None
            self.memory[name] = like.new_zeros(size)
        return self.memory[name][:size].view(shape)


def rounded(rows: int) -> int:
    """At least as many rows, by at most an eighth more or up to FEWEST: few shapes for many batches."""
    unit = max(FEWEST, 1 << max(rows.bit_length() - 4, 0))
    return -(-rows // unit) * unit


def captured(step: Callable[[], None], pool: Any) -> Any:
    """A step as a CUDA graph, in the memory of other graphs' `pool()`. Capturing computes nothing; `replay` does."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    return graph


@torch.inference_mode()
def for_model(model: Any, prefill: Callable[[], Any]) -> GrowingRows | FixedRows:
    """Fixed rows on a GPU, for a model that computes alike in them: one step after a Prefill is tried."""
    if model.device.type == "cuda" and kv_cache.has_own_attention(model):
        fixed = FixedRows(model, captured)
        if agree(GrowingRows(model), fixed, prefill()):
            return fixed
    return GrowingRows(model)


@torch.inference_mode()
def agree(growing: GrowingRows, fixed: FixedRows, prompts: Any) -> bool:
    """Whether both give the logits after each prompt and the token 0, but for rounding."""
    found = []
    try:
        for rows in (growing, fixed):
            rows.begin(prompts, 1, 2)
            found.append(rows.forward(torch.zeros_like(prompts.attended[:, 0], dtype=torch.long)).float())
            rows.forget()
    except Exception as error:  # models differ in what they assume about a cache
        if is_out_of_gpu_memory(error):
            raise
        return False
    return bool((found[0] - found[1]).abs().max() <= 0.05 * found[0].abs().max())
