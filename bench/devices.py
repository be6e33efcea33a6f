"""The default device and number format of a model's computations."""


def device() -> str:
    """A torch device: "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str = "auto") -> str:
    """A torch name: "auto" is bfloat16 on a GPU and float32 on a CPU."""
    return dtype if dtype != "auto" else "bfloat16" if device() == "cuda" else "float32"
