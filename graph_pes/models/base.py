"""What every model is: a module that maps a graph to predictions, and how it predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import (
    PROPERTIES,
    AtomicGraph,
    PropertyKey,
    is_batch,
    neighbour_vectors,
    to_batch,
    trim_edges,
    with_edge_vectors,
)
from graph_pes.nn.float64 import Float64Tensors
from graph_pes.nn.heads import Heads
from graph_pes.nn.per_element import AtomicOneHot, KnownElements
from graph_pes.periodic_table import check_atomic_numbers, symbols_of

from .arguments import RecordsArguments
from .derivatives import (
    checked_volumes,
    energy_and_derivatives,
    has_volume,
    stress_from_virial,
    virial_from_stress,
)
from .trainable import Trainable

if TYPE_CHECKING:
    from graph_pes.drivers.ase import GraphPESCalculator
    from graph_pes.drivers.torch_sim import TorchSimModel

#: Properties that follow from the energy of a model.
DERIVED_FROM_ENERGY = ("energy", "forces", "stress", "virial")

#: Properties that follow from the energies of the members of a committee.
DERIVED_FROM_MEMBERS = ("energy_ensemble", "energy_uncertainty", "forces_uncertainty")


class GraphPropertyModel(Trainable, ABC, metaclass=RecordsArguments):
    """Maps graphs to properties.

    Parameters
    ----------
    cutoff
        The distance, in Å, beyond which atoms do not interact directly. ``forward`` gets
        edges up to this length only.
    implemented_properties
        The keys of what ``forward`` returns.
    three_body_cutoff
        The distance up to which triplets of atoms are formed, for models that have them.

    Raises
    ------
    ValueError
        If a property is not in `PROPERTIES`, the table of what properties are, or the cutoff is
        negative.
    """

    three_body_cutoff: Tensor
    #: Why a part of a structure is not enough to predict any of it, where it is not.
    needs_whole_structure: str | None = None
    #: Steps from neighbour to neighbour that predictions for an atom depend on, as far as known.
    steps: int = 1
    #: Another package that the model calls, if any, so that it can't leave Python.
    calls_package: ClassVar[str | None] = None

    def __init__(
        self,
        cutoff: float,
        implemented_properties: Sequence[PropertyKey],
        three_body_cutoff: float | None = None,
    ):
        super().__init__()
        if undeclared := [key for key in implemented_properties if key not in PROPERTIES]:
            raise ValueError(
                f"{type(self).__name__} implements {undeclared}, which is not declared: expected "
                f"some of {list(PROPERTIES)}. Declare a new property as "
                f"graph_pes.atomic_graph.PROPERTIES[{undeclared[0]!r}] = "
                "Property('atom' or 'structure', shape, unit)"
            )
        if not float(cutoff) >= 0:
            raise ValueError(f"{type(self).__name__}: expected a cutoff in Å, got {cutoff}")
        #: The cutoff in Å as a number, which no GPU has to be waited for.
        self.cutoff_value = float(cutoff)
        self.register_float64_buffer("cutoff", torch.tensor(float(cutoff), dtype=torch.float64))
        self.register_float64_buffer(
            "three_body_cutoff", torch.tensor(float(three_body_cutoff or 0), dtype=torch.float64)
        )
        self.implemented_properties = list(implemented_properties)

    @abstractmethod
    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Predict ``implemented_properties``; the only method a new model has to write.

        Edge vectors and distances come from `neighbour_vectors` and `neighbour_distances`.
        """

    @abstractmethod
    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict the given properties of one structure or of a batch."""

    def _prepared(self, graph: AtomicGraph, properties: Sequence[PropertyKey]) -> AtomicGraph:
        """A batch of the edges this model needs, after checking what was asked for."""
        if isinstance(properties, str):
            raise TypeError(
                f"expected a list of properties, such as [{properties!r}], got a string"
            )
        known = self.predictable_properties
        unknown = [key for key in properties if key not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} can't predict {unknown}: it predicts {sorted(known)}"
            )
        if graph.Z.numel() > 0:
            check_atomic_numbers(torch.stack(graph.Z.aminmax()).tolist())
        for module in _every_module(self):
            if isinstance(module, AtomicOneHot):
                module.check(graph.Z)
            elif isinstance(module, Heads):
                module.check(graph)
        graph = graph if is_batch(graph) else to_batch([graph._replace(properties={})])
        return trim_edges(graph, self.cutoff_value)

    # --- what it knows of itself ---

    @property
    def predictable_properties(self) -> set[PropertyKey]:
        """What `predict` can be asked for: what is implemented, and what follows from energies."""
        known = set(self.implemented_properties)
        if known & {"local_energies_ensemble", "energy_ensemble"}:
            known.update(DERIVED_FROM_MEMBERS)
        return known.union(DERIVED_FROM_ENERGY) if "local_energies" in known else known

    @property
    def elements_seen(self) -> list[str]:
        """Symbols of the elements that the model was given values for, or was fitted to."""
        seen: set[int] = set()
        for module in self.modules():
            if isinstance(module, KnownElements):
                seen.update(module.registered_elements)
        return symbols_of(seen)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.cutoff.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Precision in which the model wants its geometry; None if it uses none.

        The highest one among its parameters and buffers, apart from those that are always
        in double precision (offsets, cutoffs).
        """
        dtypes = [
            tensor.dtype
            for module in _every_module(self)
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]
            if tensor is not None and tensor.is_floating_point()
            if not (isinstance(module, Float64Tensors) and name in module.float64_names)
        ]
        return max(dtypes, key=lambda dtype: torch.finfo(dtype).bits, default=None)

    # --- extra state, for authors of models that have any ---

    @property
    def extra_state(self) -> Any:
        """State besides parameters and buffers; override it, with a setter, to save some."""
        return {}

    @extra_state.setter
    def extra_state(self, state: Any) -> None: ...

    def get_extra_state(self) -> dict[str, Any]:
        """See ``torch.nn.Module.get_extra_state``."""
        return {"extra": self.extra_state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See ``torch.nn.Module.set_extra_state``."""
        self.extra_state = state["extra"]


def _every_module(module: nn.Module) -> Iterator[nn.Module]:
    """As ``module.modules()``, without the names that make it slow for small structures."""
    stack = [module]
    while stack:
        module = stack.pop()
        yield module
        stack.extend(child for child in module._modules.values() if child is not None)


def in_precision_of(model: GraphPropertyModel, graph: AtomicGraph) -> AtomicGraph:
    """The graph with its geometry in the precision of a model.

    Edge vectors are computed in the precision of the positions first.
    """
    dtype = model.dtype
    if dtype is None or dtype == graph.R.dtype == neighbour_vectors(graph).dtype:
        return graph
    vectors = neighbour_vectors(graph).to(dtype)
    return with_edge_vectors(
        graph._replace(R=graph.R.to(dtype), cell=graph.cell.to(dtype)),
        vectors,
    )


def _outside_inference_mode(graph: AtomicGraph) -> AtomicGraph:
    """The graph with copies of the tensors that were made in inference mode."""
    if not graph.R.is_inference():
        return graph

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(x) for key, x in value.items()}
        return value.clone() if isinstance(value, Tensor) else value

    return AtomicGraph(*map(copied, graph))


def _has_gradient(graph: AtomicGraph) -> bool:
    """Whether someone wants to differentiate with respect to the geometry."""
    return torch.is_grad_enabled() and (graph.R.requires_grad or graph.cell.requires_grad)


def finished(
    predictions: dict[PropertyKey, Tensor],
    properties: Sequence[PropertyKey],
    *,
    was_batch: bool,
    detach: bool,
) -> dict[PropertyKey, Tensor]:
    """The predictions asked for, without the batch dimension that was added."""
    result = {}
    for key in properties:
        value = predictions[key].detach() if detach else predictions[key]
        of_structure = PROPERTIES[key].per == "structure" if key in PROPERTIES else True
        result[key] = value[0] if of_structure and not was_batch else value
    return result


class GraphPESModel(GraphPropertyModel):
    """A potential-energy surface: a sum of local energies.

    Authors write ``__init__`` and ``forward``, which returns at least ``local_energies``
    (N,) in eV. Energies, forces, stress and virial follow; a model may also predict any of
    these directly, by naming them in ``implemented_properties``.

    Examples
    --------
    >>> class Spring(GraphPESModel):
    ...     def __init__(self, k: float = 1.0, cutoff: float = 3.0):
    ...         super().__init__(cutoff, implemented_properties=["local_energies"])
    ...         self.k = torch.nn.Parameter(torch.tensor(k))
    ...
    ...     def forward(self, graph):
    ...         r = neighbour_distances(graph)
    ...         return {"local_energies": sum_over_neighbours(self.k * (3 - r) ** 2, graph)}
    >>> from ase.build import molecule
    >>> from graph_pes.atomic_graph import neighbour_distances, sum_over_neighbours
    >>> Spring().predict_forces(AtomicGraph.from_ase(molecule("H2"), 3.0)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        cutoff: float,
        implemented_properties: Sequence[PropertyKey],
        three_body_cutoff: float | None = None,
    ):
        if "local_energies" not in implemented_properties:
            raise ValueError(
                "All GraphPESModels must implement a 'local_energies' prediction, but "
                f"{type(self).__name__} implements {list(implemented_properties)}"
            )
        super().__init__(cutoff, implemented_properties, three_body_cutoff)

    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey]
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of one structure or of a batch.

        Derivatives are taken also inside ``torch.no_grad()``. The results can be differentiated
        in training mode, and where ``graph.R`` or ``graph.cell`` requires a gradient (so that a
        Hessian is the derivative of the forces); else, they are detached.

        Parameters
        ----------
        graph
            With edges at least up to the cutoff of the model.
        properties
            Any of ``energy`` () in eV, ``forces`` (N, 3) in eV/Å, ``stress`` (3, 3) in
            eV/Å^3, ``virial`` (3, 3) in eV, and what the model implements itself; of committees
            also ``energy_uncertainty`` () and ``forces_uncertainty`` (N,). For a batch
            of S structures, those of structures have a first dimension S. Energies are
            float64, the rest has the precision of the model.

        Raises
        ------
        ValueError
            If a property can't be predicted, if the graph lacks edges, or if stress is asked
            of a structure without a cell.
        """
        own, asked = set(self.implemented_properties), set(properties)
        forces = "forces" in asked - own
        virial = bool(asked & {"stress", "virial"}) and not own & {"stress", "virial"}
        spread = "forces_uncertainty" in asked - own
        differentiable = self.training or _has_gradient(graph)
        differentiate = forces or virial or spread or (differentiable and torch.is_grad_enabled())
        # Tensors made in inference mode can't be differentiated: leave it.
        with torch.inference_mode(False), torch.set_grad_enabled(differentiate):
            batch = self._prepared(_outside_inference_mode(graph), properties)
            if "stress" in asked:
                checked_volumes(batch)
            predictions = energy_and_derivatives(
                lambda g: self(in_precision_of(self, g)),
                batch,
                forces=forces,
                virial=virial,
                keep_graph=differentiable,
                spread=spread,
            )
            if "stress" in asked and "stress" not in predictions:
                predictions["stress"] = stress_from_virial(predictions["virial"], batch)
            if "virial" in asked and "virial" not in predictions:
                predictions["virial"] = virial_from_stress(predictions["stress"], batch)
        dtype = self.dtype
        for key in ("forces", "forces_uncertainty", "stress", "virial"):
            if dtype is not None and key in predictions:
                predictions[key] = predictions[key].to(dtype)
        return finished(
            predictions, properties, was_batch=is_batch(graph), detach=not differentiable
        )

    def get_all_PES_predictions(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """Energy, forces and local energies; stress and virial too if all structures have cells."""
        properties = ["energy", "forces", "local_energies"]
        if bool(has_volume(graph).all()):
            properties += ["stress", "virial"]
        return self.predict(graph, properties)

    def predict_energy(self, graph: AtomicGraph) -> Tensor:
        """Total energy in eV: shape (), or (S,) for a batch."""
        return self.predict(graph, ["energy"])["energy"]

    def predict_forces(self, graph: AtomicGraph) -> Tensor:
        """Forces in eV/Å: shape (N, 3)."""
        return self.predict(graph, ["forces"])["forces"]

    def predict_stress(self, graph: AtomicGraph) -> Tensor:
        """Stress in eV/Å^3, positive under tension: shape (3, 3), or (S, 3, 3) for a batch."""
        return self.predict(graph, ["stress"])["stress"]

    def predict_virial(self, graph: AtomicGraph) -> Tensor:
        """Virial in eV, minus stress times volume: shape (3, 3), or (S, 3, 3) for a batch."""
        return self.predict(graph, ["virial"])["virial"]

    def predict_local_energies(self, graph: AtomicGraph) -> Tensor:
        """Energies of the atoms in eV: shape (N,)."""
        return self.predict(graph, ["local_energies"])["local_energies"]

    def ase_calculator(
        self,
        device: torch.device | str | None = None,
        skin: float = 1.0,
        cache_threebody: bool = True,
        compile: bool = False,
    ) -> GraphPESCalculator:
        """An ASE calculator of this model; see `GraphPESCalculator`."""
        from graph_pes.drivers.ase import GraphPESCalculator

        return GraphPESCalculator(
            self, device, skin=skin, cache_threebody=cache_threebody, compile=compile
        )

    def torch_sim_model(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        *,
        compute_forces: bool = True,
        compute_stress: bool = True,
        compile: bool = False,
    ) -> TorchSimModel:
        """A model of torch-sim; see `TorchSimModel`."""
        from graph_pes.drivers.torch_sim import TorchSimModel

        return TorchSimModel(
            self,
            device,
            dtype,
            compute_forces=compute_forces,
            compute_stress=compute_stress,
            compile=compile,
        )


class GraphTensorModel(GraphPropertyModel):
    """Predicts a tensor of each atom directly, without derivatives.

    ``forward`` returns what ``implemented_properties`` names, ``tensor`` (N, ...) as a rule.
    """

    def __init__(self, cutoff: float, implemented_properties: Sequence[PropertyKey] = ("tensor",)):
        super().__init__(cutoff, implemented_properties)

    def predict(
        self, graph: AtomicGraph, properties: Sequence[PropertyKey] = ("tensor",)
    ) -> dict[PropertyKey, Tensor]:
        """Predict properties of one structure or of a batch.

        In evaluation mode they are detached, unless ``graph.R`` or ``graph.cell`` requires a
        gradient.
        """
        batch = self._prepared(graph, properties)
        predictions = self(in_precision_of(self, batch))
        detach = not (self.training or _has_gradient(graph))
        return finished(predictions, properties, was_batch=is_batch(graph), detach=detach)
