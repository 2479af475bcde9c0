"""Errors of foundation models on structures of MPtrj, and their speed beside the original package.

In an environment that has the package of the model, from the root of the repository::

    python -m benchmarks.foundation_models sevennet ../shared/data/mptrj_random_1k/*.xyz.gz
    python -m benchmarks.foundation_models sevennet --speed

The first prints mean absolute errors of energies per atom, components of forces and of the stress,
of the network of the other package and of our own implementation with the same weights. The second
times energy, forces and stress of a crystal of 8 to 216 atoms, or of a box of molecules, through
ASE, each in turn, ours also compiled, which takes minutes the first time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import bulk, molecule
from ase.io import read
from ase.units import GPa

from graph_pes import interfaces
from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.interfaces.mace import from_mace_torch
from graph_pes.interfaces.mattersim import from_mattersim
from graph_pes.interfaces.orb import from_orb_models
from graph_pes.interfaces.upet import from_metatrain
from graph_pes.models import GraphPESModel


def of_sevenn() -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def of_chgnet() -> Any:
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(CHGNet.load(use_device="cpu"), use_device="cpu")


def of_matgl() -> Any:
    from matgl.apps._pes_pyg import Potential
    from matgl.ext._ase_pyg import PESCalculator

    return PESCalculator(Potential.load(Path(MATGL)), stress_unit="eV/A3", use_voigt=True)


def of_ani() -> Any:
    from torchani import neurochem

    neurochem.neurochem_dir = lambda: Path(ANI).parent.resolve()
    return neurochem.load_model_from_info_file(Path(ANI), model_index=0).ase()


def of_mace() -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=MACE, device="cpu", default_dtype="float32")


def random_mace() -> Any:
    """What we know of MACE-MP-0b3, medium; weights do not matter for the time."""
    from mace import modules

    torch.manual_seed(0)
    o3, numbers = modules.models.o3, list(range(1, 90))
    return modules.ScaleShiftMACE(
        r_max=6.0,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.blocks.RealAgnosticDensityResidualInteractionBlock,
        interaction_cls_first=modules.blocks.RealAgnosticDensityInteractionBlock,
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("128x0e + 128x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=60.0,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        pair_repulsion=True,
        distance_transform="Agnesi",
        atomic_inter_scale=0.8,
        atomic_inter_shift=0.2,
    ).eval()


def of_random_mace() -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(models=[random_mace()], device="cpu", default_dtype="float32")


def random_orb(kind: str) -> Any:
    """The published architecture, whose weights do not matter for the time."""
    from orb_models.forcefield import pretrained

    torch.manual_seed(0)
    config = pretrained.SystemConfig(radius=6.0, max_num_neighbors=20 if kind == "direct" else 120)
    make = getattr(pretrained, f"orb_v3_{kind}_architecture")
    return make(device="cpu", system_config=config).eval()


def of_orb(kind: str) -> Any:
    from orb_models.forcefield.calculator import ORBCalculator

    return ORBCalculator(random_orb(kind), device="cpu")


def random_mattersim() -> Any:
    """The sizes of MatterSim-v1.0.0-1M, as far as we know."""
    from mattersim.forcefield import Potential
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    torch.manual_seed(0)
    return Potential(M3Gnet(num_blocks=3, units=128, device="cpu").eval(), device="cpu")


def of_mattersim() -> Any:
    from mattersim.forcefield.potential import MatterSimCalculator

    return MatterSimCalculator(random_mattersim(), device="cpu")


def random_upet(**hypers: Any) -> Any:
    """What metatrain makes by default, whose weights do not matter for the time."""
    from metatrain.pet import PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    torch.manual_seed(0)
    target = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    numbers = list(range(1, 90))
    info = DatasetInfo(length_unit="Angstrom", atomic_types=numbers, targets={"energy": target})
    return PET({**get_default_hypers("pet")["model"], **hypers}, info).eval()


def of_upet(**hypers: Any) -> Any:
    from upet.calculator import UPETCalculator

    model = random_upet(**hypers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pet-random-s-v1.0.0.ckpt"
        torch.save({**model.get_checkpoint(), "epoch": 0, "best_epoch": 0}, path)
        return UPETCalculator(checkpoint_path=path, dtype=torch.float32, device="cpu")


MACE = "../shared/data/models/mace_tutorial_xtb/model_swa.model"
ANI = "../shared/data/models/ani-2x_member0/ani-2x_1x.info"
MATGL = "../shared/data/models/matgl/TensorNet-MatPES-PBE-v2025.1-PES"

#: How to make our model, natively or not, the calculator of the package, and a crystal.
MODELS: dict[str, tuple[Callable[..., GraphPESModel], Callable[[], Any], str]] = {
    "chgnet": (lambda **kw: interfaces.chgnet(**kw), of_chgnet, "NaCl"),
    **{
        name: (lambda **kw: interfaces.ani(ANI, **kw), of_ani, elements)
        for name, elements in (("ani", "CH3CH2OH"), ("ani-crystal", "CO"))
    },
    "mace": (lambda **kw: interfaces.mace_model(MACE, None, "float32", **kw), of_mace, "CO"),
    "mace-0b3": (
        lambda **kw: from_mace_torch(random_mace(), precision="float32", **kw),
        of_random_mace,
        "NaCl",
    ),
    "matgl": (lambda **kw: interfaces.matgl_model(MATGL, **kw), of_matgl, "NaCl"),
    "mattersim": (
        lambda **kw: from_mattersim(random_mattersim(), **kw),
        of_mattersim,
        "NaCl",
    ),
    "sevennet": (lambda **kw: interfaces.sevennet("7net-0", **kw), of_sevenn, "NaCl"),
    **{
        f"orb-{kind}": (
            lambda kind=kind, **kw: from_orb_models(random_orb(kind), **kw),
            lambda kind=kind: of_orb(kind),
            "NaCl",
        )
        for kind in ("conservative", "direct")
    },
    **{
        name: (
            lambda hypers=hypers, **kw: from_metatrain(random_upet(**hypers), **kw),
            lambda hypers=hypers: of_upet(**hypers),
            "NaCl",
        )
        for name, hypers in {
            "upet": {},
            "upet-adaptive": {"cutoff": 7.5, "num_neighbors_adaptive": 16},
        }.items()
    },
}

#: What is timed beside our implementation.
OTHERS = ("original", "wrapped")

#: Lattice constants in Å, of rocksalt, and of molecules on a cubic lattice.
CRYSTALS = {"NaCl": 5.6, "CO": 4.2}
MOLECULES = {"CH3CH2OH": 4.6}


def errors(model: GraphPESModel, frames: list[Any]) -> dict[str, float]:
    """Mean absolute errors in meV/atom, meV/Å and GPa."""
    found: dict[str, list[np.ndarray]] = {"E": [], "F": [], "S": []}
    for atoms in frames:
        graph = AtomicGraph.from_ase(atoms, model.cutoff_value)
        predicted = model.predict(to_batch([graph]), ["energy", "forces", "stress"])
        stress = atoms.get_stress(voigt=False)
        energy = predicted["energy"].item() - atoms.get_potential_energy()
        found["E"].append(np.array([1000 * abs(energy) / len(atoms)]))
        found["F"].append(1000 * abs(predicted["forces"].numpy() - atoms.get_forces()).ravel())
        found["S"].append(abs(predicted["stress"][0].numpy() - stress).ravel() / GPa)
    return {key: float(np.concatenate(values).mean()) for key, values in found.items()}


def crystal(name: str, n: int) -> Any:
    if name in MOLECULES:
        atoms = molecule(name, cell=3 * [MOLECULES[name]], pbc=True) * (n, n, n)
    else:
        atoms = bulk(name, "rocksalt", a=CRYSTALS[name], cubic=True) * (n, n, n)
    atoms.rattle(0.05, seed=0)
    return atoms


def speed(name: str, repeats: int) -> None:
    """Milliseconds of the original, of its network in our hands, and of ours: medians in turn."""
    make, original, elements = MODELS[name]
    calculators = {
        "original": original(),
        "wrapped": make().ase_calculator(skin=0.0),
        "native": make(native=True).ase_calculator(skin=0.0),
        "compiled": make(native=True).ase_calculator(skin=0.0, compile=True),
    }
    print(f"{'atoms':>6}" + "".join(f"{key:>12}" for key in calculators) + "   original / ours")
    for n in (1, 2, 3):
        atoms, times = crystal(elements, n), {key: [] for key in calculators}
        for _ in range(repeats + 1):
            for key, calculator in calculators.items():
                atoms.rattle(0.001, rng=np.random.default_rng(len(times[key])))
                start = time.process_time()
                calculator.calculate(atoms, ["energy", "forces", "stress"], ["positions"])
                times[key].append(1000 * (time.process_time() - start))
        medians = {key: float(np.median(x[1:])) for key, x in times.items()}
        columns = "".join(f"{x:12.1f}" for x in medians.values())
        ratios = [medians["original"] / x for key, x in medians.items() if key not in OTHERS]
        print(f"{len(atoms):6d}{columns}   " + ", ".join(f"{ratio:.1f}" for ratio in ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("frames", nargs="?", help="file of labelled structures")
    parser.add_argument("--n", type=int, default=60, help="how many of its first structures")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.speed:
        speed(options.model, options.repeats)
    if options.frames:
        frames = read(options.frames, f":{options.n}")
        for native in (False, True):
            found = errors(MODELS[options.model][0](native=native), frames)
            print(
                f"{'native ' if native else 'wrapped'}  {found['E']:.1f} meV/atom  "
                f"{found['F']:.1f} meV/Å  {found['S']:.2f} GPa"
            )


if __name__ == "__main__":
    main()
