"""Entries of ``graph.other`` that training knows of: what a structure weighs, and its head."""

from __future__ import annotations

import hashlib
from typing import Final

#: What the errors of a structure are multiplied by in the loss.
LOSS_WEIGHT: Final = "loss_weight"

#: Which head of a model with several a structure belongs to: the `head_number` of its name.
HEAD: Final = "head"

#: Values of structures that lack an entry which others of a batch have.
DEFAULT_OTHERS: Final[dict[str, float]] = {LOSS_WEIGHT: 1.0}


def head_number(name: str) -> int:
    """The number that stands for the name of a head in a graph, whatever the model.

    Examples
    --------
    >>> head_number("PBE") == head_number("PBE") != head_number("r2SCAN")
    True
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
