"""Descriptions of models in plain values, from which they can be made again."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
from torch import Tensor, nn

from .addition import AdditionModel, TensorAdditionModel
from .base import GraphPropertyModel


class ModelFileError(ValueError):
    """A model can't be written to, or read from, a file."""


def plain(value: Any, where: str) -> Any:
    """The same value in types that a file without code can hold.

    Parameters
    ----------
    value
        None, a number, a string, a tensor, or lists, tuples and dictionaries of these.
    where
        Names the value in the error.

    Raises
    ------
    ModelFileError
        If it is, or holds, anything else.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple):
        items = [plain(item, f"{where}[{n}]") for n, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {plain_key(k, where): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if is_scalar(value):
        return scalar(value)
    raise ModelFileError(
        f"{where} is a {type(value).__name__}, which can't be stored in a model file: expected a "
        "number, a string, a tensor, or a list, tuple or dictionary of these"
    )


def plain_key(key: Any, where: str) -> str | int:
    """A key of a dictionary, which has to be a string or an integer."""
    if isinstance(key, str | int | np.integer):
        return scalar(key)
    raise ModelFileError(
        f"{where} has the key {key!r}, which can't be stored in a model file: expected strings or "
        "integers"
    )


def is_scalar(value: Any) -> bool:
    """Whether a value is None, a number (of NumPy, too) or a string."""
    kinds = bool | int | float | str | np.bool_ | np.integer | np.floating
    return value is None or isinstance(value, kinds)


def scalar(value: Any) -> Any:
    """A number or string in a type of Python itself: pickles of others need code to be read."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value)
    return value if value is None else str.__str__(value)


def describe(value: Any, where: str = "model") -> Any:
    """Plain description of a model or of an argument of one; see `build`.

    Raises
    ------
    ModelFileError
        If it can't be described; the message names the argument.

    Examples
    --------
    >>> from graph_pes.models import Morse
    >>> describe(Morse(D=0.2))["arguments"]
    {'cutoff': 5.0, 'D': 0.2, 'a': 5.0, 'r0': 1.5}
    """
    if isinstance(value, GraphPropertyModel):
        return {
            "kind": "model",
            "class": import_path(type(value), GraphPropertyModel, where),
            "arguments": {k: describe(v, f"{where}.{k}") for k, v in _arguments(value).items()},
        }
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"kind": "class", "class": import_path(value, nn.Module, where)}
    if isinstance(value, list):
        return [describe(v, f"{where}[{n}]") for n, v in enumerate(value)]
    if isinstance(value, tuple):
        return {"kind": "tuple", "items": [*describe(list(value), where)]}
    if isinstance(value, dict):
        items = {plain_key(k, where): describe(v, f"{where}.{k}") for k, v in value.items()}
        return {"kind": "dict", "items": items}
    if is_scalar(value):
        return scalar(value)
    raise ModelFileError(
        f"{where} is a {type(value).__name__}, which can't be stored in a model file: arguments "
        "of models should be numbers, strings, lists, tuples, dictionaries, classes of modules, "
        "or models"
    )


def _arguments(model: GraphPropertyModel) -> dict[str, Any]:
    """What a model is to be made of: sums of the components that they have by now."""
    if isinstance(model, AdditionModel | TensorAdditionModel):
        return {"models": dict(model.models.items())}
    return model.__dict__["constructor_arguments"]


def build(description: Any) -> Any:
    """The model, or argument, of a description made by `describe`.

    Raises
    ------
    ModelFileError
        If a class is missing, is neither a model nor a module, or does not take the arguments.
    """
    if isinstance(description, list):
        return [build(item) for item in description]
    if not isinstance(description, dict):
        return description
    kind = description.get("kind")
    if kind == "tuple":
        return tuple(build(item) for item in description["items"])
    if kind == "dict":
        return {key: build(item) for key, item in description["items"].items()}
    if kind == "class":
        return import_class(description["class"], nn.Module)
    if kind == "model":
        # Only models are called, so that a file can't make Python call anything else.
        cls = import_class(description["class"], GraphPropertyModel)
        return call_with(cls, {k: build(v) for k, v in description["arguments"].items()})
    raise ModelFileError(f"the description has an entry of the unknown kind {kind!r}")


def call_with(cls: type, arguments: dict[str, Any]) -> Any:
    """Make an instance from bound arguments, spreading ``*args`` and ``**kwargs``.

    Raises
    ------
    ModelFileError
        If the class takes other arguments by now, or fails.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if unknown := sorted(arguments.keys() - {p.name for p in parameters}):
        raise ModelFileError(
            f"{cls.__name__} does not take the arguments {unknown}, but "
            f"{[p.name for p in parameters]}: it may have changed since the file was written"
        )
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    by_position = any(p.kind is p.VAR_POSITIONAL and arguments.get(p.name) for p in parameters)
    for p in parameters:
        if p.name not in arguments:
            continue
        if p.kind is p.VAR_KEYWORD:
            keywords.update(arguments[p.name])
        elif p.kind is p.VAR_POSITIONAL:
            positional.extend(arguments[p.name])
        elif p.kind is p.POSITIONAL_ONLY or (by_position and p.kind is p.POSITIONAL_OR_KEYWORD):
            positional.append(arguments[p.name])
        else:
            keywords[p.name] = arguments[p.name]
    try:
        return cls(*positional, **keywords)
    except Exception as error:
        raise ModelFileError(
            f"{cls.__name__} can't be made again with {arguments}: {type(error).__name__}: {error}"
        ) from error


def import_path(cls: type, base: type, where: str) -> str:
    """``module:name`` of a class that can be imported.

    Raises
    ------
    ModelFileError
        If it can't be: it is defined in a script, a notebook or a function.
    """
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise ModelFileError(
            f"{where}: the class {cls.__qualname__} is defined in a script, notebook or function. "
            "Move it to a module that can be imported, so that the file can be loaded again."
        )
    path = f"{cls.__module__}:{cls.__qualname__}"
    try:
        import_class(path, base)
    except ModelFileError as error:
        raise ModelFileError(f"{where}: {error}") from error
    return path


def import_class(path: str, base: type) -> type:
    """The class of an import path.

    Raises
    ------
    ModelFileError
        If it can't be found, or is not a subclass of ``base``.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a module can raise anything
        raise ModelFileError(
            f"it needs the class {name} from the Python module {module}, which can't be imported "
            f"({type(error).__name__}: {error}): is the package that defines it installed?"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ModelFileError(f"{path} is not a {base.__name__}")
    return found
