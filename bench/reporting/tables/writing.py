"""Tables as Markdown and as LaTeX (booktabs)."""

import re
from collections.abc import Sequence

from bench.reporting.exhibit import Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \\textquotedbl is not in every font
}
NARROW = 50  # characters: up to these a table fits one of two columns
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # to the line where it is wider


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned; the first row is the header."""
    rows = [tuple(" ".join(cell.replace("|", "\\|").split()) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def latex(table: Table) -> str:
    r"""A table environment for \input, with \usepackage{booktabs,graphicx}; its first line says its stamp."""
    header, *body = table.texts
    kinds = "".join("r" if _is_numeric([row[i] for row in body]) else "l" for i in range(len(header)))
    characters = sum(2 + max(len(row[i]) for row in (header, *body)) for i in range(len(header)))
    environment = "table" if characters <= NARROW else "table*"
    return "\n".join(
        [
            f"% {table.stamp}",
            "% \\usepackage{booktabs,graphicx}",
            f"\\begin{{{environment}}}[t]",
            "\\centering\\footnotesize",
            f"\\caption{{{escaped(table.caption)}}}",
            f"\\label{{tab:{table.name}}}",
            "\\smallskip",
            SHRUNK,
            f"\\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
            "\\toprule",
            _line(header),
            "\\midrule",
            *(_line(row) for row in body),
            "\\bottomrule",
            "\\end{tabular}}",
            f"\\end{{{environment}}}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text as LaTeX sets it: special characters as themselves, whatever a setting or a model is called."""
    plain = "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"(?<![\w.])-(?=[.\d]| )", "$-$", plain)  # minus signs; a hyphen stays one


def _line(cells: Sequence[str]) -> str:
    line = " & ".join(escaped(cell) for cell in cells) + r" \\"
    return "{}" + line if line.startswith("[") else line  # after \\ a bracket would be read as a length


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(not cell or cell.lstrip("-<")[:1] in tuple(".0123456789") for cell in cells)
