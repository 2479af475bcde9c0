"""Models with several heads: one representation for data of several levels of theory."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import AtomicGraph, PropertyKey, sum_per_structure
from graph_pes.nn.heads import Heads, PerHead, Selection
from graph_pes.nn.per_element import PerElementParameter
from graph_pes.nn.regression import fit_per_element
from graph_pes.periodic_table import SYMBOLS

from .addition import AdditionModel
from .base import GraphPESModel, GraphPropertyModel, in_precision_of
from .offsets import FixedOffset
from .trainable import Trainable

#: Names of the modules that read energies from features in our models.
READ_OUTS = r".*(read_?outs?|head|scaler)\b"


class MultiHead(GraphPESModel):
    r"""A model of which what reads the energies is there several times, once for each head.

    All heads share the rest, and are trained together, on data whose energies need not agree:
    each structure names its head (see ``head`` of `file_dataset`), and each head has energies of
    the atoms of its own, in double precision. To use the model, choose a head: `select_head`.

    Parameters
    ----------
    model
        A model of energies, trained or not, of which every head gets a copy of the read-out.
    heads
        Names of the heads.
    read_out
        Regular expressions that names of modules start with: those to copy. The default fits our
        models, and those of mace-torch.

    Raises
    ------
    ValueError
        If a name is not possible, or no module matches one of the patterns.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from graph_pes.models import PaiNN
    >>> model = MultiHead(PaiNN(cutoff=3.0), heads=["PBE", "xTB"])
    >>> model.offsets["xTB"]["H"] = -13.0
    >>> graph = AtomicGraph.from_ase(molecule("H2"), cutoff=3.0)
    >>> energies = [select_head(model, name).predict_energy(graph) for name in model.heads.names]
    >>> print(f"{energies[1] - energies[0]:.1f}")
    -26.0
    """

    def __init__(
        self,
        model: GraphPESModel,
        heads: Sequence[str],
        read_out: str | Sequence[str] = READ_OUTS,
    ):
        super().__init__(
            model.cutoff_value, model.implemented_properties, float(model.three_body_cutoff)
        )
        self.heads = Heads(heads)
        self._selection = Selection()
        for name, module in modules_matching(model, read_out).items():
            replace_module(model, name, PerHead(module, self.heads.names, self._selection))
        self.model = model
        self.offsets = nn.ModuleDict(
            {name: PerElementParameter.full((), 0.0, float64=True) for name in self.heads.names}
        )

    def forward(self, graph: AtomicGraph) -> dict[PropertyKey, Tensor]:
        """What the heads of the atoms predict; local energies in double precision."""
        mask = self.heads(graph)
        self._selection.mask = mask
        try:
            predictions = dict(self.model(in_precision_of(self.model, graph)))
        finally:
            self._selection.mask = None
        energies = predictions["local_energies"].double()
        return {**predictions, "local_energies": energies + self._offsets(graph, mask)}

    def _offsets(self, graph: AtomicGraph, mask: Tensor) -> Tensor:
        """Energies of the atoms, shape (N,)."""
        of_heads = torch.stack([offset(graph.Z) for offset in self.offsets.values()], dim=1)
        return torch.where(mask, of_heads, 0.0).sum(1)

    @torch.no_grad()
    def pre_fit(self, graphs: AtomicGraph) -> None:
        """Fit the energies of the atoms to the data of each head, if the model is a new one."""
        if not self.model._has_been_pre_fit and "energy" in graphs.properties:
            self.fit_offsets(graphs.properties["energy"], graphs)

    @torch.no_grad()
    def fit_offsets(self, energies: Tensor, graphs: AtomicGraph) -> None:
        """Add to the energies of the atoms of each head what fits best to energies (S,).

        Parameters
        ----------
        energies
            In eV; NaN where there is none.
        graphs
            The batch that they belong to.
        """
        mask = self.heads(graphs)
        assert graphs.ptr is not None
        of_structures = mask.index_select(0, graphs.ptr[:-1])
        offsets: list[Any] = list(self.offsets.values())
        for n, offset in enumerate(offsets):
            own = torch.where(of_structures[:, n], energies, torch.nan)
            if own.isnan().all():
                continue
            for Z, mean in fit_per_element(own, graphs).means.items():
                offset[Z] = offset[Z] + mean

    def as_seen_by_components(self, graph: AtomicGraph) -> AtomicGraph:
        """The graph with energies from which those of the atoms are subtracted."""
        if "energy" not in graph.properties:
            return graph
        offsets = self._offsets(graph, self.heads(graph)).detach()
        energy = graph.properties["energy"] - sum_per_structure(offsets, graph)
        return graph._replace(properties={**graph.properties, "energy": energy})

    def non_decayable_parameters(self) -> list[nn.Parameter]:
        """Energies of atoms must not decay to zero."""
        return [*super().non_decayable_parameters(), *self.offsets.parameters()]


def modules_matching(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose name starts with a match of a pattern, without those inside of one.

    Raises
    ------
    ValueError
        If no name matches one of the patterns; the message lists the names.
    """
    found: dict[str, nn.Module] = {}
    everything = dict(model.named_modules())
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        new = {
            name: module
            for name, module in everything.items()
            if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)
            if re.match(pattern, name)
        }
        if not new:
            raise ValueError(
                f"read_out: no module matches {pattern!r}; the names are {list(everything)[1:]}"
            )
        found.update(new)
    return {
        name: module
        for name, module in found.items()
        if not any(name.startswith(f"{other}.") for other in found)
    }


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, which is given by its full name."""
    owner, _, last = name.rpartition(".")
    model.get_submodule(owner)._modules[last] = module


def select_head(model: GraphPropertyModel, head: str) -> AdditionModel:
    """The model of one head: as if there were no other, and without further cost.

    Parameters
    ----------
    model
        A `MultiHead` model, or a sum of models with one in it. It is not changed.
    head
        Name of the head.

    Returns
    -------
    AdditionModel
        A sum of the model, whose read-out is that of the head, and ``head_offset``, the energies
        of the atoms.

    Raises
    ------
    ValueError
        If there is no such head.
    """
    if isinstance(model, AdditionModel) and any(map(_has_heads, model.models.values())):
        chosen: dict[str, Any] = {
            name: select_head(part, head) if _has_heads(part) else copy.deepcopy(part)  # type: ignore[arg-type]
            for name, part in model.models.items()
        }
        return _as_fitted(AdditionModel(**chosen), model)
    if not isinstance(model, MultiHead):
        raise ValueError(f"select_head: {type(model).__name__} has no heads, and so no {head!r}")
    if head not in model.heads.names:
        raise ValueError(f"head: expected one of {model.heads.names}, got {head!r}")
    inner = copy.deepcopy(model.model)
    for name, module in dict(inner.named_modules()).items():
        if isinstance(module, PerHead):
            replace_module(inner, name, module.heads[head])
    offset: Any = model.offsets[head]
    energies = {SYMBOLS[Z]: offset[Z].item() for Z in offset.registered_elements}
    parts: dict[str, Any] = {"base": inner}
    if isinstance(inner, AdditionModel):
        parts = dict(inner.models.items())
    return _as_fitted(AdditionModel(**parts, head_offset=FixedOffset(**energies)), model)


def _has_heads(model: nn.Module) -> bool:
    return any(isinstance(module, MultiHead) for module in model.modules())


def _as_fitted(model: AdditionModel, original: GraphPropertyModel) -> AdditionModel:
    """A new model, which is as fitted, and as much in training, as another."""
    for module in model.modules():
        if isinstance(module, Trainable):
            module._has_been_pre_fit.copy_(original._has_been_pre_fit)
    return model.to(original.device).train(original.training)
