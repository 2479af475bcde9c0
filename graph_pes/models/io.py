"""Model files: a configuration and tensors, but no code.

A file is what ``torch.save`` makes of ``{"graph_pes_model": FORMAT, "model": description,
"state": state dict, "buffers": those that are not in the state dict, "frozen": names of
untrained parameters, "metadata": ...}`` and is read with ``weights_only=True``. The description
is the class of the model with the arguments it was made with, classes being given by their
import path.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO
from weakref import WeakSet

import torch
from torch import Tensor, nn

from graph_pes.files import atomic_write

from .addition import AdditionModel, TensorAdditionModel
from .base import GraphPropertyModel
from .description import ModelFileError, build, describe, plain
from .lora import merged

#: Number of the present file format.
FORMAT = 1

#: For each past format, the function that turns its contents into those of the next one.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_REQUIRED = {"graph_pes_model", "model", "state", "frozen", "metadata"}

#: Models that were loaded from their contents, as a test, when they were saved first.
_known_to_load: WeakSet[nn.Module] = WeakSet()


def save_model(
    model: GraphPropertyModel,
    path: str | os.PathLike[str],
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model to a file, completely or not at all.

    Parameters
    ----------
    model
        The model; its class must be importable. Corrections of `lora` are merged into it.
    path
        Usually ``model.pt``.
    metadata
        Plain values to keep with the model; see `load_metadata`.

    Raises
    ------
    ModelFileError
        If the file could not be loaded again: the class can't be imported by name, an argument
        of the model or a value of the metadata is of a kind that can't be stored, or the model
        is no longer what its class makes of the arguments. Nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> from graph_pes.models import LennardJones
    >>> path = tempfile.mkdtemp() + "/model.pt"
    >>> save_model(LennardJones(epsilon=0.5), path)
    >>> round(load_model(path).epsilon.item(), 3)
    0.5
    """
    whole = merged(model)
    state = whole.state_dict()
    contents = {
        "graph_pes_model": FORMAT,
        "model": describe(whole),
        "state": plain(dict(state), "state"),
        "buffers": plain({k: b for k, b in whole.named_buffers() if k not in state}, "buffers"),
        "frozen": [name for name, p in whole.named_parameters() if not p.requires_grad],
        "metadata": plain(metadata or {}, "metadata"),
    }
    if model not in _known_to_load:
        try:
            _rebuilt(contents)
        except ModelFileError as error:
            raise ModelFileError(
                f"the model could not be loaded from a file again: {error}. If it was changed "
                "after it was made, make the change in a class of your own."
            ) from error
        _known_to_load.add(model)
    with atomic_write(path) as temporary:
        torch.save(contents, temporary)


def load_model(path: str | os.PathLike[str]) -> GraphPropertyModel:
    """Read a model from a file, on the CPU and in the precision it was saved in.

    Like any new module, it is in training mode: call ``.eval()`` for detached predictions.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is damaged, not a model file, from a newer format, or needs a class that
        is not there or has changed.
    """
    contents = _read(path)
    try:
        return _rebuilt(contents)
    except ModelFileError as error:
        raise ModelFileError(f"can't load the model in {os.fspath(path)}: {error}") from error


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
    """The contents of a file, in the present format."""
    name = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no model file {name}")
    with open(path, "rb") as file:
        contents = _unpacked(file, name)
    number = contents.get("graph_pes_model") if isinstance(contents, dict) else None
    if type(number) is not int or number < 1:
        raise ModelFileError(f"{name} is not a model file of graph-pes")
    if number > FORMAT:
        raise ModelFileError(
            f"{name} has format {number}, but this version of graph-pes reads formats up to "
            f"{FORMAT}: upgrade graph-pes"
        )
    for past in range(number, FORMAT):
        contents = UPGRADES[past](contents)
    if missing := _REQUIRED - contents.keys():
        raise ModelFileError(f"{name} is damaged: it lacks {sorted(missing)}")
    return contents


def _unpacked(file: BinaryIO, name: str) -> Any:
    """What ``torch.save`` wrote to a file, if it is whole and holds no code."""
    damaged = f"{name} is not a model file of graph-pes 2, or is damaged"
    if not zipfile.is_zipfile(file):
        raise ModelFileError(f"{damaged}: expected a complete zip archive")
    try:
        # torch does not compare checksums when it reads.
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ModelFileError(f"{damaged}: the checksum of {bad} in it is wrong")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{name} holds Python objects, as the models of graph-pes 1 do, rather than tensors. "
            "To read them can run any code, so they are not loaded: train the model again from "
            "its YAML file."
        ) from error
    except ModelFileError:
        raise
    except Exception as error:  # anything can happen with the bytes of another program
        raise ModelFileError(f"{damaged} ({error})") from error


def _rebuilt(contents: dict[str, Any]) -> GraphPropertyModel:
    """The model in a file; random numbers go on as if it had not been made."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = build(contents["model"])
        _load_state(model, contents["state"], contents.get("buffers", {}))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in contents["frozen"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelFileError(f"its description is damaged ({error!r})") from error
    return model


def _load_state(model: nn.Module, state: dict[str, Any], buffers: dict[str, Tensor]) -> None:
    """Load tensors in the precision of the file, which may differ from tensor to tensor."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in buffers:
            tensor.data = buffers[name]
        elif name in state:
            tensor.data = tensor.data.to(state[name].dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelFileError(
            f"its tensors do not fit the class {type(model).__name__}, which may have changed "
            f"since: {error}"
        ) from error
