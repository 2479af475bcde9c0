from __future__ import annotations

import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.nn.irreps import o3, parse_irreps, to_e3nn_rows
from graph_pes.nn.tensor_head import EquivariantProduct, TensorHead, TensorScaler, TensorTarget


def graph_with(labels: torch.Tensor) -> AtomicGraph:
    graph = AtomicGraph.from_ase(molecule("CH4"), 2.0)
    return to_batch([graph._replace(properties={"tensor": labels})])


@pytest.mark.parametrize(
    ("factor", "irreps"),
    [("1o", "0e+2x1e+2e"), ("2e", "0e+1e+2e+3e+4e"), ("3o", "1e+3x2e"), ("0o", "2x0e")],
)
def test_product_is_that_of_e3nn(factor: str, irreps: str, default_dtype) -> None:
    default_dtype(torch.float64)
    channels, out = 3, parse_irreps(irreps)
    ours = EquivariantProduct(factor, channels, out)
    theirs = o3().FullyConnectedTensorProduct(f"{channels}x{factor}", f"{channels}x{factor}", out)
    theirs.weight.data = torch.cat([w.detach().flatten() for w in ours.weights])
    d = parse_irreps(factor).dim
    x, y = torch.randn(2, 5, d, channels)
    found, expected = to_e3nn_rows(ours(x, y)), theirs(to_e3nn_rows([x]), to_e3nn_rows([y]))
    # up to the signs of couplings, in which versions of e3nn differ
    for part in out.slices():
        sign = (found[:, part] * expected[:, part]).sum().sign()
        torch.testing.assert_close(found[:, part], sign * expected[:, part])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "products"}, "target_method: expected 'direct' or 'tensor_product'"),
        ({"number_of_tps": 3}, "number_of_tps: expected an even number of tensors, got 3"),
        ({"label": "dipole"}, "props: expected a property of atoms, got 'dipole'"),
        ({"method": "tensor_product", "irreps": "1o"}, "1o x 1o gives .* but the target is 1o"),
        ({"method": "tensor_product", "irrep_tp": "1o+2e"}, "irrep_tp: expected one irrep"),
    ],
)
def test_impossible_targets(options: dict, message: str) -> None:
    settings = {
        "label": "tensor",
        "method": "direct",
        "number_of_tps": None,
        "irreps": "0e",
        "irrep_tp": "1o",
    }
    with pytest.raises(ValueError, match=message):
        TensorTarget(**{**settings, **options})


def test_features_must_have_what_is_read() -> None:
    target = TensorTarget("tensor", "direct", None, "0e+1e", "1o")
    with pytest.raises(ValueError, match="4x0e\\+4x1o, have no 1e to read the tensor from"):
        TensorHead(parse_irreps("4x0e+4x1o"), target)


def test_order_of_the_target() -> None:
    """Irreps are in the order that was asked for, in which one may occur twice."""
    target = TensorTarget("tensor", "direct", None, "1o+2x0e+1o", "1o")
    head = TensorHead(parse_irreps("3x0e+2x1o"), target)
    scalars, vectors = torch.randn(5, 1, 3), torch.randn(5, 3, 2)
    found = head([scalars, vectors], graph_with(torch.zeros(5, 8)))
    (W0, W1) = (w * (1 / len(w)) ** 0.5 for w in head.linear.weights)
    expected = [(vectors @ W1)[:, :, 0], (scalars @ W0)[:, 0], (vectors @ W1)[:, :, 1]]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_scales_belong_to_irreps() -> None:
    """Fitted to data: one for all components of an irrep, zero mean for all but scalars."""
    scaler = TensorScaler(parse_irreps("2x0e+1o"), "tensor")
    labels = torch.randn(5, 5) * torch.tensor([1.0, 10.0, 3.0, 0.1, 2.0]) + 4
    labels[4, 0] = torch.nan  # the last hydrogen has no label
    scaler.pre_fit(graph_with(labels))
    H = labels[1:4].double()
    expected = torch.stack(
        [
            H[:, 0].std(correction=0),
            H[:, 1].std(correction=0),
            H[:, 2:].pow(2).mean().sqrt(),
        ]
    )
    torch.testing.assert_close(scaler.scales["H"].double(), expected, rtol=1e-5, atol=0)
    # a single carbon: its scalars do not vary
    assert scaler.scales["C"][:2].tolist() == [1.0, 1.0]
    scaled = scaler(torch.ones(5, 5), graph_with(labels))
    assert (scaled[:, 2:] == scaled[:, 2:3]).all()


def test_labels_of_other_irreps() -> None:
    scaler = TensorScaler(parse_irreps("0e+2e"), "tensor")
    with pytest.raises(ValueError, match="expected 6 components .* got labels of shape \\(5, 9\\)"):
        scaler.pre_fit(graph_with(torch.zeros(5, 9)))
    scaler.pre_fit(to_batch([AtomicGraph.from_ase(molecule("CH4"), 2.0)]))  # no labels at all
    assert (scaler.scales.values == 1).all()
