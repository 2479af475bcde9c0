"""Batches of graphs, in an order that depends on nothing but seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from graph_pes.atomic_graph import AtomicGraph, to_batch

from .datasets import GraphDataset

#: Arguments of torch's loader that only make sense where there are worker processes.
_FOR_WORKERS: Final[tuple[str, ...]] = (
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
)


class EpochSampler(Sampler[tuple[int, int]]):
    """The items that one of several processes draws in an epoch, with a seed for each.

    All processes share one order of the data, fixed by seed and epoch, and deal it out in
    turns. So batch b of all of them together, with B items each, holds the same items as
    batch b of a single process with batches of ``n_ranks * B``.

    Parameters
    ----------
    length
        Number of items in the data set.
    seed
        Fixes the order and the seeds of the items.
    shuffle
        Whether the order changes from epoch to epoch, or is 0, 1, 2, ...
    rank
        Which of the processes this is.
    n_ranks
        Number of processes.
    pad
        Begin again at the start of the order until all processes have equally many items.

    Yields
    ------
    tuple[int, int]
        Index of an item, and a seed that depends on the sampler's seed, the epoch and the
        index alone.

    Raises
    ------
    ValueError
        If there is nothing to sample, or no such rank.

    Examples
    --------
    >>> sampler = EpochSampler(5, seed=0, shuffle=False, rank=1, n_ranks=2)
    >>> [index for index, item_seed in sampler]
    [1, 3, 0]
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        n_ranks: int = 1,
        pad: bool = True,
    ):
        if length < 1:
            raise ValueError("EpochSampler: expected at least one item to sample from, got none")
        if not 0 <= rank < n_ranks:
            raise ValueError(
                f"EpochSampler: expected 0 <= rank < n_ranks, got rank={rank}, n_ranks={n_ranks}"
            )
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.n_ranks, self.pad = rank, n_ranks, pad
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; without this, each pass is one epoch further."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        entropy = np.random.SeedSequence([self.seed % 2**64, self.epoch])
        self.epoch += 1
        generator = torch.Generator()
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        seeds = torch.randint(2**62, (self.length,), generator=generator)
        if self.shuffle:
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.arange(self.length)
        mine = order[[turn % self.length for turn in self._turns]]
        return zip(mine.tolist(), seeds[mine].tolist(), strict=True)

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def _turns(self) -> range:
        """Places of this process's items in the order, counted on where that begins again."""
        dealt = -(-self.length // self.n_ranks) * self.n_ranks if self.pad else self.length
        return range(self.rank, dealt, self.n_ranks)


class SeededItems(Dataset[AtomicGraph]):
    """A data set whose items are drawn with a random seed of their own.

    So a random transform gives the same result whatever process it is applied in and whatever
    came before. Torch's generator on the CPU is set for the time of the draw and then put
    back; other sources of random numbers are not touched.

    Parameters
    ----------
    dataset
        The data set.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = AtomicGraph.from_ase(molecule("H2O"), cutoff=3.0)
    >>> items = SeededItems(GraphDataset([water], transform="random_rotation"))
    >>> torch.equal(items[0, 42].R, items[0, 42].R)
    True
    """

    def __init__(self, dataset: GraphDataset):
        self.dataset = dataset

    def __getitem__(self, item: int | tuple[int, int]) -> AtomicGraph:
        if not isinstance(item, tuple):
            return self.dataset[item]  # from a sampler that gives no seeds
        index, seed = item
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also restart the generators of GPUs
            torch.default_generator.manual_seed(seed)
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass(frozen=True)
class BatchGraphs:
    """The function that makes a batch from graphs, and triplets where they are asked for.

    Attributes
    ----------
    three_body_cutoff
        In Å, see `to_batch`.
    """

    three_body_cutoff: float | None

    def __call__(self, graphs: Sequence[AtomicGraph]) -> AtomicGraph:
        """One graph from many."""
        return to_batch(graphs, self.three_body_cutoff)


class GraphDataLoader(DataLoader[AtomicGraph]):
    """Batches of the graphs of a data set.

    Which graphs a batch holds, and how they were transformed, depends on the seed and the
    epoch alone, not on the number of workers or on what was drawn before. Each pass over the
    loader is one epoch further, unless ``loader.sampler.set_epoch`` is called before it, as
    PyTorch Lightning does.

    Parameters
    ----------
    dataset
        A data set, or a sequence of graphs.
    batch_size
        Number of structures in a batch (for each process, where there are several).
    shuffle
        Whether to bring the structures into a new random order in each epoch.
    three_body_cutoff
        If given, triplets of edges up to this distance, in Å, are found here.
    seed
        Fixes the order and the random numbers that transforms draw.
    rank, n_ranks, pad
        Which share of each epoch is this process's, see `EpochSampler`.
    **kwargs
        Passed to `torch.utils.data.DataLoader`. Those that only matter for workers are left
        out if ``num_workers`` is 0. With a ``sampler`` of one's own, order and random numbers
        are up to that.

    Raises
    ------
    ValueError
        If a ``collate_fn`` is passed, or a sampler together with ``shuffle``; if there are no
        graphs, or too few for a single batch with ``drop_last``.

    Examples
    --------
    >>> from ase.build import molecule
    >>> graphs = [AtomicGraph.from_ase(molecule(m), cutoff=2.0) for m in ("H2O", "CH4", "NH3")]
    >>> for batch in GraphDataLoader(graphs, batch_size=2):
    ...     print(batch)
    AtomicGraphBatch(structures=2, atoms=8, edges=26, has_cell=False, cutoff=2.0)
    AtomicGraphBatch(structures=1, atoms=4, edges=12, has_cell=False, cutoff=2.0)
    """

    def __init__(
        self,
        dataset: GraphDataset | SeededItems | Sequence[AtomicGraph],
        batch_size: int = 1,
        shuffle: bool = False,
        three_body_cutoff: float | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
        n_ranks: int = 1,
        pad: bool = True,
        **kwargs: Any,
    ):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size should be a positive whole number, got {batch_size!r}")
        # For some purposes Lightning makes a new loader from an old one's attributes:
        # these two are then ours.
        if isinstance(dataset, SeededItems):
            dataset = dataset.dataset
        if not isinstance(kwargs.pop("collate_fn", None), BatchGraphs | None):
            raise ValueError("GraphDataLoader makes batches with to_batch: don't pass a collate_fn")
        if not isinstance(dataset, GraphDataset):
            dataset = GraphDataset(dataset)
        sampler = kwargs.pop("sampler", None)
        if sampler is not None and shuffle:
            raise ValueError("expected either a sampler or shuffle=True, got both")
        if sampler is None:
            sampler = EpochSampler(len(dataset), seed, shuffle, rank, n_ranks, pad)
            if kwargs.get("drop_last") and len(sampler) < batch_size:
                raise ValueError(
                    f"drop_last leaves nothing: {len(sampler)} structures don't fill a batch of "
                    f"{batch_size}"
                )
        if kwargs.get("num_workers", 0) == 0:
            kwargs = {key: value for key, value in kwargs.items() if key not in _FOR_WORKERS}
        self.three_body_cutoff = three_body_cutoff
        super().__init__(
            SeededItems(dataset),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=BatchGraphs(three_body_cutoff),
            **kwargs,
        )
