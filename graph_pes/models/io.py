"""Model files: a configuration and tensors, but no code.

A file is what ``torch.save`` makes of ``{"graph_pes_model": FORMAT, "model": description,
"state": state dict, "frozen": names of untrained parameters, "metadata": ...}`` and is read
with ``weights_only=True``. The description is the class of the model with the arguments it
was made with, classes being given by their import path.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.files import atomic_write

from .addition import AdditionModel, TensorAdditionModel
from .base import GraphPropertyModel

#: Number of the present file format.
FORMAT = 1

#: For each past format, the function that turns its contents into those of the next one.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class ModelFileError(ValueError):
    """A model can't be written to, or read from, a file."""


def save_model(
    model: GraphPropertyModel,
    path: str | os.PathLike[str],
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model to a file, completely or not at all.

    Parameters
    ----------
    model
        The model; its class must be importable.
    path
        Usually ``model.pt``.
    metadata
        Plain values to keep with the model; see `load_metadata`.

    Raises
    ------
    ModelFileError
        If the class can't be imported by name, or an argument of the model is of a kind that
        can't be stored.

    Examples
    --------
    >>> import tempfile
    >>> from graph_pes.models import LennardJones
    >>> path = tempfile.mkdtemp() + "/model.pt"
    >>> save_model(LennardJones(epsilon=0.5), path)
    >>> round(load_model(path).epsilon.item(), 3)
    0.5
    """
    contents = {
        "graph_pes_model": FORMAT,
        "model": describe(model),
        "state": {key: _detached(value) for key, value in model.state_dict().items()},
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "metadata": metadata or {},
    }
    with atomic_write(path) as temporary:
        torch.save(contents, temporary)


def load_model(path: str | os.PathLike[str]) -> GraphPropertyModel:
    """Read a model from a file, on the CPU and in the precision it was saved in.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is damaged, not a model file, from a newer format, or needs a class that
        is not there.
    """
    contents = _read(path)
    try:
        model = build(contents["model"])
        _load_state(model, contents["state"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in contents["frozen"])
    except (ModelFileError, RuntimeError, KeyError, TypeError) as error:
        raise ModelFileError(f"can't load the model in {os.fspath(path)}: {error}") from error
    return model


def load_model_component(path: str | os.PathLike[str], key: str) -> GraphPropertyModel:
    """Read one component of an `AdditionModel` from a file.

    Raises
    ------
    ModelFileError
        If the file does not hold a sum of models, or none of that name.
    """
    model = load_model(path)
    if not isinstance(model, AdditionModel | TensorAdditionModel):
        raise ModelFileError(
            f"{os.fspath(path)} holds a {type(model).__name__}, not a sum of models: use load_model"
        )
    if key not in model.models:
        raise ModelFileError(
            f"{os.fspath(path)} has no component {key!r}: expected one of {list(model.models)}"
        )
    return model[key]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that were saved with a model."""
    return _read(path)["metadata"]


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    name = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no model file {name}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ModelFileError(
            f"{name} is not a model file of graph-pes 2, or is damaged ({error}). Models of "
            "graph-pes 1 are pickles, which are not loaded: train again from their YAML file."
        ) from error
    if not isinstance(contents, dict) or "graph_pes_model" not in contents:
        raise ModelFileError(f"{name} is not a model file of graph-pes")
    if contents["graph_pes_model"] > FORMAT:
        raise ModelFileError(
            f"{name} has format {contents['graph_pes_model']}, but this version of graph-pes "
            f"reads formats up to {FORMAT}: upgrade graph-pes"
        )
    while contents["graph_pes_model"] < FORMAT:
        contents = UPGRADES[contents["graph_pes_model"]](contents)
    return contents


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _load_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Load tensors in the precision of the file, which may differ from tensor to tensor."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state:
            tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state)


# --- descriptions of models ---------------------------------------------------------------


def describe(value: Any, where: str = "model") -> Any:
    """Plain description of a model or of an argument of one; see `build`.

    Raises
    ------
    ModelFileError
        If it can't be described.
    """
    if isinstance(value, GraphPropertyModel):
        arguments = value.__dict__["constructor_arguments"]
        return {
            "kind": "model",
            "class": import_path(type(value), where),
            "arguments": {k: describe(v, f"{where}.{k}") for k, v in arguments.items()},
        }
    if isinstance(value, type):
        return {"kind": "class", "class": import_path(value, where)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [describe(v, f"{where}[{n}]") for n, v in enumerate(value)]
        return items if isinstance(value, list) else {"kind": "tuple", "items": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {key: describe(v, f"{where}.{key}") for key, v in value.items()}
        return {"kind": "dict", "items": items}
    raise ModelFileError(
        f"{where} is a {type(value).__name__}, which can't be stored in a model file: arguments "
        "of models should be numbers, strings, lists, tuples, dictionaries, classes or models"
    )


def build(description: Any) -> Any:
    """The model, or argument, of a description made by `describe`.

    Raises
    ------
    ModelFileError
        If a class is missing, or is neither a model nor a module.
    """
    if isinstance(description, list):
        return [build(item) for item in description]
    if not isinstance(description, dict):
        return description
    kind = description["kind"]
    if kind == "tuple":
        return tuple(build(item) for item in description["items"])
    if kind == "dict":
        return {key: build(item) for key, item in description["items"].items()}
    # Only models are called, so that a file can't make Python call anything else.
    cls = import_class(description["class"], GraphPropertyModel if kind == "model" else nn.Module)
    if kind == "class":
        return cls
    arguments = {key: build(value) for key, value in description["arguments"].items()}
    return call_with(cls, arguments)


def call_with(cls: type, arguments: dict[str, Any]) -> Any:
    """Make an instance from bound arguments, spreading ``*args`` and ``**kwargs``."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if name not in arguments:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            keywords.update(arguments[name])
        elif parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(arguments[name])
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = arguments[name]
        else:
            positional.append(arguments[name])
    return cls(*positional, **keywords)


def import_path(cls: type, where: str = "model") -> str:
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
    return f"{cls.__module__}:{cls.__qualname__}"


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
    except (ImportError, AttributeError) as error:
        raise ModelFileError(
            f"it needs the class {name} from the Python module {module}, which can't be imported "
            f"({error}): is the package that defines it installed?"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ModelFileError(f"{path} is not a {base.__name__}")
    return found
