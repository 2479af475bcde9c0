"""Operations and bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import roofline
from benchmarks.counting import compiled_counts, eager_counts
from benchmarks.roofline import Evaluation, row
from graph_pes.deploy.engine import EngineModel
from graph_pes.deploy.trace import example_inputs
from graph_pes.models import LennardJones


def test_a_product_of_matrices() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 11)
    counts = eager_counts(lambda: a @ b)
    assert counts.flops == {"mm": 2 * 5 * 7 * 11}
    assert counts.bytes == {"mm": 4 * (5 * 7 + 7 * 11 + 5 * 11)}


def test_views_are_free_and_derivatives_count() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    counts = eager_counts(lambda: torch.autograd.grad(x.t().reshape(2, 12).exp().sum(), x))
    assert counts.flops["exp"] == 24
    assert counts.bytes["exp"] == 4 * 48
    assert counts.flops["mul"] == 24  # of the derivative
    assert not {"t", "view", "reshape"} & set(counts.bytes)


def test_fused_loops_move_fewer_bytes() -> None:
    model = LennardJones(cutoff=5.0)
    inputs = example_inputs(model, 50, 12)
    eager = eager_counts(lambda: EngineModel(model)(*inputs))
    flops, n_bytes = compiled_counts(model, inputs)
    size = sum(x.numel() * x.element_size() for x in inputs)
    assert size <= n_bytes < sum(eager.bytes.values()) / 3
    assert flops > 50 * 12


def test_the_bound_is_the_longer_of_both() -> None:
    evaluation = Evaluation("x", lambda: None, flops=1000, bytes=4000)
    cells = row(evaluation, milliseconds=8.0, flops_per_ms=500.0, bytes_per_ms=1000.0)
    assert cells[4:] == ["8.0", "25%", "50%", "4.0", "50%"]


def test_roofline(small_models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation takes minutes and is tested elsewhere: both rows are of the model as it is."""
    monkeypatch.setattr(roofline, "compiled", lambda model: model)
    monkeypatch.setattr(roofline, "SIZES", {"cpu": (64, 2**12)})
    text = roofline.roofline(["lj"], "Si:8", "cpu", repeats=2)
    lines = [line for line in text.splitlines() if line.startswith("| Lennard")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == ["Lennard-Jones", "Lennard-Jones, compiled"]
    for _, *numbers, compute, traffic, bound, reached in rows:
        assert all(float(x) >= 0 for x in (*numbers, bound))
        assert reached in (compute, traffic)  # the nearer bound
    assert "Bytes of Lennard-Jones, as it is, go to " in text
