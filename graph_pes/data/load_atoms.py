"""Public data sets through the package load-atoms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from graph_pes.atomic_graph import PropertyKey

from .datasets import ASEToGraphDataset, DatasetCollection
from .selection import Selection, check_count, shuffled_indices
from .transforms import Transform

if TYPE_CHECKING:
    import ase


def load_atoms_dataset(
    id: str | os.PathLike[str],
    cutoff: float,
    n_train: int,
    n_valid: int,
    n_test: int | None = None,
    split: Literal["random", "sequential"] = "random",
    seed: int = 42,
    pre_transform: bool = True,
    property_map: Mapping[str, PropertyKey] | None = None,
    others_to_include: Sequence[str] | None = None,
    transform: Transform | str | None = None,
) -> DatasetCollection:
    """Training, validation and test sets from one of the data sets of load-atoms.

    The data set is downloaded on first use, and needs ``pip install 'graph-pes[load-atoms]'``.

    Parameters
    ----------
    id
        Name of a data set of `load-atoms <https://jla-gardner.github.io/load-atoms/>`__, such
        as ``"QM9"``, or the path of a file.
    cutoff
        List neighbours up to this distance, in Å.
    n_train, n_valid, n_test
        Sizes of the sets, which share no structure. Without ``n_test`` there is no test set.
    split
        ``"random"``: shuffle before the structures are dealt to the sets in this order;
        ``"sequential"``: keep their order.
    seed
        Fixes the random order.
    pre_transform, property_map, others_to_include, transform
        As for `file_dataset`. The transform applies to all sets.

    Raises
    ------
    ImportError
        If load-atoms is not installed.
    ValueError
        If the data set is unknown or can't be downloaded, or is smaller than the sets
        together.
    """
    sizes = {"n_train": n_train, "n_valid": n_valid}
    if n_test is not None:
        sizes["n_test"] = n_test
    for name, n in sizes.items():
        check_count(name, n)
    if split not in ("random", "sequential"):
        raise ValueError(f"split should be 'random' or 'sequential', got {split!r}")
    structures = _load(id)
    if sum(sizes.values()) > len(structures):
        raise ValueError(
            f"{id} holds {len(structures)} structures, but "
            f"{' + '.join(sizes)} = {sum(sizes.values())} were asked for"
        )
    shuffled = split == "random"
    indices = shuffled_indices(len(structures), seed) if shuffled else range(len(structures))

    def dataset(start: int, n: int) -> ASEToGraphDataset:
        return ASEToGraphDataset(
            Selection(structures, indices[start : start + n], source=str(id)),
            cutoff,
            pre_transform=pre_transform,
            property_mapping=property_map,
            others_to_include=others_to_include,
            transform=transform,
        )

    return DatasetCollection(
        train=dataset(0, n_train),
        valid=dataset(n_train, n_valid),
        test=None if n_test is None else dataset(n_train + n_valid, n_test),
    )


def _load(id: str | os.PathLike[str]) -> Sequence[ase.Atoms]:
    try:
        from load_atoms import load_dataset
    except ImportError as error:
        raise ImportError(
            "load_atoms_dataset needs load-atoms: pip install 'graph-pes[load-atoms]'"
        ) from error
    try:
        return load_dataset(id)
    except Exception as error:
        raise ValueError(
            f"load-atoms could not load {str(id)!r}: {type(error).__name__}: {error}. Check the "
            "name; a data set that has not been used on this machine before is downloaded, "
            "which needs a connection to the internet"
        ) from error
