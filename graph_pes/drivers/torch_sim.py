"""Models in torch-sim: dynamics and relaxation of many structures at once."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor

from graph_pes.atomic_graph import PropertyKey, get_cell_volume
from graph_pes.deploy import ExportedModel, compiled
from graph_pes.memory import keep_freed_memory
from graph_pes.models.base import GraphPESModel
from graph_pes.models.derivatives import has_volume

from .batches import batch_from, evaluate
from .predict import uncertainties_of

try:
    with warnings.catch_warnings():
        # Releases for Python 3.11 use what torch and vesin have deprecated since.
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch_sim
        from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise ImportError(
        "Models in torch-sim need torch-sim: pip install 'graph-pes[torch-sim]'"
    ) from error


class TorchSimModel(ModelInterface):
    """A model of torch-sim, of 0.3 as well as of 0.6 and later, of any `GraphPESModel`.

    All structures of a state are evaluated as one batch. The model itself is used, not a copy of
    it: it is moved to ``device`` if one is given, and evaluated in its own precision, in
    evaluation mode.

    Parameters
    ----------
    model
        The model, or the path of one that was exported, ``model.pt2``.
    device
        Where to evaluate it; by default where it is.
    dtype
        Precision of the states, and of the results.
    compute_forces, compute_stress
        What to compute besides energies. The stress of a molecule is zero.
    compile
        Use a compiled copy of the model as it is now, several times faster, from a cache on
        disk: see `graph_pes.deploy.cache.compiled`. The first time on a machine takes minutes.

    Raises
    ------
    TypeError
        If ``model`` is neither a `GraphPESModel` nor an exported one.
    ValueError
        If stress is to be computed with an exported model that predicts forces directly.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from graph_pes.models import LennardJones
    >>> model = TorchSimModel(LennardJones(cutoff=8.0, epsilon=0.0104, sigma=3.40))
    >>> structures = [bulk("Ar", cubic=True), bulk("Ar")]
    >>> state = torch_sim.io.atoms_to_state(structures, model.device, model.dtype)
    >>> {key: list(value.shape) for key, value in model(state).items()}
    {'energy': [2], 'forces': [5, 3], 'stress': [2, 3, 3]}
    """

    def __init__(
        self,
        model: GraphPESModel | ExportedModel | str | os.PathLike[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        *,
        compute_forces: bool = True,
        compute_stress: bool = True,
        compile: bool = False,
    ):
        super().__init__()
        if isinstance(model, str | os.PathLike):
            model = ExportedModel(model)
        if not isinstance(model, GraphPESModel | ExportedModel):
            raise TypeError(
                "TorchSimModel: expected a GraphPESModel, which predicts energies, got "
                f"{type(model).__name__}"
            )
        keep_freed_memory()
        model = model if device is None else model.to(device)
        self.model = compiled(model) if compile and isinstance(model, GraphPESModel) else model
        self._device, self._dtype = self.model.device, dtype
        self.compute_forces, self.compute_stress = compute_forces, compute_stress

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    @property
    def compute_stress(self) -> bool:
        """Whether stress is computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        if value and "virial" not in self.model.predictable_properties:
            raise ValueError(
                "TorchSimModel: the model predicts forces directly, and was exported without the "
                "derivatives of its energy that stress is made of: use compute_stress=False"
            )
        self._compute_stress = value

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies (S,) in eV, forces (N, 3) in eV/Å and stress (S, 3, 3) in eV/Å^3 of a state.

        Of committees also ``energy_uncertainty`` (S,), and with forces ``forces_uncertainty`` (N,).

        Parameters
        ----------
        state
            A ``SimState`` of S structures with N atoms, or a dictionary of its fields.

        Raises
        ------
        ValueError
            If the model was not fitted to an element, positions or cells are not finite, or a
            periodic direction has no lattice vector of its own.
        """
        if not isinstance(state, torch_sim.SimState):
            state = torch_sim.SimState(**state)
        cell = state.row_vector_cell
        pbc = torch.as_tensor(state.pbc, device=cell.device).expand(len(cell), 3)
        batch = batch_from(
            state.atomic_numbers,
            state.positions,
            cell,
            pbc,
            state.system_idx,
            self.model.cutoff_value,
        )
        properties: list[PropertyKey] = ["energy"]
        uncertainties = uncertainties_of(self.model)
        properties += uncertainties[:1]
        if self.compute_forces:
            properties += ["forces", *uncertainties[1:]]
        if self.compute_stress:
            properties.append("virial")
        results = evaluate(self.model, batch, properties)
        if self.compute_stress:
            volume = torch.where(has_volume(batch), get_cell_volume(batch), torch.inf)
            results["stress"] = -results.pop("virial") / volume.view(-1, 1, 1)
        return {key: value.to(self.dtype) for key, value in results.items()}
