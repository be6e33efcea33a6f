"""Put a figure's SVG into an HTML page: nothing in it can run, load or restyle the page, and its ids are its own."""

import re
from pathlib import Path
from xml.etree import ElementTree

from bench.errors import BenchError

DRAWING = {"svg", "g", "defs", "symbol", "use", "clipPath", "mask", "pattern", "marker", "image", "text", "tspan"} | {
    *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "linearGradient", "radialGradient", "stop")
}
DESCRIBING = {"metadata", "style", "title", "desc"}  # the page has its own caption and style
MATPLOTLIB_STYLE = "stroke-linejoin:round;stroke-linecap:butt"  # its style sheet's one rule, which would reach the page
PIXELS_PER_POINT = 96 / 72
ENLARGED = 1.45  # figures have the size of a column on paper, and screens are read from a greater distance


def inline_svg(path: Path, *, name: str, described_by: str) -> tuple[str, float]:
    """The drawing as an `<svg role="img">` whose ids begin with `name`, and its width on paper in CSS pixels.

    described_by: the id of the element that describes it. BenchError where the file is not a plain drawing.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        _simplify(root, name)
        width, _ = (float(size) for size in root.get("viewBox", "").split()[2:])
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BenchError(f"{path} can't be put on a page ({error}); build the report again.") from error
    root.attrib.pop("height", None)
    root.set("width", f"{width * PIXELS_PER_POINT * ENLARGED:.0f}")
    root.set("style", f"{MATPLOTLIB_STYLE};min-width:{width * PIXELS_PER_POINT:.0f}px")  # readable
    root.set("role", "img")
    root.set("aria-labelledby", described_by)
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode"), width * PIXELS_PER_POINT


def _simplify(node: ElementTree.Element, name: str) -> None:
    """Drop namespaces, descriptions and handlers; prefix ids. ValueError where an element is no part of a drawing."""
    node.tag = _local(node.tag)
    if node.tag not in DRAWING:
        raise ValueError(f"<{node.tag}> is no part of a drawing")
    attributes = {_local(key): value for key, value in node.attrib.items()}
    node.attrib.clear()
    for key, value in attributes.items():
        if key.startswith("on") or key in ("space", "version"):
            continue
        if key == "href":
            if not value.startswith(("#", "data:image/png;base64,")):
                raise ValueError(f"it refers to {value}")
            value = f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif key == "id":
            value = f"{name}-{value}"
        node.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for child in list(node):
        if _local(child.tag) in DESCRIBING:
            node.remove(child)
        else:
            _simplify(child, name)


def _local(tag: str) -> str:
    return tag.rsplit("}", 1)[-1]
