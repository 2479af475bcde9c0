"""Neighbour lists, of one structure or of many."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from graph_pes.tensors import determinant_3x3

from .bins import Bins

#: Molecules that reach further, in units of the cutoff, are too large for vesin, which crashes.
FAR = 100.0

#: Pairs (2, E) and lattice translations (E, 3), in any order.
Pairs = tuple[Tensor, Tensor]


def neighbour_list(R: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Pairs:
    """All pairs of atoms closer than a cutoff, images of an atom itself included.

    Computed by vesin, on the device that the positions are on.

    Parameters
    ----------
    R
        Positions in Å, shape (N, 3).
    cell
        Lattice vectors as rows, in Å, shape (3, 3).
    pbc
        Periodic directions, booleans of shape (3,).
    cutoff
        In Å.

    Returns
    -------
    tuple[Tensor, Tensor]
        The pairs (i, j), shape (2, E), int64, sorted by i; and the lattice translation of
        each j, shape (E, 3), in the dtype of ``R``.

    Raises
    ------
    ValueError
        If positions or lattice vectors are not finite, two atoms are at the same place, a
        periodic direction has no lattice vector, the lattice vectors are not independent, or
        the cutoff is negative or not finite.
    """
    same = torch.zeros(R.shape[0], dtype=torch.long, device=R.device)
    return neighbour_lists(R, cell.unsqueeze(0), pbc.unsqueeze(0), same, cutoff)


def neighbour_lists(R: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float) -> Pairs:
    """All pairs of atoms closer than a cutoff, of each structure of a batch.

    As `neighbour_list`; on a GPU, those of all structures are found at once.

    Parameters
    ----------
    R
        Positions in Å, shape (N, 3).
    cell
        Lattice vectors as rows, in Å, shape (S, 3, 3).
    pbc
        Periodic directions, booleans of shape (S, 3).
    batch
        The structure of each atom, shape (N,), in ascending order.
    cutoff
        In Å.

    Returns
    -------
    tuple[Tensor, Tensor]
        As `neighbour_list`.

    Raises
    ------
    ValueError
        As `neighbour_list`; the message names the structure if there are several.

    Examples
    --------
    >>> R, batch = torch.zeros(2, 3), torch.tensor([0, 1])
    >>> cell = torch.stack([2.0 * torch.eye(3), 3.0 * torch.eye(3)])
    >>> pairs, translations = neighbour_lists(R, cell, torch.ones(2, 3).bool(), batch, 2.5)
    >>> pairs
    tensor([[0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0]])
    """
    if not 0 <= cutoff < math.inf:
        raise ValueError(f"expected a cutoff of at least 0 Å, got {cutoff}")
    cells = _checked_cells(R, cell, pbc, batch)
    if R.shape[0] == 0 or cutoff == 0:
        return R.new_zeros((2, 0), dtype=torch.long), R.new_zeros(0, 3)
    positions = R.detach().double()
    if R.is_cuda and cell.shape[0] > 1:
        pairs, offsets = Bins(positions, cells, pbc, batch, cutoff).all_pairs()
    else:
        found = list(_one_by_one(positions, cells, pbc, batch, cutoff))
        pairs = torch.cat([pairs for pairs, _ in found], dim=1)
        offsets = torch.cat([offsets for _, offsets in found])
    i, j = pairs
    offsets = offsets.to(R.dtype)
    _check_apart(R, cell, batch, pairs, offsets)
    order = torch.argsort(i, stable=True)
    return torch.stack([i[order], j[order]]), offsets[order]


def _one_by_one(
    R: Tensor, cells: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> Iterator[Pairs]:
    """Pairs in one structure after the other."""
    find = _vesin_on_device if R.is_cuda else _vesin_on_cpu
    start = 0
    for n, size in enumerate(torch.bincount(batch, minlength=len(cells)).tolist()):
        x, cell, periodic = R[start : start + size], cells[n], pbc[n]
        if size > 0:
            if not periodic.all() and (x.amax(0) - x.amin(0)).max() > FAR * cutoff:
                one = torch.zeros_like(batch[:size])
                bins = Bins(x, cell.unsqueeze(0), periodic.unsqueeze(0), one, cutoff)
                pairs, offsets = bins.all_pairs()
            else:
                i, j, offsets = find(x, cell, periodic, float(cutoff))
                pairs = torch.stack([i, j])
            yield pairs + start, offsets
        start += size


def _check_apart(R: Tensor, cell: Tensor, batch: Tensor, pairs: Tensor, offsets: Tensor) -> None:
    i, j = pairs
    if cell.shape[0] == 1:
        shifts = offsets @ cell[0].to(offsets.dtype)
    else:
        rows = cell.to(offsets.dtype).index_select(0, batch.index_select(0, i))
        shifts = (offsets.unsqueeze(1) @ rows).squeeze(1)
    together = (R[j] - R[i] + shifts).norm(dim=-1) == 0
    if together.any():
        first = int(together.nonzero()[0])
        n = int(batch[i[first]])
        start = int((batch < n).sum())
        raise ValueError(
            f"{_in_batch(n, cell)}atoms {int(i[first]) - start} and {int(j[first]) - start} (or a "
            "periodic image) are at the same place"
        )


def _vesin_on_cpu(
    R: Tensor, cell: Tensor, pbc: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    import vesin

    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True)
    i, j, offsets = calculator.compute(
        R.numpy(), cell.numpy(), pbc.tolist(), quantities="ijS", copy=True
    )
    return (
        torch.from_numpy(i.astype("int64")),
        torch.from_numpy(j.astype("int64")),
        torch.from_numpy(offsets.astype("int64")),
    )


def _vesin_on_device(
    R: Tensor, cell: Tensor, pbc: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    try:
        from vesin_torch import NeighborList
    except ImportError as error:
        raise ImportError(
            "Neighbour lists on a GPU need vesin-torch: pip install 'graph-pes[gpu]'"
        ) from error
    calculator = NeighborList(cutoff=cutoff, full_list=True)
    i, j, offsets = calculator.compute(R, cell, pbc, "ijS")
    return i.long(), j.long(), offsets


def _checked_cells(R: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> Tensor:
    """Cells (S, 3, 3) in double precision, in which images along all directions can be counted.

    Directions that are not periodic get a unit vector that is normal to the others; cells
    without any periodic direction become zero.

    Parameters
    ----------
    R, cell, pbc, batch
        Of a batch: shapes (N, 3), (S, 3, 3), (S, 3) and (N,).

    Raises
    ------
    ValueError
        If positions or cells are not finite, a periodic direction has no lattice vector, or
        lattice vectors are not independent; the message names the structure of several.
    """
    finite = torch.isfinite(R).all(-1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        n = int(batch[bad])
        atom = bad - int((batch < n).sum())
        raise ValueError(
            f"{_in_batch(n, cell)}positions must be finite, but atom {atom} is at {R[bad].tolist()}"
        )
    cell = torch.where(pbc.unsqueeze(-1), cell, 0).double()
    if not torch.isfinite(cell).all():
        n = int((~torch.isfinite(cell)).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"{_in_batch(n, cell)}lattice vectors must be finite, but are {cell[n].tolist()}"
        )
    missing = (cell == 0).all(-1) & pbc
    if missing.any():
        n, axis = missing.nonzero()[0].tolist()
        raise ValueError(
            f"{_in_batch(n, cell)}the structure is periodic along {'abc'[axis]}, but that lattice "
            "vector is zero: set the cell, or switch off periodic boundary conditions "
            f"(pbc={pbc[n].tolist()})"
        )
    for n in (pbc.any(1) & ~pbc.all(1)).nonzero()[:, 0].tolist():
        periodic = cell[n, pbc[n]]
        # Any vectors that are independent of the periodic ones do: no image along them counts.
        cell[n, ~pbc[n]] = torch.linalg.svd(periodic, full_matrices=True).Vh[len(periodic) :]
    flat = determinant_3x3(cell).abs() < 1e-9 * cell.norm(dim=-1).prod(-1)
    if (flat & pbc.any(1)).any():
        n = int((flat & pbc.any(1)).nonzero()[0])
        raise ValueError(
            f"{_in_batch(n, cell)}the structure is periodic, but its cell has zero volume (its "
            f"lattice vectors are not independent): {cell[n].tolist()}"
        )
    return cell


def _in_batch(n: int, cell: Tensor) -> str:
    return f"structure {n} of the batch: " if cell.shape[0] > 1 else ""
