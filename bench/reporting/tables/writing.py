"""Tables as Markdown and as LaTeX (booktabs)."""

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
    '"': r"\textquotedbl{}",
}
NARROW, WIDE = 5, 8  # columns: up to NARROW fit one of two columns, from WIDE on the type is smaller


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
    r"""A table environment for \input, which needs \usepackage{booktabs}; its stamp is a comment in the first line."""
    header, *body = table.texts
    kinds = "".join("r" if _is_numeric([row[i] for row in body]) else "l" for i in range(len(header)))
    environment = "table" if len(header) <= NARROW else "table*"
    return "\n".join(
        [
            f"% {table.stamp}",
            "% \\usepackage{booktabs}",
            f"\\begin{{{environment}}}[t]",
            "\\centering",
            *(["\\scriptsize", "\\setlength{\\tabcolsep}{3pt}"] if len(header) >= WIDE else ["\\small"]),
            f"\\caption{{{escaped(table.caption)}}}",
            f"\\label{{tab:{table.name}}}",
            f"\\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
            "\\toprule",
            _line(header),
            "\\midrule",
            *(_line(row) for row in body),
            "\\bottomrule",
            "\\end{tabular}",
            f"\\end{{{environment}}}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text as LaTeX sets it: special characters as themselves, whatever a setting or a model is called."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    line = " & ".join(escaped(cell) for cell in cells) + r" \\"
    return "{}" + line if line.startswith("[") else line  # after \\ a bracket would be read as a length


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(not cell or cell.lstrip("-<")[:1] in tuple(".0123456789") for cell in cells)
