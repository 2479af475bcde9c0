from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graph_pes.nn import trilinear
from graph_pes.nn.trilinear import TrilinearForm, pieces


class Contraction(TrilinearForm):
    """Sum of t_abc x_a y_b z_c."""

    def __init__(self, t: Tensor):
        self.t = t

    def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum(["abc,b,c->a", "abc,a,c->b", "abc,a,b->c"][n], self.t, x, y)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_derivatives_of_first_and_second_order(n: int) -> None:
    form = Contraction(torch.randn(2, 3, 4, dtype=torch.float64))
    sizes = [size for k, size in enumerate((2, 3, 4)) if k != n]
    x, y = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes)
    torch.testing.assert_close(form(n, x, y), form.partial(n, x, y))
    assert torch.autograd.gradcheck(lambda x, y: form(n, x, y), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: form(n, x, y), (x, y))


def test_only_the_derivatives_that_are_needed_are_computed() -> None:
    asked = []

    class Dot(TrilinearForm):
        def partial(self, n: int, x: Tensor, y: Tensor) -> Tensor:
            asked.append(n)
            return x * y

    x, y = torch.ones(2, requires_grad=True), torch.ones(2)
    Dot()(0, x, y).sum().backward()
    assert asked == [0, 1]


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_pieces_cover_all_rows_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trilinear, "_FLOATS_PER_PIECE", 64)
    x = torch.arange(rows)
    found = [x[piece] for piece in pieces(rows, 10, x.device)]
    assert torch.equal(torch.cat([x[:0], *found]), x)
    assert all(0 < len(piece) <= 6 for piece in found)


def test_one_piece_on_other_devices() -> None:
    assert list(pieces(10**9, 10**9, torch.device("meta"))) == [slice(None)]
