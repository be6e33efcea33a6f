"""The stamp that a file of a figure or table carries: the ids of its runs and the hash of its numbers."""

import re
from html import unescape
from pathlib import Path

from bench.errors import BenchError


def stamp_of(path: Path) -> str:
    """The stamp that an exhibit's file carries; BenchError where it has none or can't be read."""
    readers = {".pdf": _pdf, ".svg": _svg, ".png": _png, ".csv": _text, ".md": _text, ".tex": _text}
    try:
        stamp = readers[path.suffix](path)
    except (KeyError, OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise BenchError(f"{path} can't be read as an exhibit's {', '.join(readers)}: {error}") from error
    if not stamp:
        raise BenchError(f"{path} carries no stamp: no report wrote it, or it was saved again since.")
    return stamp


def _pdf(path: Path) -> str:
    match = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", path.read_bytes())
    return re.sub(rb"\\(.)", rb"\1", match[1]).decode("latin-1") if match else ""


def _svg(path: Path) -> str:
    match = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), re.DOTALL)
    return unescape(match[1]) if match else ""


def _png(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return str(image.info.get("Description", ""))


def _text(path: Path) -> str:
    """In the first line, which is a comment."""
    with path.open() as file:
        match = re.fullmatch(r"(?:# |% |<!-- )(.*?)(?: -->)?\n?", file.readline())
    return match[1] if match else ""
