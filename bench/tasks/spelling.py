"""Write answers in mathematics that mean the same in one spelling: signs, units, bases, unions of intervals."""

import re

from bench.tasks.extraction import HYPHENS

WRAPPER = r"\\(?:text|textbf|textit|textrm|textsuperscript|mathrm|mathbf|mbox|rm|operatorname)\s*"
NAMES = (
    *("∞ infty", "≤ le", "≥ ge", "≠ ne", "× times", "· cdot", "÷ div", "± pm", "∪ cup", "∩ cap", "∈ in", "∅ emptyset"),
    *("∨ lor", "∧ land", "π pi", "θ theta", "α alpha", "β beta", "γ gamma", "λ lambda", "μ mu", "φ phi", "ω omega"),
)
SIGNS = str.maketrans(
    {name[0]: f"\\{name[2:]} " for name in NAMES}
    | dict.fromkeys(HYPHENS, "-")
    | {"°": r"^\circ ", "ℝ": r"\mathbb{R}", "\xa0": " ", "\u2009": " "}
)
POWERS = re.compile("[⁻⁰¹²³⁴-⁹]+")
FROM_POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BASE_OF = {word: str(base) for base, word in enumerate(BASES, 2)} | {"sixteen": "16"}
IN_BASE = re.compile(  # 204_\text{five}, (204)_5, 204 \text{ base } 5
    rf"\(?(?:{WRAPPER}\{{)?(?P<digits>-?[0-9A-Z.]+)[)}}]?\s*"
    rf"(?:_\s*\{{?\s*(?:{WRAPPER})?\{{?\s*\(?\s*(?:base[\s}}]*)?|(?:{WRAPPER}\{{)?\s*\(?(?:in\s+)?base[\s}}-]*)"
    rf"(?P<base>\d+|(?i:{'|'.join(BASE_OF)}))[\s)}}]*"
)
ORDINAL = re.compile(rf"(-?\d+)\s*\^?\s*\{{?\s*(?:{WRAPPER})?\{{?\s*(?:st|nd|rd|th)\s*\}}*")
WORDED = re.compile(  # \text{15 cm}, \text{15 cm}^2, \textbf{(073)}
    rf"{WRAPPER}\{{\s*\(?\s*(-?[\d.,/]*\d)\s*(?:\)|(?<=\d)((?:\s|(?=(?:st|nd|rd|th)\b))[A-Za-z][^\d{{}}^]*))?\s*"
    r"(?:\^\s*\{?\d\}?)?\}(?:\^\s*\{?\d\}?)?"
)
SPELLINGS = (
    (re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])"), ""),
    (re.compile(r"(?<=\d)(?:\s*,\s*\\!\s*|\{,\}\s*)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<!\d),\s*|,\s*(?!\d)"), ", "),
    (re.compile(r"(?<!\\)\\[ ,;:!]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[a-zA-Z]))"), r"\\sqrt{\1\2}"),
    (re.compile(rf"{WRAPPER}\{{\s*(\d+)\s*\}}"), r"\1"),
    (re.compile(rf"(?<=[a-zA-Z])(?={WRAPPER}[{{ei])"), " "),
    (re.compile(rf"{WRAPPER}(?:\{{\s*([ei]|\\pi)\s*\}}|([ei])(?![a-zA-Z]))"), r"\1\2"),
    (re.compile(r"(?<![\\a-zA-Z])inf(?:ty|inity)?(?![a-zA-Z])"), r"\\infty "),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\lbrace\s*\\rbrace|\\\{\s*\\\}"), r"\\emptyset"),
    (
        re.compile(r"(\d{0,99})\.(\d{0,99})\\(?:overline|bar)\s*\{?(\d{1,99})\}?"),
        lambda found: _repeating(*found.groups()),
    ),
    (re.compile(rf"{WRAPPER}\{{\s*(or|and)\s*\}}|\\(lor|land|vee|wedge)(?![a-zA-Z])"), lambda found: _joint(found)),
)
LESS = r"(?:<|\\leq?(?![a-z])|\\leqslant(?![a-z])|\\lt(?![a-z]))"
MORE = r"(?:>|\\geq?(?![a-z])|\\geqslant(?![a-z])|\\gt(?![a-z]))"
BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:|\\colon)\s*(.*?)\s*\\\}"
)
INSIDE = re.compile(r"([a-zA-Z])\s*\\in(?![a-z])\s*([(\[][^,]+),\s*([^,]+[)\]])")
UNKNOWN = re.compile(r"(?<![\\a-zA-Z])[a-df-zA-Z]")
ALIKE = (  # where texts are compared as texts
    (re.compile(rf"{WRAPPER}(?=\{{)"), r"\\text"),
    (re.compile(r"([_^])\s*(\\text\{[^{}]*\}|\w)"), r"\1{\2}"),
    (re.compile(r"\\text\{([^{}]*)\}"), r"\1"),
    (re.compile(r"(\\[bp]mod)\s*(\w+)"), r"\1{\2}"),
    (re.compile(r"\\(ge|le|ne)q?(?:slant)?(?![a-z])"), r"\\\1"),
    (re.compile(r"(?<=\\\{)([^{}|:]*?)(?:\\mid(?![a-z])|\\vert(?![a-z])|\\colon(?![a-z])|[|:])"), r"\1|"),
    (re.compile(r"(?<!\d)\s+|\s+(?!\d)"), ""),
)


