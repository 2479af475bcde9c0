"""Models in i-PI: all beads of a path integral, or of several replicas, in one evaluation."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import ase
import ase.io
import numpy as np
import torch

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.deploy import ExportedModel, compiled
from graph_pes.memory import keep_freed_memory
from graph_pes.models.io import load_model

from .batches import batch_from, evaluate
from .predict import uncertainties_of

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.softexit import softexit
    from ipi.utils.units import unit_to_internal, unit_to_user
except ImportError as error:
    raise ImportError("Models in i-PI need i-PI: pip install 'graph-pes[ipi]'") from error

#: Potential energy, forces (N, 3), virial (3, 3) and what else there is, in i-PI's units.
Result = tuple[float, np.ndarray, np.ndarray, str]


class IPIPotential(Dummy_driver):
    """A potential of i-PI: of its ``ffdirect``, and of its client for sockets.

    i-PI loads it from a file that names it, which ``graph-pes-ipi`` writes::

        from graph_pes.drivers.ipi import IPIPotential

        __DRIVER_NAME__, __DRIVER_CLASS__ = "graph_pes", "IPIPotential"

    Parameters
    ----------
    template
        A file with the atoms of the system that ASE can read. Elements, periodic directions, and
        ``total_charge`` and ``total_spin`` if there are any, are taken from it.
    model
        ``model.pt``, or an exported ``model.pt2``.
    device
        Where to evaluate it; by default on the CPU, or where it was exported for.
    compile
        Use a compiled copy of the model, from a cache on disk: see
        `graph_pes.deploy.cache.compiled`.
    **kwargs
        Passed to i-PI's ``Dummy_driver``.
    """

    def __init__(
        self,
        template: str,
        model: str,
        device: str | None = None,
        compile: bool | str = False,
        **kwargs: Any,
    ):
        self.template, self.path = template, model
        self.chosen_device = device
        self.compile = compile in (True, "True", "true")
        super().__init__(**kwargs)

    def check_parameters(self) -> None:
        """Read the files."""
        keep_freed_memory()
        atoms = ase.io.read(self.template)
        assert isinstance(atoms, ase.Atoms)
        self.graph = AtomicGraph.from_ase(atoms, 0.0, property_mapping={}, dtype=torch.float64)
        if os.fspath(self.path).endswith(".pt2"):
            model: Any = ExportedModel(self.path)
        else:
            model = load_model(self.path)
        model = model if self.chosen_device is None else model.to(self.chosen_device)
        self.model = compiled(model) if self.compile and self.path.endswith(".pt") else model

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> Result:
        """Evaluate one structure."""
        return self.compute_structures([cell], [pos])[0]

    def compute(
        self, cell: np.ndarray | list[np.ndarray], pos: np.ndarray | list[np.ndarray]
    ) -> Result | list[Result]:
        """Evaluate one structure, or a list of them.

        Raises
        ------
        ValueError
            If the model was not fitted to an element, positions or cells are not finite, or a
            periodic direction has no lattice vector of its own. Where i-PI polls its potentials
            on a thread of their own, the run is ended with the message and can be restarted.
        """
        try:
            if isinstance(cell, list):
                return self.compute_structures(cell, list(pos))
            assert isinstance(pos, np.ndarray)
            return self.compute_structure(cell, pos)
        except ValueError as error:
            if threading.current_thread() is not threading.main_thread():
                # An exception would end this thread only, and leave i-PI waiting for ever.
                softexit.trigger(status="bad", message=f" @graph-pes: {error}")
            raise

    def compute_structures(
        self, cells: Sequence[np.ndarray], positions: Sequence[np.ndarray]
    ) -> list[Result]:
        """Evaluate structures in one batch.

        Parameters
        ----------
        cells, positions
            Of each structure: lattice vectors as columns (3, 3), and positions (N, 3), in Bohr.

        Returns
        -------
        list
            Of each structure; what else there is to tell of it are, of committees only,
            ``energy_uncertainty`` in eV and ``forces_uncertainty`` (N,) in eV/Å, as JSON. The
            virial of exported models of direct forces is not a number (NaN): there is none.
        """
        S, device = len(cells), self.model.device
        R = unit_to_user("length", "angstrom", np.stack(positions).reshape(S, -1, 3))
        cell = unit_to_user("length", "angstrom", np.stack(cells).transpose(0, 2, 1))
        graph, N = self.graph, R.shape[1]
        if len(graph.Z) != N:
            raise ValueError(f"{self.template} has {len(graph.Z)} atoms, but i-PI sent {N}")
        assert graph.pbc is not None
        batch = batch_from(
            graph.Z.repeat(S).to(device),
            torch.from_numpy(R.reshape(-1, 3)).to(device),
            torch.from_numpy(cell.copy()).to(device),
            graph.pbc.expand(S, 3).to(device),
            torch.arange(S, device=device).repeat_interleave(N),
            self.model.cutoff_value,
            {key: torch.stack(S * [value]).to(device) for key, value in graph.other.items()},
        )
        uncertainties = uncertainties_of(self.model)
        has_virial = "virial" in self.model.predictable_properties
        keys = ["energy", "forces", *["virial"] * has_virial, *uncertainties]
        predictions = evaluate(self.model, batch, keys)
        if not has_virial:
            predictions["virial"] = torch.full_like(batch.cell, torch.nan)
        energy, forces, virial = (
            predictions[key].double().cpu().numpy() for key in ("energy", "forces", "virial")
        )
        energy = unit_to_internal("energy", "electronvolt", energy)
        forces = unit_to_internal("force", "ev/ang", forces.reshape(S, N, 3))
        virial = unit_to_internal("energy", "electronvolt", virial)
        spread = {key: predictions[key].reshape(S, -1).tolist() for key in uncertainties}
        extras = [json.dumps({key: spread[key][n] for key in spread}) for n in range(S)]
        return [
            (float(energy[n]), forces[n], virial[n], extras[n] if spread else "") for n in range(S)
        ]
