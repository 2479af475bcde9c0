"""Data sets from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graph_pes.atomic_graph import HEAD, LOSS_WEIGHT, PropertyKey, head_number

from .ase_database import DATABASE_SUFFIXES, ASEDatabase, existing_file, unreadable
from .datasets import ASEToGraphDataset
from .selection import Selection, check_count, shuffled_indices
from .transforms import Transform, WithOthers, parse_transform

if TYPE_CHECKING:
    import ase


def file_dataset(
    path: str | os.PathLike[str],
    cutoff: float,
    n: int | None = None,
    shuffle: bool = True,
    seed: int = 42,
    pre_transform: bool = True,
    property_map: Mapping[str, PropertyKey] | None = None,
    others_to_include: Sequence[str] | None = None,
    transform: Transform | str | None = None,
    loss_weight: float | None = None,
    head: str | None = None,
) -> ASEToGraphDataset:
    """The structures of a file as a data set.

    Parameters
    ----------
    path
        An extended XYZ file (``.xyz``, ``.extxyz``, also compressed as ``.gz``), any other
        file that ASE reads, or an ASE database (``.db``, ``.json``, ``.aselmdb``, see
        `ASEDatabase`).
    cutoff
        List neighbours up to this distance, in Å.
    n
        How many structures to take; all by default.
    shuffle
        Whether to bring the structures into random order before ``n`` of them are taken.
    seed
        Fixes that order.
    pre_transform
        Make all graphs once and keep them in memory, rather than on every access.
    property_map
        Names of labels in the file: ``{"REF_energy": "energy", "REF_forces": "forces"}``. A
        structure without one of them is an error. By default energy, forces, stress, virial
        and tensor are taken from those structures that have them.
    others_to_include
        Further entries of the file to keep in ``graph.other``; by default total_charge and
        total_spin.
    transform
        ``"random_rotation"``, or any function from graph to graph.
    loss_weight
        What errors of these structures are multiplied by in the loss, 1 by default. To give each
        structure its own, name an entry ``loss_weight`` of the file in ``others_to_include``.
    head
        Name of the head of a `MultiHead` model that these structures belong to; likewise.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the weight is negative, or if the file can't be read, is empty or holds fewer than
        ``n`` structures. Later, when graphs are made, if a structure is not as it should be; it
        is named by the file and its index there, counting from 0.

    Examples
    --------
    >>> import tempfile, ase.io
    >>> from ase.build import molecule
    >>> path = tempfile.mkdtemp() + "/molecules.xyz"
    >>> ase.io.write(path, [molecule("H2O"), molecule("CH4"), molecule("NH3")])
    >>> dataset = file_dataset(path, cutoff=3.0, n=2, shuffle=False)
    >>> dataset.setup()
    >>> dataset[1]
    AtomicGraph(atoms=5, edges=20, has_cell=False, cutoff=3.0)
    """
    path = existing_file(path)
    if loss_weight is not None and not loss_weight >= 0:
        raise ValueError(f"loss_weight: expected a number that is not negative, got {loss_weight}")
    if n is not None:
        check_count("n", n)
    structures = _read(path, at_most=None if shuffle else n)
    if n is not None and n > len(structures):
        raise ValueError(f"{path} holds {len(structures)} structures, but n = {n} were asked for")
    indices = shuffled_indices(len(structures), seed) if shuffle else range(len(structures))
    return ASEToGraphDataset(
        Selection(structures, indices[:n], source=str(path)),
        cutoff,
        pre_transform=pre_transform,
        property_mapping=property_map,
        others_to_include=others_to_include,
        transform=_with_others(parse_transform(transform), loss_weight, head),
    )


def _with_others(transform: Transform, loss_weight: float | None, head: str | None) -> Transform:
    """The transform, and what is the same for all structures."""
    others: dict[str, Tensor] = {}
    if loss_weight is not None:
        others[LOSS_WEIGHT] = torch.tensor(float(loss_weight))
    if head is not None:
        others[HEAD] = torch.tensor(head_number(head))
    return WithOthers(transform, others) if others else transform


def _read(path: Path, at_most: int | None) -> Sequence[ase.Atoms]:
    """At least one structure, and ``at_most`` of them where a file is read from its start."""
    structures: Sequence[ase.Atoms]
    if path.suffix in DATABASE_SUFFIXES:
        structures = ASEDatabase(path)
    else:
        import ase.io

        try:
            frames = ase.io.iread(str(path), index=slice(0, at_most), do_not_split_by_at_sign=True)
            structures = list(frames)
        except Exception as error:
            raise unreadable(path, error) from error
    if len(structures) == 0:
        raise ValueError(f"{path} is empty: it holds no structures")
    return structures
