"""``graph-pes-ipi``: a complete input for i-PI."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from ase.geometry import complete_cell

from graph_pes.deploy import ExportedModel
from graph_pes.drivers.predict import check_elements
from graph_pes.files import atomic_write
from graph_pes.models import load_model
from graph_pes.training.messages import logger

from .settings import run_command

#: Empty space around molecules, in Å; i-PI wants a cell, which the model does not see.
SPACE = 50.0

POTENTIAL = '''\
"""The potential that i-PI loads; written by graph-pes-ipi."""

from graph_pes.drivers.ipi import IPIPotential

__DRIVER_NAME__, __DRIVER_CLASS__ = "graph_pes", "IPIPotential"
'''

SIMULATION = """\
<simulation verbosity='medium' threading='{threaded}'>
  <output prefix='run'>
    <properties stride='{stride}' filename='out'> [ step, time{{picosecond}}, \
conserved{{electronvolt}}, temperature{{kelvin}}, kinetic_cv{{electronvolt}}, \
potential{{electronvolt}} ] </properties>
    <trajectory stride='{stride}' filename='centroid' format='xyz' cell_units='angstrom'> \
x_centroid{{angstrom}} </trajectory>
    <checkpoint stride='{stride}' overwrite='True'/>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> {seed} </seed> </prng>
{forcefield}
{systems}
{between_systems}</simulation>
"""

DIRECT = """\
  <ffdirect name='graph_pes' threaded='{threaded}'>
    <pes> custom </pes>
    <pes_path> potential.py </pes_path>
    <batch_size> {batch} </batch_size>
    <parameters> {parameters} </parameters>
  </ffdirect>"""

SOCKET = """\
  <ffsocket name='graph_pes' mode='unix'>
    <address> {socket} </address>
    <batch_size> {batch} </batch_size>
  </ffsocket>"""

BIAS = """
  <ffplumed name='plumed'>
    <file mode='ase'> init.xyz </file>
    <plumed_dat> plumed.dat </plumed_dat>
  </ffplumed>"""

SYSTEM = """\
  <system{prefix}>
    <initialize nbeads='{beads}'>
      <file mode='ase'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> <force forcefield='graph_pes'/> </forces>
    <ensemble> <temperature units='kelvin'> {temperature} </temperature>{bias} </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> {timestep} </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 100 </tau> </thermostat>
      </dynamics>
    </motion>
  </system>"""

#: On the centroids.
BIASED = " <bias> <force forcefield='plumed' nbeads='1'/> </bias>"

METADYNAMICS = "  <smotion mode='metad'> <metad> <metaff> [plumed] </metaff> </metad> </smotion>\n"

EXCHANGE = "  <smotion mode='remd'> <remd> <stride> {exchange} </stride> </remd> </smotion>\n"


@dataclass(frozen=True)
class Run:
    """What to simulate.

    Attributes
    ----------
    temperatures
        In K; those of several replicas are exchanged.
    beads
        Number of beads of each path integral; 1 for classical nuclei.
    timestep
        In fs.
    steps
        Number of time steps.
    stride
        Steps between outputs.
    exchange
        Steps between attempts to exchange replicas, on average.
    seed
        Of random numbers.
    socket
        Name of a socket to which clients connect; None to evaluate within i-PI.
    device
        Where to evaluate the model; None for its own choice.
    compile
        Whether to evaluate a compiled copy.
    plumed
        Input of PLUMED, which biases the centroids of the beads; None for no bias.
    """

    temperatures: Sequence[float]
    beads: int = 1
    timestep: float = 0.5
    steps: int = 1000
    stride: int = 10
    exchange: int = 20
    seed: int = 31415
    socket: str | None = None
    device: str | None = None
    compile: bool = False
    plumed: Path | None = None


def input_text(run: Run, model: str) -> str:
    """The input of i-PI, for a model of this name in the same folder."""
    replicas = len(run.temperatures)
    systems = [
        SYSTEM.format(
            prefix=f" prefix='replica-{n}'" if replicas > 1 else "",
            beads=run.beads,
            temperature=temperature,
            timestep=run.timestep,
            bias=BIASED if run.plumed else "",
        )
        for n, temperature in enumerate(run.temperatures)
    ]
    # Replicas are moved by a thread each, so that the beads of all are there at the same time.
    values = {
        "threaded": replicas > 1,
        "batch": run.beads * replicas,
        "socket": run.socket,
        "parameters": parameters(run, model, separator=":").join("{}"),
    }
    forcefield = DIRECT if run.socket is None else SOCKET
    between_systems = METADYNAMICS if run.plumed else ""
    if replicas > 1:
        between_systems = EXCHANGE.format(exchange=run.exchange)
    return SIMULATION.format(
        threaded=replicas > 1,
        stride=run.stride,
        steps=run.steps,
        seed=run.seed,
        forcefield=forcefield.format(**values) + (BIAS if run.plumed else ""),
        systems="\n".join(systems),
        between_systems=between_systems,
    )


def parameters(run: Run, model: str, separator: str) -> str:
    """What the potential is told, on the command line or in the input."""
    told = {"template": "init.xyz", "model": model}
    if run.device is not None:
        told["device"] = run.device
    if run.compile:
        told["compile"] = "True"
    return ",".join(f"{key}{separator}{value}" for key, value in told.items())


def starting_structure(atoms: ase.Atoms) -> ase.Atoms:
    """The structure as i-PI wants it: with a cell whose vectors form a triangle.

    Examples
    --------
    >>> from ase.build import bulk, molecule
    >>> starting_structure(bulk("Si")).cell.array.round(2)
    array([[3.84, 0.  , 0.  ],
           [1.92, 3.33, 0.  ],
           [1.92, 1.11, 3.14]])
    >>> starting_structure(molecule("H2O")).cell.lengths().round(1)
    array([100. , 101.5, 100.6])
    """
    start = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for key in ("total_charge", "total_spin"):
        if key in atoms.info:
            start.info[key] = atoms.info[key]
    if atoms.has("masses"):
        start.set_masses(atoms.get_masses())
    # Vectors along directions that are not periodic do not matter to the model.
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    extent = np.ptp(atoms.positions @ np.linalg.inv(cell), axis=0) + 2 * SPACE
    start.cell = np.where(atoms.pbc[:, None], cell, cell * extent[:, None])
    standard, rotation = start.cell.standard_form()
    start.positions = start.positions @ rotation.T
    start.cell = np.tril(standard)
    return start


def write_input(model: Path, structure: Path, folder: Path, run: Run) -> None:
    """Write a folder in which ``i-pi input.xml`` runs.

    Raises
    ------
    FileExistsError
        If there is an input already.
    ValueError
        If the model was not fitted to an element of the structure, or if replicas of several
        temperatures are to be biased.
    """
    if run.plumed is not None and len(run.temperatures) > 1:
        raise ValueError("--plumed: expected one temperature, as replicas would share their bias")
    loaded = ExportedModel(model) if model.suffix == ".pt2" else load_model(model)
    atoms = ase.io.read(structure)
    assert isinstance(atoms, ase.Atoms)
    start = starting_structure(atoms)
    check_elements(loaded, torch.from_numpy(start.numbers))
    if (folder / "input.xml").exists():
        raise FileExistsError(f"{folder} holds an input.xml already: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"model{model.suffix}"
    if not (copy.exists() and copy.samefile(model)):
        shutil.copyfile(model, copy)
    if run.plumed is not None:
        shutil.copyfile(run.plumed, folder / "plumed.dat")
    start.write(folder / "init.xyz", format="extxyz")
    for name, text in (("potential.py", POTENTIAL), ("input.xml", input_text(run, copy.name))):
        with atomic_write(folder / name) as path:
            path.write_text(text)
    logger.info("To run: cd %s && i-pi input.xml", folder)
    if run.socket is not None:
        logger.info(
            "and, as often as there are processors for it: cd %s && i-pi-py_driver -u -a %s "
            "-m custom -P potential.py -o %s",
            folder,
            run.socket,
            parameters(run, copy.name, separator="="),
        )


def main(argv: list[str] | None = None) -> None:
    """Run ``graph-pes-ipi``."""
    parser = argparse.ArgumentParser(description="Write a complete input for i-PI.")
    parser.add_argument("model", type=Path, help="model.pt, or an exported model.pt2")
    parser.add_argument("structure", type=Path, help="a file that ASE can read")
    parser.add_argument(
        "--out", type=Path, default=Path("ipi"), metavar="FOLDER", help="(default: ipi)"
    )
    add = parser.add_argument
    add("--beads", type=int, default=1, help="of each path integral (default: 1, classical)")
    add(
        "--temperature",
        type=float,
        nargs="+",
        default=[300.0],
        metavar="K",
        help="replicas of several temperatures are exchanged (default: 300)",
    )
    add("--timestep", type=float, default=0.5, metavar="FS", help="(default: 0.5)")
    add("--steps", type=int, default=1000, help="(default: 1000)")
    add("--stride", type=int, default=10, help="steps between outputs (default: 10)")
    add("--exchange", type=int, default=20, help="steps between exchanges (default: 20)")
    add("--seed", type=int, default=31415, help="(default: 31415)")
    add("--socket", metavar="NAME", help="evaluate in clients that connect to a unix socket")
    add("--plumed", type=Path, metavar="FILE", help="input of PLUMED, to bias centroids")
    add("--device", help="cpu or cuda (default: where the model is)")
    add("--compile", action="store_true", help="compile the model, once on each machine")
    arguments = vars(parser.parse_args(argv))
    model, structure, folder = (arguments.pop(key) for key in ("model", "structure", "out"))
    run = Run(temperatures=arguments.pop("temperature"), **arguments)
    run_command(lambda: write_input(model, structure, folder, run))


if __name__ == "__main__":
    main()
