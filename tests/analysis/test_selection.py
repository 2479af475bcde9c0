"""Which structures to label next."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.analysis import farthest_points, most_uncertain, structure_features
from graph_pes.atomic_graph import AtomicGraph
from graph_pes.cli.select import main
from graph_pes.models import Committee, GraphPESModel, Morse, SchNet, save_model


def structures() -> list[ase.Atoms]:
    """Nearly the same ones, two that differ, and one that differs more."""
    found = []
    for n in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.02, seed=n)
        found.append(atoms)
    found[3].set_cell(0.93 * found[3].cell, scale_atoms=True)
    found[5].set_cell(1.08 * found[5].cell, scale_atoms=True)
    found[6].numbers[0] = 47
    return found


def graphs() -> list[AtomicGraph]:
    return [AtomicGraph.from_ase(a, 4.0, dtype=torch.float64) for a in structures()]


def network() -> GraphPESModel:
    torch.manual_seed(0)
    return SchNet(4.0, channels=6, expansion_features=8, layers=1).double()


@pytest.mark.parametrize("factory", [network, lambda: Morse(4.0)])
def test_features_tell_structures_apart(factory) -> None:
    model = factory()
    features = structure_features(model, graphs())
    chosen = farthest_points(features, 3, known=features[:1])
    assert set(chosen) == {3, 5, 6}
    # of structures, not of their size, order or place in a batch
    turned = [AtomicGraph.from_ase(a * (2, 1, 1), 4.0, dtype=torch.float64) for a in structures()]
    np.testing.assert_allclose(structure_features(model, turned, 3), features, atol=1e-9)


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 1000))
def test_each_is_the_farthest_from_those_before(n: int, n_known: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, known = rng.normal(size=(12, 3)), rng.normal(size=(n_known, 3))
    everyone = np.concatenate([features, known])
    chosen = farthest_points(features, n, known)
    assert len(set(chosen)) == n
    x, others = features / everyone.std(0), list(known / everyone.std(0))
    for step, k in enumerate(chosen):
        if others:
            nearest = np.min([np.linalg.norm(x - y, axis=1) for y in others], axis=0)
            nearest[chosen[:step]] = -1
            assert nearest[k] == pytest.approx(nearest.max())
        others.append(x[k])


def test_features_that_are_all_the_same() -> None:
    assert sorted(farthest_points(np.ones((4, 2)), 4)) == [0, 1, 2, 3]


def test_the_most_uncertain() -> None:
    model = Committee([Morse(4.0, D=0.1), Morse(4.0, D=0.12)]).eval()
    found = [model.predict(g, ["energy_uncertainty", "forces_uncertainty"]) for g in graphs()]
    worst = np.argsort([float(p["forces_uncertainty"].max()) for p in found])[::-1]
    assert most_uncertain(model, graphs(), 3) == worst[:3].tolist()
    worst = np.argsort([float(p["energy_uncertainty"]) / 4 for p in found])[::-1]
    assert most_uncertain(model, graphs(), 2, "energy_uncertainty") == worst[:2].tolist()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="expected a committee"):
        most_uncertain(Morse(4.0), graphs(), 2)
    with pytest.raises(ValueError, match="up to 8 structures, got 9"):
        farthest_points(np.zeros((8, 1)), 9)


@pytest.mark.parametrize("by", ["features", "forces_uncertainty"])
def test_command(by: str, tmp_path: Path) -> None:
    model = Committee([Morse(4.0, D=0.1), Morse(4.0, D=0.12)])
    save_model(model, tmp_path / "model.pt")
    ase.io.write(tmp_path / "in.xyz", structures())
    ase.io.write(tmp_path / "known.xyz", structures()[:1])
    known = ["--known", str(tmp_path / "known.xyz")] if by == "features" else []
    files = [str(tmp_path / name) for name in ("model.pt", "in.xyz", "out.xyz")]
    main([*files, "-n", "3", "--by", by, *known])
    chosen = ase.io.read(tmp_path / "out.xyz", index=":")
    features = structure_features(model, graphs())
    if by == "features":
        expected = farthest_points(features, 3, features[:1])
    else:
        expected = most_uncertain(model, graphs(), 3)
    for atoms, n in zip(chosen, expected, strict=True):
        np.testing.assert_allclose(atoms.positions, structures()[n].positions, atol=1e-7)


def test_command_with_a_model_that_is_always_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(Morse(4.0), tmp_path / "model.pt")
    molecule("H2O").write(tmp_path / "in.xyz")
    files = [str(tmp_path / name) for name in ("model.pt", "in.xyz", "out.xyz")]
    with pytest.raises(SystemExit, match="1"):
        main([*files, "-n", "1", "--by", "forces_uncertainty"])
    assert "expected a committee, which predicts forces_uncertainty" in capsys.readouterr().out
