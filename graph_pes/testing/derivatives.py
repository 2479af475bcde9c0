"""Forces, stress and virial are derivatives of the energy, and can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, get_cell_volume, to_batch
from graph_pes.models.base import GraphPESModel, in_precision_of
from graph_pes.models.derivatives import edge_derivatives

from .subject import (
    TOLERANCES,
    ModelUnderTest,
    assert_close,
    batch_for,
    direct_properties,
    graph_for,
    name_of,
    with_volume,
)

if TYPE_CHECKING:
    import ase

_STEP = 2e-4
_TOLERANCE = 1e-7


def check_forces(subject: ModelUnderTest) -> None:
    """Forces are minus the finite differences of the energy, along every coordinate.

    Skipped for models that predict forces directly.
    """
    model = subject.model()
    if "forces" in direct_properties(model):
        return
    for name, atoms in subject.named_structures():
        displaced = [
            _displaced(atoms, n, axis, step)
            for n in range(len(atoms))
            for axis in range(3)
            for step in _STEPS
        ]
        slopes, errors = _finite_differences(model, displaced)
        forces = model.predict_forces(graph_for(model, atoms))
        _compare(f"forces of {name}", forces.flatten(), -slopes, errors)


def check_stress(subject: ModelUnderTest) -> None:
    """Virial and stress are finite differences of the energy with respect to strain.

    The virial is checked for structures without a cell too. Skipped for models that predict
    stress or virial directly.
    """
    model = subject.model()
    if "stress" in direct_properties(model):
        return
    for name, atoms in subject.named_structures():
        strained = [
            _strained(atoms, row, column, step) for row, column in _STRAINS for step in _STEPS
        ]
        slopes, errors = _finite_differences(model, strained)
        rows, columns = torch.tensor(_STRAINS).unbind(1)
        graph = graph_for(model, atoms)
        virial = model.predict_virial(graph)
        assert_close(f"transposed virial of {name}", virial.T, virial, TOLERANCES[torch.float64])
        _compare(f"virial of {name}", virial[rows, columns], -slopes, errors)
        if atoms.cell.rank == 3:
            volume = get_cell_volume(graph)
            stress = model.predict_stress(graph)[rows, columns]
            _compare(f"stress of {name}", stress, slopes / volume, errors / volume)


def check_virial(subject: ModelUnderTest) -> None:
    """The virial is minus the stress times the volume."""
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        for n, atoms in enumerate(with_volume(subject.structures)):
            graph = graph_for(model, atoms, dtype)
            predicted = model.predict(graph, ["stress", "virial"])
            expected = -predicted["stress"] * get_cell_volume(graph)
            what = f"virial of periodic {name_of(n, atoms)}, {dtype}"
            assert_close(what, predicted["virial"], expected, TOLERANCES[dtype])


def check_edge_derivatives(subject: ModelUnderTest) -> None:
    """Derivatives with respect to edge vectors give the same forces and virial.

    This is what an engine with ghost atoms, and per-atom virials, need. Skipped for models
    with ``edge_route=False``, and for what a model predicts directly.
    """
    if not subject.edge_route:
        return
    model = subject.model()
    for name, atoms in subject.named_structures():
        graph = graph_for(model, atoms)
        batch = to_batch([graph])
        edges = edge_derivatives(lambda g: model(in_precision_of(model, g)), batch)
        keys = {"forces", "virial", "local_energies"} - direct_properties(model)
        expected = model.predict(graph, sorted(keys))
        found = {
            "forces": edges.forces(batch),
            "virial": edges.atomic_virials(batch).sum(0),
            "local_energies": edges.local_energies,
        }
        for key, value in expected.items():
            what = f"{key} of {name}, from derivatives with respect to edge vectors"
            assert_close(what, found[key], value, TOLERANCES[torch.float64])


def check_training(subject: ModelUnderTest) -> None:
    """A loss on energy, forces and virial has finite derivatives for every parameter.

    Each structure is checked alone: a single atom, or one without neighbours, must not spoil
    training. In all structures together, every trainable parameter must have a derivative,
    apart from those declared as ``unused_parameters``.
    """
    for dtype in subject.dtypes:
        model = subject.model(dtype).train()
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, atoms in subject.named_structures():
            gradients = _loss_gradients(model, graph_for(model, atoms, dtype), trainable)
            for parameter, gradient in gradients.items():
                if gradient is not None and not torch.isfinite(gradient).all():
                    raise AssertionError(
                        f"derivative of the loss with respect to {parameter} is not finite "
                        f"for {name}, {dtype}"
                    )
        batch = batch_for(model, subject.structures, dtype)
        gradients = _loss_gradients(model, batch, trainable)
        unused = {name for name, gradient in gradients.items() if gradient is None}
        if unexpected := unused - set(subject.unused_parameters):
            raise AssertionError(
                f"trainable parameters {sorted(unexpected)} have no effect on energy, forces or "
                "virial: remove them, freeze them, or declare them as unused_parameters"
            )


# --- finite differences ---

_STEPS = (-2 * _STEP, -_STEP, _STEP, 2 * _STEP)
_STRAINS = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


def _displaced(atoms: ase.Atoms, n: int, axis: int, step: float) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.positions[n, axis] += step
    return atoms


def _strained(atoms: ase.Atoms, row: int, column: int, step: float) -> ase.Atoms:
    atoms = atoms.copy()
    deformation = np.eye(3)
    deformation[row, column] += step / 2
    deformation[column, row] += step / 2
    atoms.set_cell(atoms.cell.array @ deformation)
    atoms.set_positions(atoms.positions @ deformation)
    return atoms


def _finite_differences(model: GraphPESModel, structures: list[ase.Atoms]) -> tuple[Tensor, Tensor]:
    """Slopes of the energy, and estimates of their errors, from quadruples of structures.

    The five-point rule is good to the fourth order of the step; its error is estimated by the
    difference between two three-point rules: much too large where the energy is smooth, and
    three times that is enough where it jumps (a neighbour passes the cutoff of a truncated
    potential within the step).
    """
    energies = model.predict_energy(batch_for(model, structures)).view(-1, 4)
    double = (energies[:, 3] - energies[:, 0]) / (4 * _STEP)
    single = (energies[:, 2] - energies[:, 1]) / (2 * _STEP)
    return (4 * single - double) / 3, 3 * (single - double).abs()


def _compare(what: str, actual: Tensor, slopes: Tensor, errors: Tensor) -> None:
    scale = slopes.abs().max()
    if errors.median() > 1e-4 * (1 + scale):
        raise AssertionError(
            f"{what}: the energy is too rough for finite differences, whose median error is "
            f"{errors.median():.3g}: is part of it computed in low precision?"
        )
    assert_close(what, actual, slopes, _TOLERANCE, scale=scale + errors / _TOLERANCE)


# --- training ---


def _loss_gradients(
    model: GraphPESModel, graph: AtomicGraph, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    predictions = model.predict(graph, ["energy", "forces", "virial"])
    # Targets of 1 rather than 0, at which a vanishing prediction has no gradient.
    loss = sum(((x - 1) ** 2).sum().double() for x in predictions.values())
    assert isinstance(loss, Tensor)
    if not parameters:
        return {}
    if not loss.requires_grad:
        return dict.fromkeys(parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))
