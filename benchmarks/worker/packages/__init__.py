"""How each package makes a model, and takes structures. One module each, all in the same form."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ase
import torch
from ase.calculators.calculator import Calculator

#: Gives energy, forces and what else the package always computes.
Predict = Callable[[], dict[str, torch.Tensor]]


class Package(Protocol):
    """What each module of this folder defines.

    Attributes
    ----------
    module
        The model, in single precision on the device.
    device
        ``"cpu"`` or ``"cuda"``.
    """

    module: torch.nn.Module
    device: str

    def __init__(self, entry: dict[str, Any], elements: list[str], device: str, stress: bool): ...

    def predictor(self, structures: Sequence[ase.Atoms]) -> Predict:
        """Predicts a batch of structures that is made here, once; stress too where it can."""

    def calculator(self) -> Calculator:
        """The calculator of the package itself."""

    def compile(self, task: str, is_batch: bool, cache: str) -> None:
        """Let what follows be compiled; only where ``models.yaml`` says that this is possible."""


def package_class(name: str) -> type[Package]:
    """The class of a package, by its name in ``models.yaml``."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__).Package


def made_from(entry: Any, **names: Any) -> Any:
    """The object that an entry of ``models.yaml`` describes.

    ``{class: a.B, x: 1}`` is ``a.B(x=1)``, ``{name: a.B}`` is ``a.B`` itself, and ``$elements``
    the value of that name.
    """
    if isinstance(entry, str) and entry.startswith("$"):
        return names[entry[1:]]
    if not isinstance(entry, dict):
        return entry
    if set(entry) == {"name"}:
        return _imported(entry["name"])
    values = {key: made_from(value, **names) for key, value in entry.items() if key != "class"}
    return _imported(entry["class"])(**values) if "class" in entry else values


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
