"""Laws that hold exactly: symmetries of space, identity of atoms, additivity of structures.

All are checked in double precision, where violations can't hide behind rounding.
"""

from __future__ import annotations

import numpy as np
import torch

from graph_pes.atomic_graph import to_batch

from .structures import StructureKind, random_orthogonal_matrix, random_structure
from .subject import (
    PREDICTIONS,
    TOLERANCES,
    ModelUnderTest,
    all_predictions,
    assert_close,
    graph_for,
    name_of,
    with_volume,
)

_TOLERANCE = TOLERANCES[torch.float64]


def check_rotation(subject: ModelUnderTest) -> None:
    """Energies are invariant, forces turn as vectors, stress and virial as tensors.

    Skipped for models with ``invariant=False``.
    """
    _check_orthogonal(subject, reflection=False)


def check_reflection(subject: ModelUnderTest) -> None:
    """As `check_rotation`, for a rotation followed by inversion: no model may be chiral."""
    _check_orthogonal(subject, reflection=True)


def _check_orthogonal(subject: ModelUnderTest, reflection: bool) -> None:
    if not subject.invariant:
        return
    model = subject.model()
    for n, (name, atoms) in enumerate(subject.named_structures()):
        matrix = random_orthogonal_matrix(n, reflection)
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ matrix.T)
        turned.set_positions(atoms.positions @ matrix.T)
        before = all_predictions(model, graph_for(model, atoms))
        after = all_predictions(model, graph_for(model, turned))
        Q = torch.from_numpy(matrix)
        before["forces"] = before["forces"].double() @ Q.T
        for key in {"virial", "stress"} & before.keys():
            before[key] = Q @ before[key].double() @ Q.T
        for key, value in before.items():
            verb = "reflected" if reflection else "rotated"
            assert_close(f"{key} of {name}, {verb}", after[key], value, _TOLERANCE)


def check_translation(subject: ModelUnderTest) -> None:
    """Nothing changes when all atoms move together, or single ones by lattice vectors."""
    model, rng = subject.model(), np.random.default_rng(0)
    for name, atoms in subject.named_structures():
        expected = all_predictions(model, graph_for(model, atoms))
        moved, images = atoms.copy(), atoms.copy()
        moved.translate(rng.uniform(-10, 10, 3))
        images.positions += (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
        for how, other in (("translated", moved), ("atoms moved to periodic images", images)):
            predicted = all_predictions(model, graph_for(model, other))
            for key, value in expected.items():
                assert_close(f"{key} of {name}, {how}", predicted[key], value, _TOLERANCE)


def check_permutation(subject: ModelUnderTest) -> None:
    """The order of atoms does not matter."""
    model = subject.model()
    for n, (name, atoms) in enumerate(subject.named_structures()):
        order = np.random.default_rng(n).permutation(len(atoms))
        expected = all_predictions(model, graph_for(model, atoms))
        predicted = all_predictions(model, graph_for(model, atoms[order]))
        for key in ("forces", "local_energies"):
            expected[key] = expected[key][torch.from_numpy(order)]
        for key, value in expected.items():
            assert_close(f"{key} of {name}, permuted", predicted[key], value, _TOLERANCE)


def check_supercell(subject: ModelUnderTest) -> None:
    """Energy and virial of n cells are n times those of one; forces and stress are the same.

    The smaller the cell, the more edges join an atom to images of one and the same atom.
    """
    model = subject.model()
    for name, atoms in subject.named_structures():
        if not atoms.pbc.any():
            continue
        repeats = np.where(atoms.pbc, 2, 1)
        n = int(repeats.prod())
        cell = all_predictions(model, graph_for(model, atoms))
        expected = {
            "energy": n * cell["energy"],
            "local_energies": cell["local_energies"].repeat(n),
            "forces": cell["forces"].repeat(n, 1),
            "virial": n * cell["virial"],
        }
        if "stress" in cell:
            expected["stress"] = cell["stress"]
        supercell = all_predictions(model, graph_for(model, atoms.repeat(repeats)))
        for key, value in expected.items():
            what = f"{key} of {name}, repeated {'×'.join(map(str, repeats))}"
            assert_close(what, supercell[key], value, _TOLERANCE)


def check_batch(subject: ModelUnderTest) -> None:
    """Structures have the same predictions in a batch as alone.

    The batch holds molecules, periodic structures, a single atom and atoms without edges.
    """
    kinds = (
        StructureKind(n_atoms=1, elements=subject.elements),
        StructureKind(n_atoms=3, elements=subject.elements, isolated_atoms=3),
    )
    extra = [random_structure(kind, seed=n) for n, kind in enumerate(kinds)]
    everything = [*extra, *subject.structures, extra[0]]
    for dtype in subject.dtypes:
        _check_batch_of(subject.on(everything), PREDICTIONS, dtype)
        if periodic := with_volume(everything):
            _check_batch_of(subject.on(periodic), ("stress", *PREDICTIONS), dtype)


def _check_batch_of(subject: ModelUnderTest, keys: tuple[str, ...], dtype: torch.dtype) -> None:
    model = subject.model(dtype)
    graphs = [graph_for(model, atoms, dtype) for atoms in subject.structures]
    batch = to_batch(graphs)
    predicted = model.predict(batch, keys)
    assert batch.ptr is not None
    for n, (atoms, graph) in enumerate(zip(subject.structures, graphs, strict=True)):
        for key, value in model.predict(graph, keys).items():
            per_atom = key in ("forces", "local_energies")
            own = slice(batch.ptr[n], batch.ptr[n + 1]) if per_atom else n
            what = f"{key} of {name_of(n, atoms)}, in a batch, {dtype}"
            assert_close(what, predicted[key][own], value, TOLERANCES[dtype])
