from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import PaiNN
from graph_pes.models.painn import Interaction, Update
from tests.conformance.models import randomised
from tests.strategies import structures

from .network_reference import linear, neighbours, perceptron, silu
from .transplant import REFERENCES, assert_agrees

CUTOFF, CHANNELS, RADIAL_FEATURES = 3.0, 5, 4


def model(layers: int = 3) -> PaiNN:
    model = PaiNN(CHANNELS, RADIAL_FEATURES, layers, CUTOFF).double()
    return randomised(model).eval()


# --- the equations of the paper -----------------------------------------------------------


def basis(model: PaiNN, r: float) -> np.ndarray:
    frequencies = model.radial.frequencies.detach().numpy()
    return np.sqrt(2 / CUTOFF) * np.sin(frequencies * r) / r


def envelope(r: float) -> float:
    x = r / CUTOFF
    return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8


def completed(parts: np.ndarray) -> np.ndarray:
    """Three rows (3, C) of what the model leaves out because nothing depends on it: any do."""
    parts = parts.reshape(-1, CHANNELS)
    return np.concatenate([parts, np.full((3 - len(parts), CHANNELS), 7.0)])


def messages(
    model: PaiNN, layer: Interaction, atoms: ase.Atoms, s: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Equations 7 and 8."""
    ds, dv = np.zeros_like(s), np.zeros_like(v)
    for i, j, r_ij in neighbours(atoms, CUTOFF):
        r = np.linalg.norm(r_ij)
        phi_s, phi_vs, phi_vv = completed(perceptron(layer.phi, silu, s[j]))
        W_s, W_vs, W_vv = completed(linear(layer.filters, basis(model, r)) * envelope(r))
        ds[i] += phi_s * W_s
        for axis in range(3):
            dv[i, axis] += v[j, axis] * phi_vv * W_vv + phi_vs * W_vs * r_ij[axis] / r
    return ds, dv


def updates(layer: Update, s: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 9 and 10."""
    U, V = np.split(layer.UV.weight.detach().numpy(), 2)
    ds, dv = np.zeros_like(s), np.zeros_like(v)
    for i in range(len(s)):
        Uv, Vv = v[i] @ U.T, v[i] @ V.T  # (3, C)
        norm = np.sqrt((Vv**2).sum(0) + 1e-8)
        a_ss, a_sv, a_vv = completed(perceptron(layer.a, silu, np.concatenate([s[i], norm])))
        ds[i] = a_ss + a_sv * (Uv * Vv).sum(0)
        dv[i] = a_vv * Uv
    return ds, dv


def local_energies(model: PaiNN, atoms: ase.Atoms) -> np.ndarray:
    s = model.embedding.embeddings.values.detach().numpy()[atoms.numbers]
    v = np.zeros((len(atoms), 3, CHANNELS))
    for interaction, update in zip(model.interactions, model.updates, strict=True):
        ds, dv = messages(model, interaction, atoms, s, v)
        s, v = s + ds, v + dv
        ds, dv = updates(update, s, v)
        s, v = s + ds, v + dv
    scales = model.scaler.per_element_scaling.values.detach().numpy()[atoms.numbers]
    return scales * np.array([perceptron(model.read_out, silu, s_i)[0] for s_i in s])


@pytest.mark.parametrize("layers", [1, 2, 3])
@given(atoms=structures(max_atoms=6))
def test_equations_of_the_paper(layers: int, atoms: ase.Atoms) -> None:
    painn = model(layers)
    graph = AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)
    expected = local_energies(painn, atoms)
    found = painn.predict_local_energies(graph).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * (1 + abs(expected).max()))


def test_reference_depends_on_everything() -> None:
    """The comparison above would notice a change of any weight."""
    painn = model(2)
    atoms = ase.Atoms("COH", [[0, 0, 0], [1.1, 0.2, 0], [0.3, 1.4, 0.8]])
    graph = AtomicGraph.from_ase(atoms, CUTOFF, dtype=torch.float64)
    energies = painn(graph)["local_energies"]
    elements = torch.tensor(atoms.numbers)
    for name, parameter in painn.named_parameters():
        (gradient,) = torch.autograd.grad(energies.sum(), parameter, retain_graph=True)
        used = gradient[elements] if "embedding" in name or "scal" in name else gradient
        assert (used != 0).all(), name


# --- graph-pes 1.0.2 ----------------------------------------------------------------------


