"""What all models of other packages have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, neighbour_vectors
from graph_pes.models import AdditionModel, FixedOffset
from graph_pes.models.base import GraphPESModel
from graph_pes.models.trainable import Trainable

Precision: TypeAlias = Literal["float32", "float64"]

AnyModel = TypeVar("AnyModel", bound=GraphPESModel)


@dataclass(frozen=True)
class Package:
    """A package that models come from.

    Attributes
    ----------
    module
        What is imported.
    extra
        Of graph-pes, that installs it.
    conflict
        What is known not to get on with it.
    no_deps
        What is to be installed after the extra, without what it asks for.
    """

    module: str
    extra: str
    conflict: str
    no_deps: str = ""

    def load(self, submodule: str = "") -> ModuleType:
        """Import it, or a module of it.

        Raises
        ------
        ImportError
            That says what to install, and what conflicts with it.
        """
        then = f" and pip install --no-deps {self.no_deps}" if self.no_deps else ""
        try:
            package = importlib.import_module(self.module)
            if not submodule:
                return package
            return importlib.import_module(f"{self.module}.{submodule}")
        except (ImportError, RuntimeError) as error:  # the latter of libraries that do not match
            raise ImportError(
                f"this model needs the package {self.module}, which can't be imported ({error}): "
                f"pip install 'graph-pes[{self.extra}]'{then}, best in an environment of its "
                f"own, since {self.conflict}"
            ) from error


class UnsupportedModelError(ValueError):
    """A model of another package has parts that our implementation does not have."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another default precision for the time of a block, in which a module is made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], package: str) -> None:
    """Fill a module that was made again with the weights of the original.

    Constants that the version of the package that is installed does not know, or has in
    addition, do not matter.

    Raises
    ------
    UnsupportedModelError
        If parameters are missing or left over.
    """
    parameters = {name for name, p in module.named_parameters() if p.numel() > 0}
    buffers = dict(module.named_buffers())
    known = {name: tensor for name, tensor in state.items() if name in parameters | buffers.keys()}
    for name in list(known):
        if name in buffers and buffers[name].shape != known[name].shape:
            del known[name]
    missing = sorted(parameters - known.keys())
    left = sorted(k for k in state.keys() - known.keys() if k not in buffers and state[k].numel())
    left = [name for name in left if not name.endswith("output_mask")]
    if missing or left:
        raise UnsupportedModelError(
            f"this version of {package} makes another model of the settings of the file: it lacks "
            f"{missing[:5]}, and does not know {left[:5]}"
        )
    module.load_state_dict(known, strict=False)


def edges_of(graph: AtomicGraph) -> tuple[Tensor, Tensor, Tensor]:
    """Central atoms, neighbours, and the vectors from the former to the latter.

    Models are given vectors, never positions, so that they can be differentiated in both ways of
    `graph_pes.models.derivatives`.
    """
    i, j = graph.neighbour_list
    return i, j, neighbour_vectors(graph)


def structures_of(graph: AtomicGraph) -> tuple[Tensor, int]:
    """The structure of each atom, and how many there are."""
    assert graph.batch is not None
    return graph.batch, graph.cell.shape[0]


def finished(
    model: AnyModel, precision: Precision | None = None, dtype: torch.dtype | None = None
) -> AnyModel:
    """A trained model: it is in evaluation mode, and not to be pre-fitted to other data.

    Parameters
    ----------
    model
        In double precision, if its weights were converted: they are rounded once.
    precision, dtype
        What it should have: ``precision`` if that is given, or else ``dtype``, that of the file.
    """
    for module in model.modules():
        if isinstance(module, Trainable):
            module._has_been_pre_fit.fill_(True)
    if precision is not None:
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision: expected 'float32' or 'float64', got {precision!r}")
        dtype = getattr(torch, precision)
    return (model if dtype is None else model.to(dtype)).eval()


def with_energies_of_atoms(
    network: GraphPESModel,
    energies: Mapping[str, float],
    precision: Precision | None = None,
    dtype: torch.dtype | None = None,
) -> AdditionModel:
    """The sum of a network and the energies of atoms, in eV by chemical symbol; see `finished`."""
    model = AdditionModel(network=network, offset=FixedOffset(**energies))
    return finished(model, precision, dtype)


def one_of(name: str, known: Sequence[str] | Mapping[str, object], argument: str = "model") -> str:
    """The name, if it is known.

    Raises
    ------
    ValueError
        If not.
    """
    if name not in known:
        raise ValueError(f"{argument}: expected one of {sorted(known)}, got {name!r}")
    return name


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose constants are in double precision, and that draws no random numbers."""
    with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        return make()
