"""Write constraints.txt from the packages installed in this environment.

Takes what ``graph-pes[dev]`` needs, with all that those packages need in turn:

    .venv/bin/python scripts/constraints.py > constraints.txt
"""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HEADER = """\
# The versions with which graph-pes is tested (Python 3.11, Linux, x86-64).
# Made by scripts/constraints.py."""


def closure(requirement: str) -> dict[str, str]:
    """Names and versions of all installed distributions that `requirement` needs."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(requirement)]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        distribution = metadata.distribution(name)
        versions[name] = Version(distribution.version).public
        for extra in {"", *wanted.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            for line in distribution.requires or []:
                needed = Requirement(line)
                marker = needed.marker
                if marker is None or marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return versions


def main() -> None:
    """Print the pins."""
    versions = closure("graph-pes[dev]")
    del versions["graph-pes"]
    print(HEADER)
    for name in sorted(versions):
        print(f"{name}=={versions[name]}")


if __name__ == "__main__":
    main()
