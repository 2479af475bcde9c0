"""Networks of the distance alone, replaced by tables."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graph_pes.models.base import GraphPESModel
from graph_pes.nn.envelopes import Envelope
from graph_pes.nn.radial import DistanceExpansion
from graph_pes.nn.radial_network import DampedRadialNetwork, RadialNetwork
from graph_pes.nn.radial_table import (
    Distance,
    One,
    RadialLinear,
    RadialMLP,
    RadialTable,
    TabulatedNetwork,
    values_and_slopes,
)

from .engine import MIN_COLUMNS, EngineInputs, EngineModel
from .trace import example_inputs, example_structure

logger = logging.getLogger("graph_pes")

#: Numbers of intervals that are tried.
INTERVALS = (512, 1024, 2048, 4096, 8192)

#: At how many distances functions are compared with each other, and pairs of atoms.
SAMPLES = 512

#: The shortest distance between atoms, in Å, at which tables are checked: shorter than any bond.
CLOSEST = 0.5

#: Networks share functions, unless having their own takes at most this many times as many.
WORTH_SHARING = 1.5

Network = DampedRadialNetwork | RadialNetwork | RadialLinear | RadialMLP


@dataclass(frozen=True)
class TableReport:
    """How well tables stand for networks.

    Attributes
    ----------
    intervals, functions
        Size of the largest table.
    energy_error, force_error
        Largest errors of energies of interaction and of derivatives, over the largest of them
        (for a close pair, over what is largest there, if that is more).
    """

    intervals: int
    functions: int
    energy_error: float
    force_error: float

    @property
    def error(self) -> float:
        """The larger error."""
        return max(self.energy_error, self.force_error)

    def __str__(self) -> str:
        return (
            f"{self.functions} functions, {self.intervals} intervals, relative "
            f"errors {self.energy_error:.0e} (energy), {self.force_error:.0e} (forces)"
        )


def with_radial_tables(
    model: GraphPESModel, tolerance: float
) -> tuple[GraphPESModel, TableReport | None]:
    """A copy of a model that takes functions of the distance from tables.

    Tables are made in double precision, and refined until errors of energies and derivatives, for
    atoms at random places and for pairs at any distance from 0.5 Å on, are below the tolerance.
    Forces remain exact derivatives of the energy.

    Parameters
    ----------
    model
        The model; what is tabulated are its `RadialNetwork`, `DampedRadialNetwork`,
        `RadialLinear` and `RadialMLP`, where a module has the basis they are functions of
        as ``radial`` and its envelope as ``envelope``.
    tolerance
        Largest error, relative to the largest value; 0 for no tables.

    Returns
    -------
    GraphPESModel, TableReport | None
        The report is None, and there are no tables, if the model has no such networks, or (with
        a warning) if tables are not exact enough.
    """
    if tolerance <= 0 or not any(_tabulable(module) for module in model.modules()):
        return model, None
    exact = copy.deepcopy(model).to(device="cpu", dtype=torch.float64)
    for intervals in INTERVALS:
        tabulated = copy.deepcopy(exact)
        functions = [
            tabulate(module, intervals, 0.1 * tolerance)
            for module in tabulated.modules()
            if _tabulable(module)
        ]
        report = TableReport(intervals, max(functions), *_errors(tabulated, exact))
        if report.error <= tolerance:
            return tabulated.to(device=model.device, dtype=model.dtype), report
    logger.warning(
        "%s runs without radial tables: with %s, more than %.0e",
        type(model).__name__,
        report,
        tolerance,
    )
    return model, None


def looks_filters_up(model: nn.Module) -> bool:
    """Whether filters of a model have tables of their own, and are stored for no edge."""
    return any(isinstance(module, Distance) for module in model.modules())


def _tabulable(module: nn.Module) -> bool:
    """Whether a module has a basis and an envelope, and networks that are functions of them."""
    return (
        isinstance(getattr(module, "radial", None), DistanceExpansion)
        and not isinstance(module.radial, RadialTable)
        and isinstance(getattr(module, "envelope", None), Envelope)
        and any(True for _ in _networks(module))
    )


def _networks(module: nn.Module) -> Iterator[tuple[nn.Module, str, Network]]:
    """The networks, each with the module that holds it and its name there."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Network):
                yield parent, name, child


