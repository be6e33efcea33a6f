"""The fenced code blocks of a completion, as Markdown has them (CommonMark 0.31, section 4.5) and as models write them.

Beyond Markdown, a fence may begin after other words on its line, and end at the end of a line of code.
"""

import re

OPENING = re.compile(
    r"^(?P<before>(?:[^\n`]|(?P<ticks>`+)(?!`)[^\n`]+(?P=ticks)(?!`))*?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`~]*)\n",
    re.MULTILINE,
)  # what comes before may hold `words in backticks`
ITEM = re.compile(r"[ \t]*(?:[-*+>]|\d+[.)])?[ \t]*")
PYTHON = re.compile(r"[\s{.]*(?:(?:i?python|py)[\d.]*(?!\w)|[\s}]*$)", re.IGNORECASE)  # or no language at all
NEXT = re.compile(r"\s*(?:`{3,}|~{3,})[ \t]*[A-Za-z]\w*[ \t]*(?:\n|$)")


def python_blocks(text: str) -> list[str]:
    """The Python in each block that names that language or none; where there is no such block, all of them.

    The last block may lack its end. A block within a list item loses the indentation of its fence.
    """
    text = text.replace("\r\n", "\n")
    blocks: list[tuple[bool, str]] = []
    opening = OPENING.search(text)
    while opening is not None:
        indent = len(opening["before"]) if ITEM.fullmatch(opening["before"]) else 0
        fence = rf"{re.escape(opening['fence'][0])}{{{len(opening['fence'])},}}"
        closing = re.compile(rf"^[ \t]{{0,{max(3, indent)}}}{fence}|(?<=[^\s`~]){fence}[ \t]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        start, stop = opening.end(), len(text) if end is None else end.start()
        lines = (
            re.sub(rf"^[ \t]{{1,{indent}}}", "", text[start:stop], flags=re.MULTILINE) if indent else text[start:stop]
        )
        blocks.append((PYTHON.match(opening["info"]) is not None, lines))
        if end is None:
            break
        # a fence that names a language ends a block and begins the next one
        opening = OPENING.search(text, end.start() if NEXT.match(text, end.start()) else end.end())
    return [block for is_python, block in blocks if is_python] or [block for _, block in blocks]
