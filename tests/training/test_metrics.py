"""Metrics against plain formulas, over any batches, missing labels and several processes."""

from __future__ import annotations

import math
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from graph_pes.training.metrics import (
    MAE,
    MSE,
    RMSE,
    Accumulator,
    Huber,
    Metric,
    ScaleFreeHuber,
    metric_name,
    parse_metric,
    summed_over_processes,
)

DELTA = 0.7


def huber(e: np.ndarray) -> float:
    inside = np.abs(e) <= DELTA
    return np.where(inside, 0.5 * e**2, DELTA * (np.abs(e) - 0.5 * DELTA)).mean()


FORMULAS = {
    "mae": (MAE(), lambda e: np.abs(e).mean()),
    "mse": (MSE(), lambda e: (e**2).mean()),
    "rmse": (RMSE(), lambda e: np.sqrt((e**2).mean())),
    "huber": (Huber(DELTA), huber),
    "scaled_huber": (ScaleFreeHuber(DELTA), lambda e: huber(e) / DELTA),
}
every_metric = pytest.mark.parametrize("name", FORMULAS)

numbers = st.floats(-100, 100, width=32).map(lambda x: round(x, 3))
shapes = st.sampled_from([(1,), (5,), (3, 3), (4, 3), (2, 3, 3)])


@st.composite
def predictions_and_labels(draw: st.DrawFn, missing: bool = False) -> tuple[Tensor, Tensor]:
    shape = draw(shapes)
    y_hat, y = (draw(npst.arrays(np.float64, shape, elements=numbers)) for _ in range(2))
    if missing:
        gone = draw(npst.arrays(bool, shape))
        y = np.where(gone, np.nan, y)
    return torch.tensor(y_hat), torch.tensor(y)


# --- values -----------------------------------------------------------------------------------


@every_metric
@given(pair=predictions_and_labels())
def test_value_is_that_of_the_formula(name: str, pair: tuple[Tensor, Tensor]):
    metric, formula = FORMULAS[name]
    expected = formula((pair[0] - pair[1]).numpy())
    assert metric(*pair).shape == ()
    np.testing.assert_allclose(metric(*pair), expected, rtol=1e-12, atol=1e-14)


@given(pair=predictions_and_labels(), delta=st.floats(0.01, 10))
def test_huber_is_that_of_torch(pair: tuple[Tensor, Tensor], delta: float):
    expected = torch.nn.HuberLoss(delta=delta)(*pair)
    torch.testing.assert_close(Huber(delta)(*pair), expected)
    torch.testing.assert_close(ScaleFreeHuber(delta)(*pair), expected / delta)


def test_the_default_delta():
    assert Huber().delta == ScaleFreeHuber().huber.delta == 0.5


@every_metric
@given(pair=predictions_and_labels(missing=True))
def test_missing_labels_are_left_out(name: str, pair: tuple[Tensor, Tensor]):
    metric, formula = FORMULAS[name]
    input, target = pair[0].clone().requires_grad_(), pair[1]
    value = metric(input, target)
    value.backward()
    present = ~target.isnan()
    expected = formula((pair[0] - target)[present].numpy()) if present.any() else 0.0
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.isfinite(input.grad).all()
    assert (input.grad[~present] == 0).all()
    alone = pair[0][present].clone().requires_grad_()
    if present.any():
        metric(alone, target[present]).backward()
        torch.testing.assert_close(input.grad[present], alone.grad)


@every_metric
@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_no_label_at_all(name: str, shape: tuple[int, ...]):
    input = torch.randn(shape, requires_grad=True)
    value = FORMULAS[name][0](input, torch.full(shape, torch.nan))
    value.backward()
    assert value == 0
    assert (input.grad == 0).all()


@every_metric
def test_gradient_is_zero_where_there_is_no_error(name: str):
    target = torch.randn(5)
    input = target.clone().requires_grad_()
    value = FORMULAS[name][0](input, target)
    value.backward()
    assert value == 0
    assert (input.grad == 0).all()


def test_gradient_of_the_root():
    e = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    input = e.clone().requires_grad_()
    RMSE()(input, torch.zeros_like(e)).backward()
    torch.testing.assert_close(input.grad, e / (3 * (e**2).mean().sqrt()))


@every_metric
def test_labels_may_be_more_precise_than_predictions(name: str):
    # energies are float64, whatever the model
    input, target = torch.randn(4, dtype=torch.float32), torch.randn(4, dtype=torch.float64)
    expected = FORMULAS[name][1]((input.double() - target).numpy())
    np.testing.assert_allclose(FORMULAS[name][0](input, target), expected, rtol=1e-6)


def test_different_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"predictions have shape \(3,\), but labels \(3, 1\)"):
        RMSE()(torch.zeros(3), torch.zeros(3, 1))


# --- over batches -----------------------------------------------------------------------------