def with_weights_of_graph_pes_1(weights: dict[str, np.ndarray]) -> PaiNN:
    """Our model with the weights of graph-pes 1, leaving out those that have no effect there."""
    C, B, layers = (int(weights[name]) for name in ("channels", "radial_features", "layers"))
    painn = PaiNN(C, B, layers, float(weights["cutoff"])).double()
    elements = torch.from_numpy(weights["elements"])

    def copy(to: torch.Tensor, *names: str, rows: slice = slice(None)) -> None:
        value = torch.cat([torch.from_numpy(weights[name]) for name in names])[rows]
        to.data[elements if to.shape[0] == 119 else slice(None)] = value

    copy(painn.embedding.embeddings.values, "z_embedding")
    copy(painn.scaler.per_element_scaling.values, "scales")
    copy(painn.radial.frequencies, "frequencies")
    for n, (interaction, update) in enumerate(zip(painn.interactions, painn.updates, strict=True)):
        # Ours are in the order s, vs, vv and ss, sv, vv; theirs s, vs, vv and vv, ss, sv.
        used = slice(interaction.n_filters * C)
        copy(interaction.filters.weight, f"{n}.filters.weight", rows=used)
        copy(interaction.filters.bias, f"{n}.filters.bias", rows=used)
        for m, rows in ((0, slice(None)), (1, used)):
            copy(interaction.phi.linear_layers[m].weight, f"{n}.phi.{m}.weight", rows=rows)
            copy(interaction.phi.linear_layers[m].bias, f"{n}.phi.{m}.bias", rows=rows)
        copy(update.UV.weight, f"{n}.U", f"{n}.V")
        for kind in ("weight", "bias"):
            copy(getattr(update.a.linear_layers[0], kind), f"{n}.a.0.{kind}")
            vv, *ss_and_sv = np.split(weights[f"{n}.a.1.{kind}"], 3)
            ordered = np.concatenate([*ss_and_sv, *([] if update.last else [vv])])
            getattr(update.a.linear_layers[1], kind).data[:] = torch.from_numpy(ordered)
    for m in (0, 1):
        copy(painn.read_out.linear_layers[m].weight, f"read_out.{m}.weight")
        copy(painn.read_out.linear_layers[m].bias, f"read_out.{m}.bias")
    return painn.eval()


def test_against_graph_pes_1() -> None:
    """Energies and forces that graph-pes 1.0.2 gave: see make_graph_pes_1_painn.py."""
    frozen = dict(np.load(REFERENCES / "graph_pes_1_painn.npz"))
    painn = with_weights_of_graph_pes_1(frozen)
    for n in range(int(frozen["structures"])):
        Z, R, cell, pbc = (frozen[f"structure.{n}.{key}"] for key in ("Z", "R", "cell", "pbc"))
        atoms = ase.Atoms(Z, R, cell=cell, pbc=pbc)
        graph = AtomicGraph.from_ase(atoms, painn.cutoff_value, dtype=torch.float64)
        predicted = painn.predict(graph, ["energy", "forces"])
        for key, value in predicted.items():
            expected = frozen[f"structure.{n}.{key}"]
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


# --- schnetpack ---------------------------------------------------------------------------


def with_weights_of_schnetpack(frozen: dict[str, np.ndarray]) -> PaiNN:
    """The network of the paper with the weights of schnetpack's, but for those of no effect."""
    C, B, layers = (int(frozen[name]) for name in ("channels", "radial_features", "layers"))
    cutoff = float(frozen["cutoff"])
    painn = PaiNN(C, B, layers, cutoff, "cosine", trainable_basis=False, readout_width=C // 2)
    painn.double()

    def weights(name: str) -> torch.Tensor:
        return torch.from_numpy(frozen[f"weights.{name}"])

    def copy(layer: torch.nn.Linear, name: str) -> None:
        """As many rows as we have: the last ones may have no effect."""
        for kind, to in layer.named_parameters():
            to.data[:] = weights(f"representation.{name}.{kind}")[: len(to)]

    elements = torch.from_numpy(frozen["elements"])
    painn.embedding.embeddings.values.data[elements] = weights("representation.embedding.weight")
    painn.radial.frequencies.data[:] = weights("representation.radial_basis.freqs")
    filters = {kind: weights(f"representation.filter_net.{kind}") for kind in ("weight", "bias")}
    for n, (interaction, update) in enumerate(zip(painn.interactions, painn.updates, strict=True)):
        rows = slice(3 * C * n, 3 * C * n + C * interaction.n_filters)
        # Our basis functions have the prefactor that normalises them.
        interaction.filters.weight.data[:] = filters["weight"][rows] / np.sqrt(2 / cutoff)
        interaction.filters.bias.data[:] = filters["bias"][rows]
        for m in (0, 1):
            copy(interaction.phi.linear_layers[m], f"interactions.{n}.interatomic_context_net.{m}")
        copy(update.a.linear_layers[0], f"mixing.{n}.intraatomic_context_net.0")
        # Theirs are in the order ss, vv, sv, and the vector whose norm is taken comes first.
        for kind, to in update.a.linear_layers[1].named_parameters():
            name = f"representation.mixing.{n}.intraatomic_context_net.1.{kind}"
            ss, vv, sv = weights(name).chunk(3)
            to.data[:] = torch.cat([ss, sv] if update.last else [ss, sv, vv])
        V, U = weights(f"representation.mixing.{n}.mu_channel_mix.weight").chunk(2)
        update.UV.weight.data[:] = torch.cat([U, V])
    for m in (0, 1):
        for kind, to in painn.read_out.linear_layers[m].named_parameters():
            to.data[:] = weights(f"output_modules.0.outnet.{m}.{kind}")
    return painn.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_schnetpack(dtype: torch.dtype) -> None:
    """Energies, forces and stress that schnetpack gave: see make_schnetpack.py."""
    frozen = dict(np.load(REFERENCES / "schnetpack_painn.npz"))
    painn = with_weights_of_schnetpack(frozen).to(dtype)
    assert_agrees(painn, frozen, {"energy", "forces", "stress"})


# --- arguments ----------------------------------------------------------------------------


def test_a_basis_that_is_not_trained() -> None:
    assert PaiNN(4, 5).radial.frequencies.requires_grad
    fixed = PaiNN(4, 5, trainable_basis=False)
    assert [n for n, p in fixed.named_parameters() if not p.requires_grad] == ["radial.frequencies"]


def test_an_unknown_envelope() -> None:
    with pytest.raises(ValueError, match="Unknown envelope 'cosin'"):
        PaiNN(envelope="cosin")  # type: ignore[arg-type]
