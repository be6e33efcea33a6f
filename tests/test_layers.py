"""The structure of bench/: layers of imports without rings, short functions, few and small files, one class per name.

Computed from the sources. Imports inside functions and under TYPE_CHECKING count like all others.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [  # low to high: a module imports from its own layer and from lower ones
    "errors seeds progress devices",
    "artifacts",
    "store",
    "config",
    "blocks",
    "estimators",
    "sandbox",
    "models",
    "tasks",
    "generation",
    "selection training",
    "policies",
    "scoring",
    "evaluation",
    "procedures",
    "experiment",
    "rounds hybrid generators adaptive balance",
    "records",
    "sweeps",
    "reporting",
    "tracking",
    "launching",
    "search",
    "sizing",
    "speed",
    "report status size pools __main__",
    "__init__",  # the public API
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
MOST_LINES, MOST_FILE_LINES, MOST_TOP_FILES = 45_950, 300, 18
MOST_FUNCTION_LINES, MOST_PARAMETERS = 80, 12


class Import(NamedTuple):
    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{place(self.importer, self.line)} imports {self.imported}"


@cache
def modules() -> dict[str, Path]:
    """Module name -> its file; a package is named by its folder."""
    files = sorted((ROOT / "bench").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def place(module: str, line: int) -> str:
    return f"{modules()[module].relative_to(ROOT)}:{line}"


@cache
def imports() -> list[Import]:
    """All imports of one module of bench/ by another."""
    return [
        Import(module, node.lineno, imported)
        for module in modules()
        for node in ast.walk(tree(module))
        for imported in sorted(set(imported_by(node, module)))
        if imported in modules() and imported != module
    ]


def imported_by(node: ast.AST, module: str) -> Iterator[str]:
    """The modules that an import statement names; `from package import name` means the module of that name, if any."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".") if modules()[module].name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *base.split(".")]).rstrip(".")
        for alias in node.names:
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base


def rings() -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    arrows = defaultdict(set)
    for one in imports():
        arrows[one.importer].add(one.imported)

    def reached(module: str) -> set[str]:
        seen, ahead = set(), [module]
        while ahead:
            new = arrows[ahead.pop()] - seen
            seen |= new
            ahead.extend(new)
        return seen

    reach = {module: reached(module) for module in modules()}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in modules()
        if module in reach[module]
    }
    return sorted(map(list, groups))


def part(module: str) -> str:
    """The package or top-level module of bench/ that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def configured() -> set[str]:
    """Dotted names that a _target_ under conf/ or sweeps/ gives: their parameters are settings of the user."""
    files = [file for folder in ("conf", "sweeps") for file in (ROOT / folder).rglob("*.yaml")]
    found = {name for file in files for name in re.findall(r"_target_:\s*([\w.]+)", file.read_text())}
    return found | {"bench.pools.importing.import_pool"}  # the _target_ in the config.yaml of every import


def functions() -> Iterator[tuple[str, str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(module, qualified name, definition) of every function and method, nested ones included."""

    def inside(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            here = (*names, child.name) if named else names
            if named and not isinstance(child, ast.ClassDef):
                yield ".".join(here), child
            yield from inside(child, here)

    for module in modules():
        for name, function in inside(tree(module), ()):
            yield module, name, function


def takes_settings(module: str, name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the function's parameters are settings: it is configured, or a stage of the store."""
    stages = [d.func for d in function.decorator_list if isinstance(d, ast.Call)]
    is_stage = any(getattr(stage, "id", getattr(stage, "attr", "")) == "stage" for stage in stages)
    dotted = f"{module}.{name.removesuffix('.__init__')}"
    return is_stage or any(f".{dotted}".endswith(f".{target}") for target in configured())  # a plugin's has no bench


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def none(offenders: list[str], rule: str) -> None:
    """Fail with every offender, one per line."""
    if offenders:
        pytest.fail(f"{rule}: {len(offenders)} offenders\n" + "\n".join(offenders), pytrace=False)


def test_no_ring_of_imports():
    offenders = []
    for ring in rings():
        inside = [str(one) for one in imports() if one.importer in ring and one.imported in ring]
        offenders.append(f"ring of {len(ring)}: {' '.join(ring)}\n    " + "\n    ".join(inside))
    none(offenders, "modules that import each other")


def test_every_part_of_bench_has_a_layer():
    none(sorted({part(module) for module in modules()} - LAYER.keys()), "not in LAYERS")


def test_no_import_from_a_higher_layer():
    known = [one for one in imports() if {part(one.importer), part(one.imported)} <= LAYER.keys()]
    none(
        [str(one) for one in known if LAYER[part(one.imported)] > LAYER[part(one.importer)]],
        "imports from a higher layer",
    )


def test_functions_are_short():
    lengths = [(f"{place(m, f.lineno)} {name}", f.end_lineno - f.lineno + 1) for m, name, f in functions()]
    none([f"{at}: {n} lines" for at, n in lengths if n > MOST_FUNCTION_LINES], f"above {MOST_FUNCTION_LINES} lines")


def test_functions_have_few_parameters():
    counts = [
        (f"{place(module, function.lineno)} {name}", parameters(function))
        for module, name, function in functions()
        if not takes_settings(module, name, function)
    ]
    none([f"{at}: {n} parameters" for at, n in counts if n > MOST_PARAMETERS], f"above {MOST_PARAMETERS} parameters")


def test_the_package_is_small():
    files = list(modules().values())
    total, top = sum(map(lines, files)), [file.name for file in files if file.parent == ROOT / "bench"]
    offenders = [f"{file.relative_to(ROOT)}: {lines(file)} lines" for file in files if lines(file) > MOST_FILE_LINES]
    if total > MOST_LINES:
        offenders.append(f"bench/: {total} lines, above {MOST_LINES}")
    if len(top) > MOST_TOP_FILES:
        offenders.append(f"bench/: {len(top)} files at its top, above {MOST_TOP_FILES}: {' '.join(top)}")
    none(offenders, "too large")


def test_every_class_has_a_name_of_its_own():
    places = defaultdict(list)
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(place(module, node.lineno))
    none([f"{name}: {' '.join(at)}" for name, at in sorted(places.items()) if len(at) > 1], "classes of one name")