@every_metric
@given(data=st.data())
def test_batches_add_up_to_the_whole(name: str, data: st.DataObject):
    metric = FORMULAS[name][0]
    n = data.draw(st.integers(1, 12))
    seed = data.draw(st.integers(0, 2**16))
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=4)))
    generator = torch.Generator().manual_seed(seed)
    input, target = torch.randn(2, n, 3, dtype=torch.float64, generator=generator)
    target[torch.rand(n, generator=generator) < 0.3] = torch.nan
    accumulator = Accumulator(metric)
    for start, end in zip([0, *cuts], [*cuts, n], strict=True):
        accumulator.update(input[start:end], target[start:end])
    value = accumulator.compute()
    if target.isnan().all():
        assert value is None
    else:
        np.testing.assert_allclose(value, metric(input, target), rtol=1e-12)


def test_accumulator_starts_again():
    accumulator = Accumulator(MAE())
    accumulator.update(torch.ones(2), torch.zeros(2))
    accumulator.reset()
    assert accumulator.compute() is None
    accumulator.update(torch.ones(2, requires_grad=True), torch.full((2,), 4.0))
    assert accumulator.compute() == 3
    assert not accumulator.compute().requires_grad


# --- names ------------------------------------------------------------------------------------


def test_metrics_by_name():
    for cls in (MAE, MSE, RMSE, Huber, ScaleFreeHuber):
        assert type(parse_metric(cls.__name__)) is cls
    assert isinstance(parse_metric(None), RMSE)
    metric = Huber(0.1)
    assert parse_metric(metric) is metric
    assert parse_metric(torch.nn.functional.l1_loss) is torch.nn.functional.l1_loss


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="unknown metric 'rmsd': did you mean 'RMSE'"):
        parse_metric("rmsd")
    with pytest.raises(ValueError, match="Expected one of .*ScaleFreeHuber"):
        parse_metric("nothing like it")


def test_names_in_logs():
    names = [metric_name(metric) for metric, _ in FORMULAS.values()]
    assert names == ["mae", "mse", "rmse", "huber_0.7", "scaled_huber_0.7"]
    assert metric_name(torch.nn.MSELoss()) == "mse"
    assert metric_name(torch.nn.functional.l1_loss) == "l1"

    def my_error(input: Tensor, target: Tensor) -> Tensor:
        return (input - target).abs().max()

    assert metric_name(my_error) == "my_error"


# --- over processes ---------------------------------------------------------------------------

N_PER_RANK = [5, 2]


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input, target = torch.randn(2, sum(N_PER_RANK), dtype=torch.float64, generator=generator)
    target[1] = torch.nan
    return input, target


def _one_of_two(rank: int, file: Path, pipe: Connection) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    results = {}
    start = sum(N_PER_RANK[:rank])
    mine = slice(start, start + N_PER_RANK[rank])
    for name, (metric, _) in FORMULAS.items():
        input, target = (x[mine].clone() for x in _data())
        input.requires_grad_()
        value = metric(input, target)
        value.backward()
        accumulator = Accumulator(metric)
        accumulator.update(input, target)
        unlabelled = Accumulator(metric)
        if rank == 1:  # where one process has nothing to add
            unlabelled.update(input, target)
        results[name] = (
            value.item(),
            input.grad.tolist(),
            accumulator.compute(summed_over_processes).item(),
            accumulator.compute().item(),
            unlabelled.compute(summed_over_processes).item(),
        )
    pipe.send(results)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    file = tmp_path_factory.mktemp("processes") / "rendezvous"
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [
        context.Process(target=_one_of_two, args=(rank, file, pipes[rank][1])) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    results = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    return results


@every_metric
def test_two_processes_are_like_one(name: str, results_of_two_processes: list[dict]):
    metric = FORMULAS[name][0]
    whole, target = _data()
    whole.requires_grad_()
    expected = metric(whole, target)
    expected.backward()
    values, gradients, sums, own, _ = zip(*(r[name] for r in results_of_two_processes), strict=True)
    np.testing.assert_allclose([*values, *sums], expected.item(), rtol=1e-12)
    # data-parallel training takes the mean of the gradients
    np.testing.assert_allclose(np.concatenate(gradients) / 2, whole.grad, rtol=1e-12)
    for rank, part in enumerate(torch.split(whole.detach(), N_PER_RANK)):
        label = torch.split(target, N_PER_RANK)[rank]
        assert math.isclose(own[rank], metric(part, label).item(), rel_tol=1e-12)


@every_metric
def test_a_process_without_labels_adds_nothing(name: str, results_of_two_processes: list[dict]):
    first, second = (result[name] for result in results_of_two_processes)
    assert first[4] == second[4] == pytest.approx(second[3], rel=1e-12)


def test_every_metric_is_tested():
    assert {type(metric) for metric, _ in FORMULAS.values()} == set(Metric.__subclasses__())
