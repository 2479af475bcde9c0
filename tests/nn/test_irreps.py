from __future__ import annotations

import pytest
import torch

from graph_pes.nn.irreps import (
    clebsch_gordan,
    from_e3nn_rows,
    merged,
    o3,
    parse_irreps,
    to_e3nn_rows,
)


def test_parsing() -> None:
    irreps = parse_irreps("4x0e + 2x1o+2e")
    assert [(mul, ir.l, ir.p) for mul, ir in irreps] == [(4, 0, 1), (2, 1, -1), (1, 2, 1)]
    assert parse_irreps(irreps) == irreps
    with pytest.raises(ValueError, match="expected irreps such as .* got '4x0z'"):
        parse_irreps("4x0z")


def test_merged() -> None:
    assert str(merged(parse_irreps("2x1e+3x0e+2x1o+4x0e+0x2e"))) == "7x0e+2x1o+2x1e"


def test_clebsch_gordan_are_invariant() -> None:
    """The coupled product of three rotated vectors is that of the vectors themselves."""
    rotation = o3().rand_matrix(dtype=torch.float64)
    for l1, l2, l3 in ((1, 1, 0), (1, 2, 1), (2, 3, 4), (3, 3, 1), (1, 1, 1)):
        C = clebsch_gordan(l1, l2, l3)
        D = [o3().Irrep(l, 1).D_from_matrix(rotation).double() for l in (l1, l2, l3)]
        rotated = torch.einsum("abc,ax,by,cz->xyz", C, *D)
        torch.testing.assert_close(rotated, C, rtol=0, atol=1e-6)
        torch.testing.assert_close(C.norm(), torch.tensor(1.0).double())


@pytest.mark.parametrize(
    ("degrees", "sign"),
    [((1, 1, 1), 1), ((1, 2, 2), 1), ((2, 1, 2), -1), ((2, 3, 2), -1), ((3, 2, 2), 1)]
    + [((3, 4, 6), 1), ((4, 6, 3), 1), ((5, 4, 4), 1), ((5, 4, 6), -1)],
)
def test_signs_are_those_of_the_first_versions(degrees: tuple[int, int, int], sign: int) -> None:
    """Signs, in e3nn 0.4.4, of the first coefficients that are not zero."""
    C = clebsch_gordan(*degrees)
    assert C[C != 0][0].sign() == sign
    theirs = o3().wigner_3j(*degrees, dtype=torch.float64)
    torch.testing.assert_close(C.abs(), theirs.abs(), rtol=0, atol=1e-12)


def test_rows_of_e3nn() -> None:
    irreps = parse_irreps("3x0e+2x1o+1x2e")
    rows = torch.randn(4, irreps.dim)
    blocks = from_e3nn_rows(rows, irreps)
    assert [tuple(b.shape) for b in blocks] == [(4, 1, 3), (4, 3, 2), (4, 5, 1)]
    # channel 1 of the vectors: three numbers in a row there, a column here
    torch.testing.assert_close(blocks[1][:, :, 1], rows[:, 6:9])
    torch.testing.assert_close(to_e3nn_rows(blocks), rows)
