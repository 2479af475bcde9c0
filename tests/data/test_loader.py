"""The loader, and the laws of the order in which it draws."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from ase.build import molecule
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import SequentialSampler

from graph_pes import AtomicGraph
from graph_pes.atomic_graph import number_of_structures, replace, to_batch, triplet_edges
from graph_pes.atomic_graph.graph import TRIPLET_EDGES
from graph_pes.data import GraphDataLoader, GraphDataset
from graph_pes.data.loader import EpochSampler, SeededItems

NAMES = ("H2O", "CH4", "NH3", "CO2", "C2H2", "C6H6", "CH3CH2OH")


def graphs(n: int = len(NAMES)) -> list[AtomicGraph]:
    molecules = [AtomicGraph.from_ase(molecule(NAMES[k % len(NAMES)]), 3.0) for k in range(n)]
    return [replace(g, other={"number": torch.tensor(k)}) for k, g in enumerate(molecules)]


def numbers(loader: GraphDataLoader) -> list[list[int]]:
    return [batch.other["number"].tolist() for batch in loader]


def positions(loader: GraphDataLoader, epoch: int) -> list[torch.Tensor]:
    loader.sampler.set_epoch(epoch)
    return [batch.R for batch in loader]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- batches -----------------------------------------------------------------------------


def test_batches_are_to_batch_of_the_graphs():
    data = graphs()
    batches = list(GraphDataLoader(data, batch_size=3))
    assert [number_of_structures(b) for b in batches] == [3, 3, 1]
    for k, batch in enumerate(batches):
        expected = to_batch(data[3 * k : 3 * k + 3])
        for field in ("Z", "R", "neighbour_list", "neighbour_cell_offsets", "batch", "ptr"):
            assert torch.equal(getattr(batch, field), getattr(expected, field))


def test_triplets_are_found_in_the_loader():
    (batch,) = GraphDataLoader(graphs(), batch_size=7, three_body_cutoff=1.5)
    plain = to_batch(graphs())
    assert torch.equal(batch.other[TRIPLET_EDGES], triplet_edges(plain, 1.5))
    assert batch.other[TRIPLET_EDGES].shape[1] > 0


def test_order_without_shuffling_is_that_of_the_data():
    loader = GraphDataLoader(graphs(), batch_size=2)
    for _ in range(2):
        assert numbers(loader) == [[0, 1], [2, 3], [4, 5], [6]]
    assert len(loader) == 4


def test_drop_last():
    loader = GraphDataLoader(graphs(), batch_size=2, drop_last=True)
    assert numbers(loader) == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="drop_last leaves nothing: 7 structures don't fill"):
        GraphDataLoader(graphs(), batch_size=8, drop_last=True)


# --- arguments ---------------------------------------------------------------------------


def test_arguments_for_workers_are_dropped_where_there_are_none():
    loader = GraphDataLoader(
        graphs(),
        batch_size=4,
        num_workers=0,
        persistent_workers=True,
        prefetch_factor=2,
        pin_memory=False,
    )
    assert numbers(loader) == [[0, 1, 2, 3], [4, 5, 6]]


def test_arguments_for_workers_are_kept_where_there_are_some():
    loader = GraphDataLoader(
        graphs(), batch_size=4, num_workers=1, persistent_workers=True, prefetch_factor=3
    )
    assert loader.persistent_workers
    assert loader.prefetch_factor == 3
    for _ in range(2):
        assert numbers(loader) == [[0, 1, 2, 3], [4, 5, 6]]


def test_collate_fn_is_refused():
    with pytest.raises(ValueError, match="don't pass a collate_fn"):
        GraphDataLoader(graphs(), collate_fn=list)


@pytest.mark.parametrize("batch_size", [0, -1, None, 2.0, True])
def test_bad_batch_sizes(batch_size: object):
    with pytest.raises(ValueError, match="batch_size should be a positive whole number"):
        GraphDataLoader(graphs(), batch_size=batch_size)  # type: ignore[arg-type]


def test_no_graphs():
    with pytest.raises(ValueError, match="the data set is empty"):
        GraphDataLoader([])


def test_own_sampler():
    loader = GraphDataLoader(graphs(), batch_size=2, sampler=[5, 3, 1])
    assert numbers(loader) == [[5, 3], [1]]
    with pytest.raises(ValueError, match="either a sampler or shuffle=True"):
        GraphDataLoader(graphs(), shuffle=True, sampler=[5, 3, 1])


def test_a_loader_may_be_made_from_the_parts_of_another():
    loader = GraphDataLoader(graphs(), batch_size=2, three_body_cutoff=1.5)
    again = GraphDataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        three_body_cutoff=loader.three_body_cutoff,
        sampler=SequentialSampler(loader.dataset),
    )
    assert numbers(again) == numbers(loader)
    assert isinstance(again.dataset.dataset, GraphDataset)
    assert TRIPLET_EDGES in next(iter(again)).other


# --- the order of an epoch ---------------------------------------------------------------

lengths = st.integers(1, 40)
seeds = st.integers(0, 2**40) | st.just(-1)
epochs = st.integers(0, 1000)


def draw(sampler: EpochSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


@given(lengths, seeds, epochs)
def test_an_epoch_is_a_fixed_permutation(length: int, seed: int, epoch: int):
    drawn = draw(EpochSampler(length, seed, shuffle=True), epoch)
    assert sorted(index for index, _ in drawn) == list(range(length))
    assert drawn == draw(EpochSampler(length, seed, shuffle=True), epoch)


def test_epochs_and_seeds_differ():
    orders = {
        tuple(draw(EpochSampler(20, seed, shuffle=True), epoch))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25
    assert len({tuple(index for index, _ in order) for order in orders}) == 25


def test_every_place_is_equally_likely():
    n, length = 3000, 6
    sampler = EpochSampler(length, seed=3, shuffle=True)
    counts = torch.zeros(length, length)
    for epoch in range(n):
        for place, (index, _) in enumerate(draw(sampler, epoch)):
            counts[place, index] += 1
    expected = n / length
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 52.6  # (6 - 1)^2 = 25 degrees of freedom, p = 0.001


@given(
    length=lengths,
    n_ranks=st.integers(1, 5),
    batch_size=st.integers(1, 5),
    shuffle=st.booleans(),
    epoch=epochs,
    pad=st.booleans(),
)
def test_ranks_together_draw_the_batches_of_one_process(
    length: int, n_ranks: int, batch_size: int, shuffle: bool, epoch: int, pad: bool
):
    def batches(rank: int, n: int, size: int) -> list[list[tuple[int, int]]]:
        drawn = draw(EpochSampler(length, 1, shuffle, rank, n, pad), epoch)
        return [drawn[k : k + size] for k in range(0, len(drawn), size)]

    alone = batches(0, 1, n_ranks * batch_size)
    shares = [batches(rank, n_ranks, batch_size) for rank in range(n_ranks)]
    for b, expected in enumerate(alone):
        together = [item for share in shares if b < len(share) for item in share[b]]
        missing = len(together) - len(expected)
        if b < len(alone) - 1 or not pad:
            assert sorted(together) == sorted(expected)
        else:  # the last batch is filled up with the first items of the epoch
            first = [item for batch in alone for item in batch]
            filling = [first[k % length] for k in range(missing)]
            assert 0 <= missing < n_ranks
            assert sorted(together) == sorted(expected + filling)
    sizes = {sum(map(len, share)) for share in shares}
    assert sum(sum(map(len, share)) for share in shares) >= length
    if pad:
        assert len(sizes) == 1
    else:
        assert max(sizes) - min(sizes) <= 1


@given(lengths, st.integers(1, 4), epochs, st.booleans())
def test_seeds_of_items_depend_on_seed_epoch_and_index_alone(
    length: int, n_ranks: int, epoch: int, shuffle: bool
):
    reference = dict(draw(EpochSampler(length, 4, shuffle=False), epoch))
    assert len(set(reference.values())) == length
    for rank in range(n_ranks):
        for index, seed in draw(EpochSampler(length, 4, shuffle, rank, n_ranks), epoch):
            assert seed == reference[index]
    assert dict(draw(EpochSampler(length, 4, shuffle), epoch + 1)) != reference
    assert dict(draw(EpochSampler(length, 5, shuffle), epoch)) != reference


def test_each_pass_is_the_next_epoch():
    loader, again = (GraphDataLoader(graphs(), shuffle=True, batch_size=7) for _ in range(2))
    passes = [numbers(loader)[0] for _ in range(3)]
    assert passes[0] != passes[1] != passes[2] != passes[0]
    for epoch in (2, 0, 1):
        again.sampler.set_epoch(epoch)
        assert numbers(again)[0] == passes[epoch]


def test_global_random_numbers_do_not_matter():
    torch.manual_seed(1)
    first = numbers(GraphDataLoader(graphs(), shuffle=True))
    torch.manual_seed(2)
    assert numbers(GraphDataLoader(graphs(), shuffle=True)) == first


@pytest.mark.parametrize(("rank", "n_ranks"), [(-1, 1), (1, 1), (0, 0)])
def test_bad_ranks(rank: int, n_ranks: int):
    with pytest.raises(ValueError, match="expected 0 <= rank < n_ranks"):
        EpochSampler(5, 0, True, rank, n_ranks)


def test_nothing_to_sample():
    with pytest.raises(ValueError, match="at least one item"):
        EpochSampler(0, 0, True)


# --- random transforms -------------------------------------------------------------------


def rotated(**options) -> GraphDataLoader:
    dataset = GraphDataset(graphs(), transform="random_rotation")
    return GraphDataLoader(dataset, batch_size=3, shuffle=True, **options)


def test_transforms_do_not_depend_on_the_number_of_workers():
    alone = rotated(seed=3)
    several = rotated(seed=3, num_workers=2, persistent_workers=True)
    epochs = [[batch.R for batch in alone] for _ in range(2)]
    for expected in epochs:
        assert_same([batch.R for batch in several], expected)
    assert_same(positions(several, 0), epochs[0])
    assert not torch.equal(epochs[0][0], epochs[1][0])


def test_transforms_after_a_resume_are_those_of_the_uninterrupted_run():
    uninterrupted = rotated()
    for _ in range(3):
        expected = [batch.R for batch in uninterrupted]
        torch.rand(17)
    torch.manual_seed(99)
    assert_same(positions(rotated(), epoch=2), expected)


def test_transforms_are_the_same_on_several_ranks():
    def by_number(loader: GraphDataLoader) -> dict[int, torch.Tensor]:
        loader.sampler.set_epoch(5)
        return {
            int(number): batch.R[batch.batch == k]
            for batch in loader
            for k, number in enumerate(batch.other["number"])
        }

    alone = by_number(rotated())
    for rank in range(2):
        share = by_number(rotated(rank=rank, n_ranks=2))
        assert len(share) == 4
        for number, R in share.items():
            assert torch.equal(R, alone[number])


def test_drawing_an_item_leaves_torch_generator_as_it_was():
    items = SeededItems(GraphDataset(graphs(), transform="random_rotation"))
    before = torch.get_rng_state()
    first = items[0, 7].R
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(items[0, 7].R, first)
    assert not torch.equal(items[0, 8].R, first)
    assert len(items) == len(NAMES)
    assert not torch.equal(items[0].R, items[0].R)  # without a seed


# --- PyTorch Lightning -------------------------------------------------------------------


class Recorder(pl.LightningModule):
    """Learns nothing, but notes which structures it was given in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: AtomicGraph, index: int) -> torch.Tensor:
        self.seen.setdefault(self.current_epoch, []).extend(batch.other["number"].tolist())
        return self.weight * batch.R.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(loader: GraphDataLoader, **options) -> dict[int, list[int]]:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(recorder, loader)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
def test_lightning_sets_the_epoch():
    loader = GraphDataLoader(graphs(), batch_size=2, shuffle=True, seed=6)
    loader.sampler.set_epoch(100)
    seen = fit(loader, max_epochs=3)
    for epoch, indices in seen.items():
        expected = draw(EpochSampler(len(NAMES), 6, shuffle=True), epoch)
        assert indices == [index for index, _ in expected]


@pytest.mark.filterwarnings("ignore")
def test_lightning_may_replace_the_sampler():
    loader = GraphDataLoader(graphs(), batch_size=2, shuffle=True)
    assert fit(loader, max_epochs=2, overfit_batches=1) == {0: [0, 1], 1: [0, 1]}
