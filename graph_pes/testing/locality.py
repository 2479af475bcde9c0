"""What happens at the cutoff, and beyond it: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models.base import GraphPESModel, GraphPropertyModel, in_precision_of
from graph_pes.models.derivatives import energy_and_derivatives

from .subject import (
    PREDICTIONS,
    TOLERANCES,
    ModelUnderTest,
    assert_close,
    direct_properties,
    graph_for,
)

if TYPE_CHECKING:
    import ase

#: Distances from the cutoff, in Å, at which continuity is examined.
_STEP = 1e-4


def check_cutoff(subject: ModelUnderTest) -> None:
    """Energies and forces are continuous when a neighbour crosses the cutoff.

    Examined for all pairs of elements, alone and next to other atoms, at the cutoffs of the
    model, of its components and of its triplets. Skipped for models with ``smooth=False``.
    """
    if not subject.smooth:
        return
    model = subject.model()
    for cutoff in _cutoffs(model):
        for others in (0, 2):
            for center in subject.elements:
                for neighbour in subject.elements:
                    _check_crossing(model, (center, neighbour, *[center] * others), cutoff)


def check_beyond_cutoff(subject: ModelUnderTest) -> None:
    """Edges beyond the cutoff, which graphs may hold, contribute nothing.

    ``forward`` is called directly, without `trim_edges`. Neither energies nor their
    derivatives may change, and a pair at a distance is exactly two lone atoms.
    """
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        direct = direct_properties(model)
        for name, atoms in subject.named_structures():
            # A virial that follows from a stress is not among the predictions of `forward`.
            keys = [key for key in PREDICTIONS if key != "virial" or "virial" not in direct]
            expected = model.predict(graph_for(model, atoms, dtype), keys)
            longer = AtomicGraph.from_ase(atoms, model.cutoff_value + 1.5, {}, dtype=dtype)
            predicted = energy_and_derivatives(
                lambda g, model=model: model(in_precision_of(model, g)),  # type: ignore[misc]
                to_batch([longer]),
                forces="forces" not in direct,
                virial="virial" not in direct,
                keep_graph=False,
            )
            for key, value in expected.items():
                what = f"{key} of {name}, with edges beyond the cutoff, {dtype}"
                found = predicted[key] if key in ("forces", "local_energies") else predicted[key][0]
                assert_close(what, found, value, TOLERANCES[dtype])
        for element in subject.elements:
            _check_far_pair(model, (subject.elements[0], element), dtype, subject.smooth)


def _cutoffs(model: GraphPESModel) -> list[float]:
    cutoffs = {
        float(cutoff)
        for module in model.modules()
        if isinstance(module, GraphPropertyModel)
        for cutoff in (module.cutoff, module.three_body_cutoff)
    }
    return sorted(cutoff for cutoff in cutoffs if 2 * _STEP < cutoff <= model.cutoff_value)


def _cluster(symbols: Sequence[str], distance: float) -> ase.Atoms:
    """An atom with a neighbour at a distance along x; up to two more atoms on its other side."""
    import ase

    positions = [(0, 0, 0), (distance, 0, 0), (-0.5, 1.1, 0.2), (-0.6, -0.8, 0.9)]
    return ase.Atoms(list(symbols), positions=positions[: len(symbols)])


def _check_crossing(model: GraphPESModel, symbols: Sequence[str], cutoff: float) -> None:
    """Extrapolate to the cutoff from both sides; the two must meet.

    For a function that is smooth on either side, the gap between linear extrapolations falls
    to a quarter when the step is halved; a jump stays what it is.
    """
    steps = torch.tensor([1.0, 0.5]) * _STEP
    distances = [cutoff + side * k * float(h) for h in steps for side in (-1, 1) for k in (1, 2)]
    # The graph always has the edge: that it contributes nothing beyond is the model's doing.
    graphs = [
        AtomicGraph.from_ase(
            _cluster(symbols, r), model.cutoff_value + 0.1, {}, dtype=torch.float64
        )
        for r in distances
    ]
    predicted = model.predict(to_batch(graphs), ["local_energies", "forces"])
    for key, values in predicted.items():
        per_graph = values.double().view(2, 2, 2, -1)  # (step, side, multiple, component)
        at_cutoff = 2 * per_graph[:, :, 0] - per_graph[:, :, 1]
        gaps = (at_cutoff[:, 0] - at_cutoff[:, 1]).abs()
        scale = values.abs().max()
        what = f"jump of {key} at the cutoff of {cutoff:g} Å in {'-'.join(symbols)}"
        allowed = scale + 0.5 * gaps[0] / 1e-8
        assert_close(what, gaps[1], torch.zeros_like(gaps[1]), 1e-8, scale=allowed)


def _check_far_pair(
    model: GraphPESModel, symbols: Sequence[str], dtype: torch.dtype, smooth: bool
) -> None:
    cutoff = model.cutoff_value
    if cutoff == 0:
        return
    rounding = 4 * torch.finfo(dtype).eps
    # A truncated potential may count its end point as inside or outside.
    at_cutoff = [cutoff] if smooth and dtype == torch.float64 else []
    for distance in [*at_cutoff, cutoff * (1 + rounding), cutoff + 0.5]:
        atoms = _cluster(symbols, distance)
        pair = to_batch([AtomicGraph.from_ase(atoms, cutoff + 1, {}, dtype=dtype)])
        alone = to_batch([AtomicGraph.from_ase(atoms, 0.0, {}, dtype=dtype)])
        found, expected = (_local_energies(model, graph) for graph in (pair, alone))
        if not torch.equal(found, expected):
            raise AssertionError(
                f"local energies of {'-'.join(symbols)}, {distance!r} Å apart with a cutoff of "
                f"{cutoff!r} Å, {dtype}: expected exactly those of two lone atoms, "
                f"{expected.tolist()}, got {found.tolist()}"
            )


def _local_energies(model: GraphPESModel, graph: AtomicGraph) -> Tensor:
    with torch.no_grad():
        return model(in_precision_of(model, graph))["local_energies"]
