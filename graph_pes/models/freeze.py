"""Freezing parameters, for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Model) -> Model:
    """Stop training of all parameters of a model, which is returned."""
    return freeze_matching(model, ".*")


def freeze_matching(model: Model, pattern: str) -> Model:
    """Stop training of parameters whose name starts with a match of a regular expression.

    Raises
    ------
    ValueError
        If no name matches; the message lists the names.

    Examples
    --------
    >>> from graph_pes.models import PaiNN
    >>> model = freeze_matching(PaiNN(), r"interactions\\.0")
    """
    return freeze_any_matching(model, [pattern])


def freeze_any_matching(model: Model, patterns: Sequence[str]) -> Model:
    """Stop training of parameters whose name starts with a match of any of the patterns."""
    for pattern in patterns:
        for name in _matching(model, pattern):
            model.get_parameter(name).requires_grad_(False)
    return model


def freeze_all_except(model: Model, pattern: str | Sequence[str]) -> Model:
    """Stop training of all parameters but those whose name starts with a match."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    kept = {name for p in patterns for name in _matching(model, p)}
    for name, parameter in model.named_parameters():
        if name not in kept:
            parameter.requires_grad_(False)
    return model


def _matching(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    matches = [name for name in names if re.match(pattern, name)]
    if not matches:
        raise ValueError(f"no parameter matches {pattern!r}; the parameters are {names}")
    return matches
