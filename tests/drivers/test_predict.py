"""Models run over many structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given

from graph_pes import AtomicGraph
from graph_pes.drivers import check_elements, evaluation_mode, iterate_predictions, predict_all
from graph_pes.models import LennardJones, PaiNN
from graph_pes.models.derivatives import has_volume
from tests.strategies import structure_lists


def painn() -> PaiNN:
    return PaiNN(channels=4, radial_features=4, layers=2, cutoff=3.0).double()


@given(structure_lists(max_size=5))
def test_batches_give_what_single_structures_give(atoms_list):
    torch.manual_seed(0)
    model = painn()
    graphs = [AtomicGraph.from_ase(a, 3.0, dtype=torch.float64) for a in atoms_list]
    results = predict_all(model, graphs, ["energy", "forces", "stress"], batch_size=2)
    assert len(results) == len(graphs)
    for graph, result in zip(graphs, results, strict=True):
        volume = bool(has_volume(graph))
        assert list(result) == ["energy", "forces"] + ["stress"] * volume
        for key, value in result.items():
            assert not value.requires_grad
            alone = model.eval().predict(graph, [key])[key]
            scale = 1 + alone.abs().max()
            torch.testing.assert_close(value, alone, rtol=1e-9, atol=1e-10 * scale.item())


def test_predictions_come_as_they_are_taken():
    taken = []

    def graphs():
        for n in range(100):
            taken.append(n)
            yield AtomicGraph.from_ase(molecule("H2O"), 3.0)

    next(iterate_predictions(painn(), graphs(), ["energy"], batch_size=3))
    assert taken == [0, 1, 2]


def test_empty_lists_and_bad_batch_sizes():
    assert predict_all(painn(), [], ["energy"]) == []
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        predict_all(painn(), [], ["energy"], batch_size=0)


def test_only_stress_of_a_molecule_is_an_empty_result():
    graphs = [AtomicGraph.from_ase(a, 3.0) for a in (molecule("H2O"), bulk("Si"))]
    model = PaiNN(channels=4, radial_features=4, layers=1, cutoff=3.0)
    first, second = predict_all(model, graphs, ["stress"])
    assert first == {}
    assert second["stress"].shape == (3, 3)


def test_every_module_is_left_in_its_mode():
    model = painn()
    model.embedding.eval()  # frozen, say, in training
    before = {name: m.training for name, m in model.named_modules()}
    with evaluation_mode(model):
        assert not any(m.training for m in model.modules())
    assert {name: m.training for name, m in model.named_modules()} == before
    with pytest.raises(ValueError, match="can't predict"):  # also after an error
        predict_all(model, [AtomicGraph.from_ase(molecule("H2O"), 3.0)], ["dipole"])
    assert {name: m.training for name, m in model.named_modules()} == before


def test_labels_of_the_graphs_do_not_matter():
    atoms = [molecule("H2O"), molecule("CH4")]
    atoms[0].info["energy"] = -1.0
    graphs = [AtomicGraph.from_ase(a, 3.0) for a in atoms]
    results = predict_all(LennardJones(cutoff=3.0), graphs, ["energy"])
    assert all(np.isfinite(r["energy"].item()) for r in results)


def test_elements_that_a_fitted_model_never_saw():
    model = painn()
    water = AtomicGraph.from_ase(molecule("H2O"), 3.0, property_mapping={})
    check_elements(model, torch.tensor([92]))  # not fitted: nothing is known
    model.pre_fit_all_components([water])
    check_elements(model, torch.tensor([1, 8, 8]))
    with pytest.raises(ValueError, match=r"contains C, N, but .* fitted to H, O"):
        check_elements(model, torch.tensor([7, 1, 6]))
    fitted_without_elements = LennardJones(cutoff=3.0)
    fitted_without_elements.pre_fit_all_components([water])
    check_elements(fitted_without_elements, torch.tensor([92]))
