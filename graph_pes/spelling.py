"""Hints on what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the known word that is most like a given one, whatever the case.

    Returns
    -------
    str
        What to put behind the word in a message: the hint, or a full stop.

    Examples
    --------
    >>> nearest("adamw", ["Adam", "AdamW"])
    ": did you mean 'AdamW'?"
    >>> nearest("SGD", ["Adam", "AdamW"])
    '.'
    """
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f": did you mean {by_lower[close[0]]!r}?" if close else "."
