"""Freezing parameters, for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Model) -> Model:
    """Stop training of all parameters of a model, which is returned."""
    return model.requires_grad_(False)


def freeze_matching(model: Model, pattern: str) -> Model:
    """Stop training of parameters whose name starts with a match of a regular expression.

    Raises
    ------
    ValueError
        If no name matches; the message lists the names.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> model = freeze_matching(PaiNN(), "interactions")
    >>> model.interactions[0].filters.weight.requires_grad
    False
    """
    return freeze_any_matching(model, [pattern])


def freeze_any_matching(model: Model, patterns: str | Sequence[str]) -> Model:
    """Stop training of parameters whose name starts with a match of any of the patterns.

    Raises
    ------
    ValueError
        If no name matches one of the patterns. Nothing is frozen then.
    """
    for name in _matching_any(model, patterns):
        model.get_parameter(name).requires_grad_(False)
    return model


def freeze_all_except(model: Model, pattern: str | Sequence[str]) -> Model:
    """Train the parameters whose name starts with a match, and no others.

    Matching ones that were frozen before, in an earlier stage say, are trained again.

    Raises
    ------
    ValueError
        If no name matches one of the patterns. Nothing is frozen then.
    """
    kept = _matching_any(model, pattern)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    return model


def names_matching(names: Iterable[str], patterns: str | Sequence[str], what: str) -> set[str]:
    """Those names that start with a match of any of the patterns, each of which has one.

    Raises
    ------
    ValueError
        If one of the patterns has none; the message says of ``what``.
    """
    names = list(names)
    matches: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        new = {name for name in names if re.match(pattern, name)}
        if not new:
            raise ValueError(f"no {what} matches {pattern!r}; the names are {names}")
        matches |= new
    return matches


def _matching_any(model: nn.Module, patterns: str | Sequence[str]) -> set[str]:
    return names_matching([name for name, _ in model.named_parameters()], patterns, "parameter")
