"""``graph-pes-id``: a random name for a run."""

from __future__ import annotations

import random
import string


def random_run_id() -> str:
    """Two groups of six lower-case letters, as in ``xkqpzw_aabcde``.

    Drawn from the operating system, so that seeded runs get different names.
    """
    rng = random.SystemRandom()
    return "_".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(2))


def main() -> None:
    """Print a random name."""
    print(random_run_id())


if __name__ == "__main__":
    main()
