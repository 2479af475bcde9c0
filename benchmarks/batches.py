"""Many structures at once: in torch-sim by the size of the batch, and as beads in i-PI."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from ase.units import Bohr

from graph_pes.deploy import ExportedModel, compiled
from graph_pes.drivers.batches import batch_from
from graph_pes.drivers.ipi import IPIPotential
from graph_pes.drivers.torch_sim import TorchSimModel, torch_sim
from graph_pes.models import GraphPESModel, save_model

from .catalogue import OURS, Contender, request_of, title_of
from .roofline import times
from .tables import markdown
from .worker.packages import made_from
from .worker.structures import ELEMENTS, structures_of

#: Beads of a path integral of light nuclei at room temperature.
BEADS = 16


def batches(
    models: list[str],
    structures: list[str],
    sizes: list[int],
    device: str,
    repeats: int,
    *,
    eager: bool,
) -> str:
    """Tables of times per structure in batches of several sizes, and of beads."""
    header = ["model, structure", *(f"{n}" for n in sizes), "neighbours"]
    beads_header = ["model, structure", "one by one", "together", "ratio"]
    rows, bead_rows = [], []
    for name in models:
        for structure in structures:
            model = model_of(name, structure, device)
            forms = {"": model} if eager else {"": model, ", compiled": compiled(model)}
            for form, evaluated in forms.items():
                title = f"{title_of(name)}{form}, {structure.replace(':', ' ')}"
                found = times(torch_sim_runs(evaluated, structure, sizes), device, repeats)
                each = [found[str(n)] / n for n in sizes]
                share = found["neighbours"] / found[str(sizes[-1])]
                rows.append([title, *(f"{x:.2f}" for x in each), f"{share:.0%}"])
                found = times(bead_runs(evaluated, model, structure), device, repeats)
                alone, together = found["alone"], found["together"]
                bead_rows.append(
                    [title, f"{alone:.1f}", f"{together:.1f}", f"{alone / together:.2f}"]
                )
    return "\n\n".join(
        [
            "Milliseconds per structure in torch-sim, by structures in a batch, and the part that "
            "neighbours take of the largest:",
            markdown(header, rows),
            f"Milliseconds for {BEADS} beads in i-PI:",
            markdown(beads_header, bead_rows),
        ]
    )


def model_of(name: str, structure: str, device: str) -> GraphPESModel:
    """One of the catalogue, with random weights."""
    torch.manual_seed(0)
    elements = ELEMENTS[structure.partition(":")[0]]
    entry = request_of(name, Contender(OURS))["entry"]
    return made_from(entry, elements=elements).eval().to(device)


def torch_sim_runs(
    model: GraphPESModel | ExportedModel, structure: str, sizes: list[int]
) -> dict[str, Callable[[], object]]:
    """Evaluations of batches, and the search for neighbours in the largest."""
    wrapped = TorchSimModel(model)
    (atoms,) = structures_of(structure)
    states = {
        n: torch_sim.initialize_state([atoms] * n, wrapped.device, wrapped.dtype) for n in sizes
    }
    largest = states[sizes[-1]]
    cell = largest.row_vector_cell
    pbc = torch.as_tensor(largest.pbc, device=cell.device).expand(len(cell), 3)
    fields = (largest.atomic_numbers, largest.positions, cell, pbc, largest.system_idx)
    runs: dict[str, Callable[[], object]] = {
        str(n): (lambda state=state: wrapped(state)) for n, state in states.items()
    }
    runs["neighbours"] = lambda: batch_from(*fields, model.cutoff_value)
    return runs


def bead_runs(
    evaluated: GraphPESModel | ExportedModel, model: GraphPESModel, structure: str
) -> dict[str, Callable[[], object]]:
    """Beads, evaluated one after the other and at once."""
    (atoms,) = structures_of(structure)
    with tempfile.TemporaryDirectory() as folder:
        template, file = Path(folder) / "init.xyz", Path(folder) / "model.pt"
        atoms.write(template)
        save_model(model, file)
        potential = IPIPotential(str(template), str(file))
    potential.model = evaluated
    cells, positions = BEADS * [atoms.cell.array.T / Bohr], BEADS * [atoms.positions / Bohr]

    def alone() -> None:
        for cell, R in zip(cells, positions, strict=True):
            potential(cell, R)

    return {"alone": alone, "together": lambda: potential(cells, positions)}