def tabulate(module: nn.Module, intervals: int, tolerance: float) -> int:
    """Replace basis, envelope and networks of a module in double precision.

    Returns
    -------
    int
        The number of functions in the table.
    """
    radial, envelope, places = module.radial, module.envelope, list(_networks(module))
    assert isinstance(radial, DistanceExpansion)
    assert isinstance(envelope, Envelope)
    weights = [_Weights(network, radial, envelope) for _, _, network in places]
    module.envelope = One()
    if all(getattr(network, "own_table", False) for _, _, network in places):
        for (parent, name, _), w in zip(places, weights, strict=True):
            setattr(parent, name, RadialTable(w, intervals, radial.cutoff))
        module.radial = Distance(radial.cutoff)
        return max(table.n_features for table in module.modules() if isinstance(table, RadialTable))
    with torch.no_grad():
        compressions = _few_functions(weights, tolerance)
        table = RadialTable(
            lambda r: torch.cat([c.functions(r) for c in compressions], dim=1),
            intervals,
            radial.cutoff,
        )
    replaced = dict(zip(weights, places, strict=True))
    first = 0
    for compression in compressions:
        columns = slice(first, first + compression.n_functions)
        for w, V in compression.mixtures.items():
            parent, name, network = replaced[w]
            setattr(parent, name, _tabulated(network, columns, V, table.n_features))
        first = columns.stop
    module.radial = table
    return table.n_features


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights that a network gives, as functions of the distance."""

    network: Network
    radial: DistanceExpansion
    envelope: Envelope

    def __call__(self, r: Tensor) -> Tensor:
        """From distances (K,) to weights (K, n)."""
        r = r.unsqueeze(1)
        basis, envelope = self.radial(r), self.envelope(r)
        if isinstance(self.network, RadialLinear | RadialMLP):
            return self.network(basis) * envelope
        phi, V = self.network(basis, envelope)
        return phi @ V

    def samples(self) -> Tensor:
        """Values at distances up to the cutoff, then slopes: shape (2 SAMPLES, n)."""
        r = torch.linspace(0, self.radial.cutoff, SAMPLES, dtype=torch.float64)
        return torch.cat(values_and_slopes(self, r))


@dataclass(frozen=True)
class _Compressed:
    """Weights as mixtures of few functions, of order 1."""

    functions: Callable[[Tensor], Tensor]
    n_functions: int
    mixtures: dict[_Weights, Tensor]


def _compressed(weights: Sequence[_Weights], tolerance: float) -> _Compressed:
    """The fewest functions of which all weights are mixtures, up to an error."""
    samples = [w.samples() for w in weights]
    sizes = [F[:SAMPLES].abs().max().clamp(min=1e-300) for F in samples]
    scales = torch.cat([x.expand(F.shape[1]) for x, F in zip(sizes, samples, strict=True)])
    _, S, Vh = torch.linalg.svd(torch.cat(samples, dim=1) / scales, full_matrices=False)
    P = max(1, int((tolerance * S[0] < S).sum()))
    size = SAMPLES**0.5  # makes the functions of order 1
    from_weights = Vh[:P].T / S[:P] * size / scales.unsqueeze(1)
    V = Vh[:P] * S[:P].unsqueeze(1) / size * scales

    def functions(r: Tensor) -> Tensor:
        return torch.cat([w(r) for w in weights], dim=1) @ from_weights

    parts = V.split([F.shape[1] for F in samples], dim=1)
    return _Compressed(functions, P, dict(zip(weights, parts, strict=True)))


def _few_functions(weights: Sequence[_Weights], tolerance: float) -> list[_Compressed]:
    """All networks with the same functions, or each with its own, if these are hardly more."""
    own, shared = [_compressed([w], tolerance) for w in weights], _compressed(weights, tolerance)
    few = sum(c.n_functions for c in own) <= WORTH_SHARING * shared.n_functions
    return own if few else [shared]


def _tabulated(network: Network, columns: slice, V: Tensor, n_functions: int) -> nn.Module:
    """What takes the place of a network, with the same call."""
    if not isinstance(network, RadialLinear | RadialMLP):
        return TabulatedNetwork(columns, V.contiguous())  # so that it can be saved
    linear = nn.Linear(n_functions, V.shape[1], dtype=V.dtype)
    with torch.no_grad():
        linear.weight.zero_()[:, columns] = V.T
        linear.bias.zero_()
    return linear


def _errors(tabulated: GraphPESModel, exact: GraphPESModel) -> tuple[float, float]:
    """Of energies of interaction and of derivatives.

    For atoms at random places they are relative to the largest value there, for pairs of atoms,
    which may be far closer, to the same or to what they are for the pair, if that is larger.
    """
    crowd, pairs = example_inputs(exact, atoms=61, columns=23), _pairs(exact)
    found, value = _interaction(tabulated, crowd), _interaction(exact, crowd)
    of_pairs, expected = _interaction(tabulated, pairs), _interaction(exact, pairs)
    errors = []
    for n, values in enumerate(value):
        scale = values.abs().max().clamp(min=1e-300)
        error = (found[n] - values).abs().max() / scale
        scales = expected[n].abs().amax(dim=1).clamp(min=scale)
        close = ((of_pairs[n] - expected[n]).abs().amax(dim=1) / scales).max()
        errors.append(float(torch.maximum(error, close)))
    return errors[0], max(errors[1:])


def _interaction(model: GraphPESModel, inputs: EngineInputs) -> list[Tensor]:
    """Outputs of atoms and edges, shape (N, ...), of which energies are those of interaction.

    Those of free atoms would hide errors. Values of structures, made of these, are left out.
    """
    alone = inputs._replace(vectors=torch.full_like(inputs.vectors, 2 * model.cutoff_value))
    function, N = EngineModel(model), len(inputs.Z)
    structure = example_structure(function, N)
    values = dict(zip(function.outputs, function(*inputs, *structure), strict=True))
    values["local_energies"] = values["local_energies"] - function(*alone, *structure)[0]
    return [x.reshape(N, -1) for key, x in values.items() if key not in function.of_structures]


def _pairs(model: GraphPESModel) -> EngineInputs:
    """Separate pairs of atoms, from `CLOSEST` to the cutoff apart."""
    atoms = torch.arange(2 * SAMPLES)
    inputs = example_inputs(model, len(atoms), MIN_COLUMNS)
    closest = min(CLOSEST, 0.5 * model.cutoff_value)
    lengths = torch.linspace(closest, model.cutoff_value, SAMPLES, dtype=torch.float64)
    there = inputs.vectors[::2, 0]
    there = there / there.norm(dim=1, keepdim=True) * lengths.unsqueeze(1)
    vectors = torch.full_like(inputs.vectors, 2 * model.cutoff_value)
    vectors[:, 0] = torch.stack([there, -there], dim=1).flatten(0, 1)
    neighbours = atoms.unsqueeze(1).repeat(1, MIN_COLUMNS)
    neighbours[:, 0] = atoms ^ 1
    return inputs._replace(vectors=vectors, neighbours=neighbours)
