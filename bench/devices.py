"""Where a model computes when nothing else is asked for."""


def device() -> str:
    """A torch device: "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