def spelled(answer: str) -> str:
    """Return an answer in LaTeX with its signs, roots, letters, units, base and inequalities written in one way."""
    text = POWERS.sub(lambda found: f"^{{{found[0].translate(FROM_POWERS)}}}", answer)
    text = text.translate(SIGNS)
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split()).rstrip(".").strip()
    in_base, worded, ordinal = (pattern.fullmatch(text) for pattern in (IN_BASE, WORDED, ORDINAL))
    if in_base:
        return f"{in_base['digits']}_{{{BASE_OF.get(in_base['base'].lower(), in_base['base'])}}}"
    if worded:
        number, unit = worded[1], worded[2] or ""
        ordinal, text = ORDINAL.fullmatch(f"{number}{unit}"), rf"{number}\text{{{unit}}}" if unit else number
    return ordinal[1] if ordinal else _union(text)


def alike(one: str, other: str) -> bool:
    """Return whether two texts differ in spaces and in the names of signs at most."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    for pattern, replacement in ALIKE:
        text = pattern.sub(replacement, text)
    return text


def _joint(found: re.Match) -> str:
    return " or " if found[1] == "or" or found[2] in ("lor", "vee") else " and "


def _repeating(whole: str, digits: str, period: str) -> str:
    """0.1\\overline{6} as a fraction."""
    nines = 10 ** len(period) - 1
    top = int(f"{whole}{digits}" or 0) * nines + int(period)
    return rf"\frac{{{top}}}{{{nines * 10 ** len(digits)}}}"


def _union(text: str) -> str:
    """Inequalities in one unknown that are joined by "or" or "and" as intervals; another text as it is."""
    built = BUILDER.fullmatch(text)
    parts = re.split(r"\s*(?<![a-zA-Z])(or|and)(?![a-zA-Z])\s*", built[2] if built else text)
    words, found = set(parts[1::2]), [_interval(part) for part in parts[::2]]
    unknowns = {interval[0] for interval in found if interval} | ({built[1]} if built else set())
    if None in found or len(unknowns) != 1 or len(words) > 1 or not (words or built):
        return text
    ends = [interval[1:] for interval in found if interval]
    if words == {"and"}:
        lows, highs = ([end for end in side if r"\infty" not in end] for side in zip(*ends, strict=True))
        return f"{lows[0]},{highs[0]}" if len(lows) == len(highs) == 1 else text
    return r" \cup ".join(f"{low},{high}" for low, high in ends)


def _interval(text: str) -> tuple[str, str, str] | None:
    """The unknown and the two ends of 2 < x or x \\in (2, 5); None where the text is anything else."""
    inside = INSIDE.fullmatch(text.strip())
    if inside:
        return inside[1], inside[2], inside[3]
    sides = re.split(rf"\s*({LESS}|{MORE})\s*", text.strip())
    if all(re.fullmatch(MORE, sign) for sign in sides[1::2]):
        sides.reverse()
    elif not all(re.fullmatch(LESS, sign) for sign in sides[1::2]):
        return None
    values, opens = sides[::2], [re.fullmatch(r"[<>]|\\[lg]t", sign) is not None for sign in sides[1::2]]
    place = next((place for place, value in enumerate(values) if re.fullmatch("[a-zA-Z]", value)), None)
    others = " ".join(values[:place] + values[place + 1 :]) if place is not None else ""
    if place is None or (len(values), place) not in ((2, 0), (2, 1), (3, 1)) or UNKNOWN.search(others):
        return None
    low = ("(" if opens[place - 1] else "[") + values[place - 1] if place else r"(-\infty"
    high = values[place + 1] + (")" if opens[place] else "]") if place + 1 < len(values) else r"\infty)"
    return values[place], low, high
