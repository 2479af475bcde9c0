"""Active learning of copper by EMT: a committee chooses what is calculated.

Candidates are frames of dynamics, most of them of a crystal, few of anything else. A committee of
three networks is trained to four of them; then it chooses further ones, those it is least sure of,
which are labelled and added, and so on. For comparison, the same is done with random choices.

    python loop.py [--rounds 6] [--candidates 150] [--seeds 2]

It prints the errors, and draws them in ``errors.png``.
"""

from __future__ import annotations

import argparse

import ase
import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

from graph_pes.analysis import calibration, most_uncertain
from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import AdditionModel, Committee, GraphPESModel, LearnableOffset, PaiNN

CUTOFF = 4.0
PER_ROUND = 4
#: Temperature in K, lattice constant in Å, whether an atom is missing, and fraction of candidates.
CONDITIONS = [
    (300, 3.61, False, 0.85),
    (2500, 3.61, False, 0.05),
    (600, 3.35, False, 0.05),
    (900, 3.80, True, 0.05),
]


def frames(number: int, shares: list[float], seed: int) -> list[ase.Atoms]:
    """Frames of dynamics with EMT under all conditions."""
    rng = np.random.default_rng(seed)
    found = []
    for (T, a, vacancy, _), share in zip(CONDITIONS, shares, strict=True):
        atoms = bulk("Cu", a=a, cubic=True) * (2, 1, 1)
        if vacancy:
            del atoms[0]
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        speeds = np.sqrt(units.kB * T / atoms.get_masses())[:, None]
        atoms.set_velocities(speeds * rng.normal(size=(len(atoms), 3)))
        md = Langevin(
            atoms, 4 * units.fs, temperature_K=T, friction=0.1 / units.fs, fixcm=False, rng=rng
        )
        for _ in range(max(1, round(share * number))):
            md.run(8)
            found.append(atoms.copy())
    return found


def labelled(structures: list[ase.Atoms]) -> list[AtomicGraph]:
    """Graphs with the energies and forces of EMT: the expensive part, in earnest."""
    graphs = []
    for atoms in structures:
        atoms = atoms.copy()
        atoms.calc = EMT()
        atoms.get_forces()
        graphs.append(AtomicGraph.from_ase(atoms, CUTOFF))
    return graphs


def trained(graphs: list[AtomicGraph], seed: int, steps: int) -> GraphPESModel:
    """A network trained to all structures at once: short enough for an example."""
    torch.manual_seed(seed)
    network = PaiNN(channels=8, radial_features=8, layers=1, cutoff=CUTOFF)
    model = AdditionModel(offset=LearnableOffset(), network=network)
    model.pre_fit_all_components(graphs)
    batch = to_batch(graphs)
    sizes = batch.ptr.diff()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        found = model.predict(batch, ["energy", "forces"])
        loss = ((found["energy"] - batch.properties["energy"]) / sizes).square().mean()
        loss = loss + 0.1 * (found["forces"] - batch.properties["forces"]).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def force_error(model: GraphPESModel, graphs: list[AtomicGraph]) -> float:
    """Root mean square error of force components, in eV/Å."""
    (forces,) = (c for c in calibration(model, graphs, batch_size=50) if c.property == "forces")
    return float(np.sqrt(np.mean(forces.error**2) / 3))


def learn(by: str, pool: list[ase.Atoms], test: list[AtomicGraph], seed: int, args) -> list[float]:
    """Errors after each round, with structures chosen at random or by uncertainty."""
    rng = np.random.default_rng(seed)
    left = [int(n) for n in rng.permutation(len(pool))]
    chosen, left = left[:PER_ROUND], left[PER_ROUND:]
    errors = []
    for step in range(args.rounds):
        known = labelled([pool[n] for n in chosen])
        members = [trained(known, 100 * seed + n, args.steps) for n in range(3)]
        committee = Committee(members).eval()
        errors.append(force_error(committee, test))
        print(f"{by:>12}, seed {seed}: {len(chosen):3d} structures, {errors[-1]:.3f} eV/Å")
        if step == args.rounds - 1:
            break
        if by == "uncertainty":
            candidates = [AtomicGraph.from_ase(pool[n], CUTOFF) for n in left]
            best = most_uncertain(committee, candidates, PER_ROUND, batch_size=50)
        else:
            best = list(range(PER_ROUND))  # they are shuffled
        chosen += [left[n] for n in best]
        left = [x for n, x in enumerate(left) if n not in best]
    return errors


def main(argv: list[str] | None = None) -> dict[str, list[list[float]]]:
    """Errors of all seeds by both ways to choose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--candidates", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--figure", default="errors.png")
    args = parser.parse_args(argv)
    test = labelled(frames(args.candidates // 3, [0.25] * 4, seed=1000))
    results: dict[str, list[list[float]]] = {"uncertainty": [], "random": []}
    for seed in range(args.seeds):
        pool = frames(args.candidates, [c[3] for c in CONDITIONS], seed)
        for by, errors in results.items():
            errors.append(learn(by, pool, test, seed, args))
    draw(results, args.figure)
    return results


def draw(results: dict[str, list[list[float]]], path: str) -> None:
    """Geometric means over the seeds, and all of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.4), layout="constrained")
    ax = figure.subplots()
    for (by, errors), colour in zip(results.items(), ("#0072B2", "#D55E00"), strict=True):
        numbers = PER_ROUND * np.arange(1, len(errors[0]) + 1)
        for each in errors:
            ax.plot(numbers, each, c=colour, lw=0.7, alpha=0.5)
        ax.plot(numbers, np.exp(np.mean(np.log(errors), axis=0)), "o-", c=colour, label=by)
    ax.set(yscale="log", xticks=numbers)
    ax.set_xlabel("labelled structures")
    ax.set_ylabel("RMSE of forces (eV/Å)")
    ax.legend(title="chosen by", frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
