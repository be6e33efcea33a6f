"""The code that made a run: a hash of the source of every module that its parts use, also of the user's modules.

code.json has the modules that can change the run's numbers. So earlier runs stay current after a new selection method
or figure is added, and become outdated after an edit of a scorer that they use.
"""

import functools
import importlib.util
import json
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from bench.artifacts import content_hash
from bench.config.keys import configured
from bench.store.reading import sha256
from bench.tasks.files import kind

DATA_KEY = "task/prompts_key"  # the metric that has `data_key`
FILE = "code.json"
PACKAGE = "bench"
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package
WRITER = "bench.records.write"  # computes every run's numbers from the results of its parts
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<package>\.*[\w.]*)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n#;]+)"
    r"|import[ \t]+(?P<modules>[\w., \t]+))",
    re.MULTILINE,
)
NO_NUMBERS = ("tracking",)  # parts that change no number
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
PACKAGES = {"site-packages", "dist-packages"}  # elsewhere too: of `pip install --user`, or those below an environment


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Module of the suite, or file of one outside site-packages -> its hash, for all that a configuration uses."""
    parts = {name: part for name, part in config.items() if name not in NO_NUMBERS}
    todo, used = [WRITER, *(get_object(part["_target_"]).__module__ for part in configured(parts))], set()
    while todo:
        name = todo.pop()
        if name not in used and (imported := _imports(name)) is not None:
            used.add(name)
            todo += imported
    files = {name: _file(name) for name in used}
    return {
        name if name.startswith(f"{PACKAGE}.") else str(file): _hash(file)
        for name, file in sorted(files.items())
        if file is not None
    }


def fingerprint(code: Mapping[str, str]) -> str:
    return content_hash(sorted(code.items()))


def is_current(folder: Path) -> bool:
    """Whether the present code made the run. ValueError or OSError where code.json can't be read."""
    code = json.loads((folder / FILE).read_text())
    if not isinstance(code, dict) or not code:
        raise ValueError("it should name modules and their hashes")
    files = {name: _path(name) if name.startswith(f"{PACKAGE}.") else Path(name) for name in code}
    return all(file is not None and file.is_file() and _hash(file) == code[name] for name, file in files.items())


def data_key(task: Mapping[str, Any]) -> str | None:
    """A hash of the local files that a task's `path` names; None where it names none, or they can't be read."""
    if not isinstance(path := task.get("path"), str):
        return None
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if kind(file))
    try:
        states = [(file, file.stat()) for file in files]
        hashes = [(str(file.relative_to(place)), _sha256(file, now.st_size, now.st_mtime_ns)) for file, now in states]
    except OSError:
        return None
    return content_hash(hashes) if hashes else None


@functools.lru_cache(maxsize=1024)
def _sha256(file: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, read again only where its size or time of change differ."""
    return sha256(file)


@functools.cache
def _imports(name: str) -> list[str] | None:
    """The modules that a module imports; None for installed and built-in modules."""
    file = _file(name)
    if file is None:
        return None
    is_package = file.name == "__init__.py"
    imported: list[str] = []
    for match in IMPORT.finditer(file.read_text()):
        if match["modules"]:
            imported += [part.split()[0] for part in match["modules"].split(",") if part.split()]
            continue
        package = match["package"]
        if package.startswith("."):
            package = importlib.util.resolve_name(package, name if is_package else name.rpartition(".")[0])
        names = [part.split()[0] for part in match["names"].strip("() \n\t").split(",") if part.split()]
        imported += [_where(package, part) for part in names]
    return imported


def _where(package: str, name: str) -> str:
    """The module that defines the name in `from package import name`: inside the package, or one that it re-exports."""
    if _file(f"{package}.{name}") is not None:
        return f"{package}.{name}"
    file = _file(package)
    if file is not None and file.name == "__init__.py":
        for match in IMPORT.finditer(file.read_text()):
            if match["names"] and re.search(rf"\b{re.escape(name)}\b", match["names"]):
                return match["package"]
    return package


@functools.cache
def _file(name: str) -> Path | None:
    """The source file of a module; None for an installed module or one without a source, such as a compiled one."""
    top, _, inside = name.partition(".")
    if top == PACKAGE:
        return _path(name)
    if top in sys.stdlib_module_names or (inside and _file(top) is None):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the name is an attribute of a module, or is not installed
        return None
    file = None if spec is None or not spec.has_location else Path(str(spec.origin)).resolve()
    if file is None or file.suffix != ".py" or PACKAGES & set(file.parts):
        return None
    return None if any(file.is_relative_to(place) for place in INSTALLED) else file


def _path(name: str) -> Path | None:
    module = ROOT.joinpath(*name.split("."))
    return next((file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()), None)


@functools.cache
def _hash(file: Path) -> str:
    return content_hash(file.read_text())
