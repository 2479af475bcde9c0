"""What is checked, and how two predictions are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, get_cell_volume, to_batch
from graph_pes.models.base import GraphPESModel

from .structures import standard_structures

if TYPE_CHECKING:
    import ase

#: What a model predicts of any structure, also of one without a cell.
PREDICTIONS = ("energy", "local_energies", "forces", "virial")

#: Deviations allowed from what would be equal without rounding, relative to the largest value.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class ModelUnderTest:
    """A model and the structures it is checked on: the argument of every check.

    Attributes
    ----------
    factory
        Makes the model, without arguments. Random numbers are seeded before every call.
    structures
        What to predict; `standard_structures` of the ``elements`` by default.
    elements
        Chemical symbols that the model knows.
    dtypes
        Precisions that the model is used in. Physical laws are checked in double precision
        in any case.
    smooth
        Whether energy and forces are continuous at the cutoff.
    edge_route
        Whether the model sees positions through `neighbour_vectors` alone.
    invariant
        Whether energies are exactly invariant under rotation and reflection.
    unused_parameters
        Names of trainable parameters that have no effect on energy, forces or virial.
    """

    factory: Callable[[], GraphPESModel]
    structures: Sequence[ase.Atoms] = ()
    elements: Sequence[str] = ("H", "C", "O")
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64)
    smooth: bool = True
    edge_route: bool = True
    invariant: bool = True
    unused_parameters: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if not self.structures:
            object.__setattr__(self, "structures", standard_structures(self.elements))

    def model(self, dtype: torch.dtype = torch.float64) -> GraphPESModel:
        """The model, made in a precision, in evaluation mode: the same at every call."""
        with default_dtype(dtype), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.factory().to(dtype).eval()

    def named_structures(self) -> Iterator[tuple[str, ase.Atoms]]:
        """Each structure with a description for error messages."""
        for n, atoms in enumerate(self.structures):
            yield name_of(n, atoms), atoms

    def on(self, structures: Sequence[ase.Atoms]) -> ModelUnderTest:
        """The same model with other structures."""
        return replace(self, structures=structures)


def direct_properties(model: GraphPESModel) -> set[str]:
    """Which of forces, stress and virial a model does not derive from its energy."""
    direct = {"forces", "stress", "virial"} & set(model.implemented_properties)
    return direct | ({"stress", "virial"} if direct & {"stress", "virial"} else set())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default dtype, set for the length of a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def name_of(n: int, atoms: ase.Atoms) -> str:
    """A structure in a few words, for error messages."""
    pbc = "".join("FT"[int(periodic)] for periodic in atoms.pbc)
    return f"structure {n} ({atoms.symbols}, pbc={pbc})"


def graph_for(
    model: GraphPESModel, atoms: ase.Atoms, dtype: torch.dtype = torch.float64
) -> AtomicGraph:
    """The graph of a structure up to the cutoff of a model."""
    return AtomicGraph.from_ase(atoms, model.cutoff_value, {}, dtype=dtype)


def batch_for(
    model: GraphPESModel, structures: Sequence[ase.Atoms], dtype: torch.dtype = torch.float64
) -> AtomicGraph:
    """The batch of many structures up to the cutoff of a model."""
    return to_batch([graph_for(model, atoms, dtype) for atoms in structures])


def with_volume(structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """Those structures that have a stress."""
    return [atoms for atoms in structures if atoms.cell.rank == 3]


def all_predictions(model: GraphPESModel, graph: AtomicGraph) -> dict[str, Tensor]:
    """Energy, local energies, forces and virial, and the stress if every structure has one."""
    stress = ["stress"] if bool((get_cell_volume(graph) > 0).all()) else []
    return model.predict(graph, [*PREDICTIONS, *stress])


def assert_close(
    what: str,
    actual: Tensor,
    expected: Tensor,
    tolerance: float,
    scale: float | Tensor | None = None,
) -> None:
    """Compare two predictions.

    Parameters
    ----------
    what
        Names the quantity and the structure in the error.
    actual, expected
        Of the same shape.
    tolerance
        Allowed deviation, relative to 1 + scale.
    scale
        The largest absolute value of ``expected`` by default.

    Raises
    ------
    AssertionError
        If shapes differ, if a value is not finite, or if values differ by too much.
    """
    if actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
        )
    if not torch.isfinite(actual).all():
        raise AssertionError(f"{what}: not finite: {_short(actual)}")
    if actual.numel() == 0:
        return
    actual, expected = actual.detach().double(), expected.detach().double()
    if scale is None:
        scale = expected.abs().max()
    allowed = torch.as_tensor(tolerance * (1 + scale), dtype=torch.float64)
    difference = (actual - expected).abs()
    excess = difference - allowed
    if not (excess <= 0).all():
        worst = int(excess.argmax())
        raise AssertionError(
            f"{what}: got {actual.flatten()[worst]:.10g}, expected "
            f"{expected.flatten()[worst]:.10g} (component {worst} of {actual.numel()}; "
            f"difference {difference.flatten()[worst]:.3g}, allowed "
            f"{allowed.expand_as(difference).flatten()[worst]:.3g})"
        )


def assert_same_bits(what: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that two sets of predictions are equal to the last bit."""
    for key, value in expected.items():
        if not torch.equal(actual[key], value):
            raise AssertionError(
                f"{what}: {key} is {_short(actual[key])} rather than {_short(value)}"
            )


def _short(x: Tensor) -> str:
    values = x.detach().flatten().tolist()
    return f"{values[:6]}{'...' if len(values) > 6 else ''}"
