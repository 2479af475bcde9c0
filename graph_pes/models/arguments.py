"""Models remember what they were made with: it is their configuration in files."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from typing import Any


class RecordsArguments(ABCMeta):
    """Metaclass of classes whose instances have ``constructor_arguments``, with defaults filled in.

    Examples
    --------
    >>> class Spring(metaclass=RecordsArguments):
    ...     def __init__(self, k: float, length: float = 1.0): ...
    >>> Spring(2.0).constructor_arguments
    {'k': 2.0, 'length': 1.0}
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance and note, as they are now, the arguments."""
        as_given, as_given_by_name = _copied(args), _copied(kwargs)
        model = super().__call__(*args, **kwargs)
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        bound = signature.bind(model, *as_given, **as_given_by_name)
        bound.apply_defaults()
        first, *_ = bound.arguments  # self
        model.__dict__["constructor_arguments"] = {
            key: value for key, value in bound.arguments.items() if key != first
        }
        return model


def _copied(value: Any) -> Any:
    """Copies of containers, which might be changed later; what they hold is not copied."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value
