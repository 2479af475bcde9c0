"""Programs whose matrix products are in fewer bits."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.deploy import ExportedModel, export_model
from graph_pes.deploy.matrix_products import BFLOAT16_TOLERANCE, round_products
from graph_pes.models import PaiNN, SchNet

torch.set_num_threads(1)


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def test_all_kinds_of_products() -> None:
    """Equal to products of rounded matrices; what is added is not rounded."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(3, 3, generator=generator, dtype=torch.float32) for _ in range(3))

    def function(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        stack = (c.expand(2, 3, 3), a.expand(2, 3, 3), b.expand(2, 3, 3))
        return (
            a @ b,
            torch.bmm(stack[1], stack[2])[0],
            torch.addmm(c, a, b, alpha=2, beta=-0.5),
            torch.baddbmm(*stack, beta=3)[1],
            a.double() @ b.double(),
        )

    traced = make_fx(function)(a, b, c)
    exact = traced(a, b, c)
    round_products(traced)
    *found, double = traced(a, b, c)
    product = rounded(rounded(a) @ rounded(b))
    expected = (product, product, 2 * product - 0.5 * c, product + 3 * c)
    for x, y, z in zip(found, expected, exact[:-1], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
        assert not torch.allclose(x, z, rtol=1e-4)
    assert torch.equal(double, exact[-1])


def test_errors_are_small_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = SchNet(channels=16, expansion_features=8, layers=2, cutoff=4.0).float().eval()
    path = tmp_path / "model.pt2"
    with caplog.at_level(logging.INFO, logger="graph_pes"):
        export_model(model, path, mode="portable", table_tolerance=0, products="bfloat16")
    errors = re.findall(r"(?:energies|gradients) ([\de.-]+)", caplog.text)
    assert len(errors) == 2
    assert all(1e-5 < float(error) < BFLOAT16_TOLERANCE for error in errors)
    exported = ExportedModel(path)
    assert exported.metadata.products == "bfloat16"
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    graph = AtomicGraph.from_ase(atoms, 4.0, dtype=torch.float32)
    found, expected = (m.predict(graph, ["forces"])["forces"] for m in (exported, model))
    error = float((found - expected).abs().max() / expected.abs().max())
    assert 1e-5 < error < BFLOAT16_TOLERANCE


@pytest.mark.parametrize(
    ("dtype", "products", "message"),
    [
        (torch.float64, "bfloat16", "is for models in float32"),
        (torch.float32, "float16", "expected 'full' or 'bfloat16', got 'float16'"),
    ],
)
def test_other_precisions_are_refused(
    dtype: torch.dtype, products: str, message: str, tmp_path: Path
) -> None:
    model = PaiNN(channels=4, layers=1, cutoff=3.0).to(dtype)
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "model.pt2", products=products)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
