"""Comparison with the ASE calculators of other packages, where these are installed."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.deploy import ExportError, export_model
from graph_pes.models import GraphPESModel, load_model, save_model

DATA = Path(__file__).parents[3] / "shared" / "data"

#: Largest errors allowed, relative to the largest value of all structures.
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-5}


def data_file(name: str) -> Path:
    """A file of the third-party data, which are no part of the repository."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path


def structures(symbols: str = "CHO", seed: int = 0) -> dict[str, ase.Atoms]:
    """A molecule, a bulk, a slab, a wire, all with atoms that are displaced at random."""
    rng = np.random.default_rng(seed)
    a, b, c = symbols if len(symbols) == 3 else symbols.split()
    crystal = bulk(a, "fcc", a=3.6, cubic=True)
    crystal.symbols[1] = b
    crystal.set_cell(crystal.cell.array + rng.normal(scale=0.2, size=(3, 3)), scale_atoms=True)
    slab = fcc111(a, (2, 2, 2), a=3.7, vacuum=6.0, periodic=False)
    slab.symbols[::3] = c
    slab.set_cell(slab.cell.array + [[0, 0, 0], [0, 0, 0], [0.3, 0.2, 1]])
    wire = ase.Atoms([a, b, c], [[0, 0, 0], [1.3, 0.4, 0], [2.6, 0, 0.5]], cell=[4.0, 20, 20])
    wire.pbc = [True, False, False]
    trio = ase.Atoms([a, b, c, b], [[0, 0, 0], [1.1, 0, 0], [-0.4, 1.2, 0], [-0.5, 0.1, 1.1]])
    found = {"molecule": trio, "bulk": crystal, "slab": slab, "wire": wire}
    if symbols == "CHO":
        found["methanol"] = molecule("CH3OH")
    for atoms in found.values():
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    return found


def assert_equal_to_original(
    model: GraphPESModel,
    calculator: Calculator,
    everything: dict[str, ase.Atoms],
    stress: bool = True,
    tolerance: float | None = None,
    fully_periodic: bool = False,
) -> None:
    """Energies, forces, and stress of bulk, of each structure and of their batch.

    Where a structure is periodic in some directions only, packages disagree on what a volume is.
    With ``fully_periodic``, the original gets it with vacuum and images in the other directions.
    """
    assert model.dtype is not None
    graphs = [
        AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=model.dtype)
        for atoms in everything.values()
    ]
    batch = model.predict(to_batch(graphs), ["energy", "forces"])
    forces = batch["forces"].split([len(atoms) for atoms in everything.values()])
    errors: dict[str, list[float]] = {"energy": [], "forces": [], "stress": []}
    sizes = {key: [1e-6] for key in errors}
    for n, (atoms, graph) in enumerate(zip(everything.values(), graphs, strict=True)):
        properties = ["energy", "forces"]
        if stress and atoms.pbc.all():
            properties.append("stress")
        atoms = atoms.copy()
        atoms.pbc = atoms.pbc.any() if fully_periodic else atoms.pbc
        calculator.calculate(atoms, properties, ["positions", "numbers", "cell", "pbc"])
        found = model.predict(graph, properties)
        expected = {key: np.asarray(calculator.results[key]) for key in properties}
        if "stress" in properties and expected["stress"].shape == (6,):
            xx, yy, zz, yz, xz, xy = expected["stress"]
            expected["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        for key in properties:
            errors[key].append(np.abs(found[key].detach().numpy() - expected[key]).max())
            sizes[key].append(np.abs(expected[key]).max())
        errors["energy"].append(abs(batch["energy"][n].item() - expected["energy"]))
        errors["forces"].append(np.abs(forces[n].detach().numpy() - expected["forces"]).max())
    relative = {key: max(errors[key]) / max(sizes[key]) for key in errors if errors[key]}
    assert max(relative.values()) < (tolerance or TOLERANCES[model.dtype]), relative


def assert_usable(model: GraphPESModel, atoms: ase.Atoms, folder: Path) -> None:
    """A model can be trained, and saved; it can be differentiated with respect to edges.

    One that calls another package says so where it can't run.
    """
    graph = AtomicGraph.from_ase(atoms, model.cutoff_value, dtype=model.dtype)
    before = model.predict(graph, ["energy", "forces"])
    save_model(model, folder / "model.pt")
    again = load_model(folder / "model.pt").eval()
    assert again.dtype == model.dtype
    for key, value in model.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, again.state_dict()[key])
    # Rounding of matrix products depends on where in memory the matrices are.
    close = {"rtol": 0, "atol": 1e-6 * float(before["forces"].abs().max())}
    torch.testing.assert_close(
        again.predict(graph, ["forces"])["forces"], before["forces"], **close
    )
    again.pre_fit_all_components([graph._replace(properties={"energy": before["energy"] - 1})])
    # With forces again: some kernels of torch differ where there is nothing to differentiate.
    energy = again.predict(graph, ["energy", "forces"])["energy"]
    torch.testing.assert_close(energy, before["energy"], rtol=1e-7, atol=close["atol"])
    again.train()
    forces = again.predict_forces(graph)
    (forces**2).sum().backward()
    trained = [p for p in again.parameters() if p.grad is not None]
    size = torch.stack([p.grad.double().norm() for p in trained]).norm()
    assert 0 < size < torch.inf
    with torch.no_grad():
        for parameter in trained:
            parameter -= (1e-3 / size) * parameter.grad
    assert 0 < (again.predict_forces(graph) - forces).abs().max() < 0.5 * forces.abs().max()
    if any(getattr(module, "calls_package", None) for module in again.modules()):
        with pytest.raises(ExportError, match="calls the package|needs the whole structure"):
            export_model(again, folder / "model.pt2")
