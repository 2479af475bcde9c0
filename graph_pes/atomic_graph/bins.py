"""Pairs of near atoms, found for many structures at once by operations on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

#: Atoms are paired off in blocks of about so many candidates, which bounds memory.
BLOCK = 2**24


class Bins:
    """The atoms of a batch, sorted into bins of each structure.

    Parameters
    ----------
    R, cell, pbc, batch, cutoff
        As for `neighbour_lists`, in double precision; lattice vectors along directions that are not
        periodic are unit vectors normal to the others, or zero if there are no others.

    Examples
    --------
    >>> R, batch = torch.zeros(2, 3).double(), torch.tensor([0, 1])
    >>> cell = torch.stack([2.0 * torch.eye(3), 3.0 * torch.eye(3)]).double()
    >>> pairs, translations = Bins(R, cell, torch.ones(2, 3).bool(), batch, 2.5).all_pairs()
    >>> pairs
    tensor([[0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0]])
    """

    def __init__(self, R: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float):
        cell = torch.where(pbc.any(1).view(-1, 1, 1), cell, torch.eye(3).to(cell))
        self.R, self.cell, self.pbc, self.batch, self.cutoff = R, cell, pbc, batch, cutoff
        inverse = torch.linalg.inv(cell)
        s = (R.unsqueeze(1) @ inverse[batch]).squeeze(1)
        periodic = pbc[batch]
        self.wrapping = torch.where(periodic, s.floor(), 0)
        s = s - self.wrapping
        lowest, highest = _extremes(s, batch, cell.shape[0])
        start = torch.where(pbc, 0, lowest)
        length = torch.where(pbc, 1, highest - lowest)
        # The distance between opposite faces; along other directions, vectors have length 1.
        heights = length / inverse.norm(dim=1)
        # No more bins than atoms, roughly, however far apart these are.
        most = torch.bincount(batch, minlength=cell.shape[0]).double().pow(1 / 3).ceil() * 2
        self.number = (heights / cutoff).floor().clamp(min=1).minimum(most.unsqueeze(1)).long()
        width = heights / self.number
        reach = (cutoff / width.clamp(min=1e-9)).ceil()
        self.reach = torch.where(pbc, reach, reach.clamp(max=self.number - 1)).long()
        place = ((s - start[batch]) / length[batch].clamp(min=1e-9) * self.number[batch]).long()
        self.place = place.minimum(self.number[batch] - 1)
        per_structure = self.number.prod(1)
        self.first = per_structure.cumsum(0) - per_structure
        bins = self._index(self.place, batch)
        self.order = torch.argsort(bins, stable=True)
        self.counts = torch.bincount(bins, minlength=int(per_structure.sum()))
        self.starts = self.counts.cumsum(0) - self.counts

    def _index(self, place: Tensor, structure: Tensor) -> Tensor:
        """Number of the bin at a place (..., 3) of a structure."""
        _, b, c = self.number[structure].unbind(-1)
        return self.first[structure] + (place[..., 0] * b + place[..., 1]) * c + place[..., 2]

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """Pairs (2, E) of atoms within the cutoff, and lattice translations (E, 3)."""
        found = [self._pairs(atoms) for atoms in self._blocks()]
        return torch.cat([pairs for pairs, _ in found], dim=1), torch.cat([t for _, t in found])

    def _blocks(self) -> list[Tensor]:
        """Atoms, a few at a time, such that their candidates fit into memory."""
        around = (2 * self.reach + 1).prod(1)
        # As many candidates as if all bins of a structure held as many as the fullest.
        fullest = int(self.counts.max())
        size = max(1, BLOCK // (int(around.max()) * fullest))
        return list(torch.arange(len(self.R), device=self.R.device).split(size))

    def _pairs(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a few atoms and their neighbours."""
        sides = 2 * self.reach[self.batch[atoms]] + 1
        i, step = _spread(atoms, sides.prod(1))
        n = self.batch[i]
        _, b, c = (2 * self.reach[n] + 1).unbind(1)
        steps = torch.stack([step // (b * c), step // c % b, step % c], dim=1) - self.reach[n]
        place, number = self.place[i] + steps, self.number[n]
        image = torch.div(place, number, rounding_mode="floor")
        place = place - image * number
        inside = ((image == 0) | self.pbc[n]).all(1).nonzero()[:, 0]
        i, image, bins = i[inside], image[inside], self._index(place[inside], n[inside])
        row, k = _spread(torch.arange(len(i), device=i.device), self.counts[bins])
        i, image = i[row], image[row]
        j = self.order[self.starts[bins[row]] + k]
        # From atoms within the cell to atoms where they are.
        translation = image + self.wrapping[i] - self.wrapping[j]
        shift = (translation.unsqueeze(1) @ self.cell[self.batch[i]]).squeeze(1)
        squares = (self.R[j] - self.R[i] + shift).square().sum(1)
        near = (squares <= self.cutoff**2) & ((i != j) | (translation != 0).any(1))
        return torch.stack([i, j])[:, near], translation[near]


def _spread(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each value of ``x`` so many times, and 0, 1, 2 … for each of its repetitions."""
    repeated = torch.repeat_interleave(x, counts)
    first = counts.cumsum(0) - counts
    k = torch.arange(len(repeated), device=x.device) - torch.repeat_interleave(first, counts)
    return repeated, k


def _extremes(s: Tensor, batch: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest coordinates (S, 3) in each structure."""
    index = batch.unsqueeze(1).expand_as(s)
    empty = s.new_zeros(S, 3)
    lowest = empty.scatter_reduce(0, index, s, "amin", include_self=False)
    return lowest, empty.scatter_reduce(0, index, s, "amax", include_self=False)
