"""What vLLM's workers are given besides their own methods; it runs in their processes."""

import os
import select
import signal
import threading
from typing import Any


class Reloading:
    """Mixed into vLLM's worker class, which has reload_weights and model_runner."""

    reload_weights: Any
    model_runner: Any

    def reload_every_weight(self, folder: str) -> None:
        """Load the weights in `folder` in place of the present ones, of the same shapes.

        On a CPU an output layer keeps a packed copy of its weights. vLLM's reload packs anew what the files name, which
        an output layer tied to the embeddings isn't: it would go on with the old weights.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)

    def end_with(self, process: int) -> None:
        """End together with the process that started the engine, which vLLM survives where that is killed."""
        ended, parent = select.poll(), os.getppid()
        ended.register(os.pidfd_open(process), select.POLLIN)

        def wait() -> None:
            ended.poll()
            if parent not in (process, 1):  # the engine's own process, whose worker this is
                os.kill(parent, signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=wait, name="end with the client", daemon=True).start()
