"""Parts of a model that are there several times, once for each head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graph_pes.atomic_graph import HEAD, AtomicGraph, head_number


class Heads(nn.Module):
    """The names of heads, and which of them each structure belongs to.

    Parameters
    ----------
    names
        At least one name, each once.

    Raises
    ------
    ValueError
        If there are none, one occurs twice, or can't be that of a part of a torch module.

    Examples
    --------
    >>> heads = Heads(["PBE", "xTB"])
    >>> heads.names
    ['PBE', 'xTB']
    """

    numbers: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = [] if isinstance(names, str) else list(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"heads: expected a list of different names, got {names!r}")
        for name in self.names:
            if not name or "." in name or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"heads: a head can't be called {name!r}: expected a name without dots that is "
                    "not one of an attribute of torch modules, such as 'train' or 'type'"
                )
        numbers = torch.tensor([head_number(name) for name in self.names])
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Which head each atom belongs to: a mask of shape (N, H).

        Raises
        ------
        ValueError
            If the structures do not say so.
        """
        if HEAD not in graph.other:
            raise ValueError(
                f"the structures name no head, but the model has {self.names}: give the data a "
                f"head, or choose one by select_head(model, {self.names[0]!r})"
            )
        of_structures = graph.other[HEAD].reshape(-1)
        if graph.batch is None:
            of_atoms = of_structures.expand(graph.Z.shape[0])
        else:
            of_atoms = of_structures.index_select(0, graph.batch)
        return of_atoms.unsqueeze(1) == self.numbers

    def check(self, graph: AtomicGraph) -> None:
        """Make sure that the structures of a graph name heads that there are.

        Raises
        ------
        ValueError
            Naming the first one that does not.
        """
        if HEAD not in graph.other:
            return
        known = torch.isin(graph.other[HEAD].reshape(-1), self.numbers)
        if not known.all():
            raise ValueError(
                f"structure {int((~known).nonzero()[0])} belongs to a head that the model does not "
                f"have: it has {self.names}"
            )


@dataclass
class Selection:
    """Which head each atom belongs to, while a model is called: shape (N, H)."""

    mask: Tensor | None = None


class PerHead(nn.Module):
    """A module, called on atoms, with a copy for each head.

    Every copy is called on all atoms, of which each gets the result of its own head.

    Parameters
    ----------
    module
        What is copied. Its results are tensors (N, ...), or containers of these.
    names
        Of the heads.
    selection
        Which head each atom belongs to when this is called.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], selection: Selection):
        super().__init__()
        self.heads = nn.ModuleDict({name: copy.deepcopy(module) for name in names})
        self._selection = selection

    def forward(self, *args: Any) -> Any:
        """What the copies give for the atoms of their head."""
        assert self._selection.mask is not None
        masks = self._selection.mask.unbind(1)
        return _chosen([head(*args) for head in self.heads.values()], masks)


def _chosen(results: Sequence[Any], masks: Sequence[Tensor]) -> Any:
    """Of several results, in the same containers, the rows that masks (N,) say."""
    first = results[0]
    if isinstance(first, dict):
        return {key: _chosen([result[key] for result in results], masks) for key in first}
    if isinstance(first, list | tuple):
        return [_chosen(parts, masks) for parts in zip(*results, strict=True)]
    total = torch.zeros_like(first)
    for result, mask in zip(results, masks, strict=True):
        total = torch.where(mask.view(-1, *[1] * (result.dim() - 1)), result, total)
    return total
