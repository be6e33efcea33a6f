"""Which code made a run."""

import functools
from pathlib import Path

from bench.artifacts import content_hash

READERS = (  # of configurations and finished records: what they do changes no number in them
    *("reporting", "sizing", "speed", "tracking", "report.py", "size.py", "status.py"),
    *("sweeps/workload.py", "sweeps/plan.py", "sweeps/sharing.py"),
)


@functools.cache
def code_fingerprint() -> str:
    """A hash of the source that measures: runs of different code are not taken for the same."""
    root = Path(__file__).parents[1]
    sources = {path.relative_to(root): path for path in sorted(root.rglob("*.py"))}
    return content_hash([(name.as_posix(), path.read_text()) for name, path in sources.items() if measures(name)])


def measures(name: Path) -> bool:
    """Whether a module, by its path in the package, can change what a run's metrics.json says."""
    return name.parts[0] not in READERS and name.as_posix() not in READERS
