"""Times one task again and again on request; runs with either version of graph-pes.

Reads a task as a line of JSON, prepares it and answers ``ready``; then answers every line with
the seconds of CPU time that one repeat took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import ase
import torch
from structures import CUTOFF, benzene_dimers, silicon

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import MACE, NequIP, Orb, PaiNN, SchNet, TensorNet


def nequip(cutoff: float, l_max: int) -> NequIP:
    """64 channels of natural parity."""
    irreps = ("64x0e", "64x1o", "64x2e")[: l_max + 1]
    features = {
        "node_irreps": " + ".join(irreps),
        "edge_irreps": " + ".join(ir.removeprefix("64x") for ir in irreps),
    }
    return NequIP(["H", "C", "Si"], cutoff=cutoff, layers=3, features=features)


def mace(cutoff: float, hidden_irreps: str) -> MACE:
    """Two layers of correlation 3."""
    return MACE(["H", "C", "Si"], cutoff=cutoff, channels=128, hidden_irreps=hidden_irreps)


def orb(cutoff: float, conservative: bool) -> Orb:
    """Half as wide as the published ones."""
    return Orb(cutoff, conservative, channels=128, layers=3, mlp_hidden_dim=512)


MODELS = {
    "PaiNN 128x3": lambda cutoff: PaiNN(channels=128, radial_features=20, layers=3, cutoff=cutoff),
    "SchNet 128x3": lambda cutoff: SchNet(channels=128, layers=3, cutoff=cutoff),
    "TensorNet 128x2": lambda cutoff: TensorNet(channels=128, layers=2, cutoff=cutoff),
    "NequIP 64 l=1 x3": lambda cutoff: nequip(cutoff, l_max=1),
    "NequIP 64 l=2 x3": lambda cutoff: nequip(cutoff, l_max=2),
    "MACE 128 L=0": lambda cutoff: mace(cutoff, hidden_irreps="0e"),
    "MACE 128 L=1": lambda cutoff: mace(cutoff, hidden_irreps="0e + 1o"),
    "Orb 128x3": lambda cutoff: orb(cutoff, conservative=True),
    "Orb direct 128x3": lambda cutoff: orb(cutoff, conservative=False),
}


def evaluation(model: torch.nn.Module, n_atoms: int) -> Callable[[], object]:
    """Energy and forces, and unless these are direct ones stress, of a crystal."""
    graph = AtomicGraph.from_ase(silicon(n_atoms), CUTOFF)
    model.eval()
    stress = [] if "forces" in model.implemented_properties else ["stress"]
    return lambda: model.predict(graph, ["energy", "forces", *stress])


def training_step(model: torch.nn.Module, structures: list[ase.Atoms]) -> Callable[[], object]:
    """A step of Adam on energies and forces of a batch."""
    for atoms in structures:
        atoms.info["energy"] = -1.0
        atoms.arrays["forces"] = atoms.positions * 0.01
    batch = to_batch([AtomicGraph.from_ase(atoms, CUTOFF) for atoms in structures])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        predictions = model.predict(batch, ["energy", "forces"])
        loss = sum(
            ((predictions[k] - batch.properties[k]) ** 2).mean() for k in ("energy", "forces")
        )
        loss.backward()
        optimizer.step()

    return step


TASKS = {
    "evaluation, Si": evaluation,
    "training, Si": lambda model, n_atoms: training_step(model, [silicon(n_atoms)]),
    "training, dimers": lambda model, n: training_step(model, benzene_dimers(n)),
}


def main() -> None:
    """Serve one task."""
    request = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = TASKS[request["task"]](MODELS[request["model"]](CUTOFF), request["size"])
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
