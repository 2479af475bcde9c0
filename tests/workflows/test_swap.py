"""One line of a configuration changes the model: training, files, predictions and ASE follow."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

import graph_pes.cli.train
from graph_pes.atomic_graph import AtomicGraph
from graph_pes.cli.train import train_from_config
from graph_pes.models import ALL_PES_MODELS, GraphPESModel, load_model, save_model
from graph_pes.training.config_files import read_config
from tests.runs import same, weights

#: What is the same for all models: two steps on eight structures.
REST = """
data: {train: DATA/train.xyz, valid: DATA/valid.xyz}
loss: [+PerAtomEnergyLoss(), +ForceRMSE()]
fitting:
  keep: last
  trainer_kwargs: {max_epochs: 1, accelerator: cpu}
  loader_kwargs: {batch_size: 4, num_workers: 0}
general: {root_dir: RESULTS, run_id: run, progress: logged}
"""

IRREPS = "{channels: 4, l_max: 1, use_odd_parity: true}"

CHARGES = "{+LearnedCharges: {network: {+SchNet: {cutoff: 3.0, channels: 4, layers: 1}}}}"

#: The line that is changed. A new model needs a row.
MODELS = {
    "CHGNet": "{+CHGNet: {cutoff: 3.0, channels: 4, layers: 2, radial_features: 4}}",
    "ANI": "{+ANI: {elements: [H, C, O], cutoff: 3.0, angular_cutoff: 2.0, hidden: [8]}}",
    "Coulomb": "{+Coulomb: {cutoff: 3.0, charges: " + CHARGES + "}}",
    "EDDP": "{+EDDP: {elements: [H, C, O], cutoff: 3.0, features: 3, three_body_cutoff: 2.0}}",
    "Ewald": "{+Ewald: {cutoff: 3.0, charges: " + CHARGES + "}}",
    "LearnableOffset": "+LearnableOffset()",
    "LennardJones": "{+LennardJones: {cutoff: 3.0}}",
    "LennardJonesMixture": "{+LennardJonesMixture: {cutoff: 3.0}}",
    "M3GNet": "{+M3GNet: {cutoff: 3.0, three_body_cutoff: 2.5, channels: 8, layers: 1}}",
    "MACE": "{+MACE: {elements: [H, C, O], cutoff: 3.0, n_radial: 4, channels: 4, l_max: 2}}",
    "Morse": "{+Morse: {cutoff: 3.0}}",
    "NequIP": "{+NequIP: {elements: [H, C, O], cutoff: 3.0, layers: 2, features: " + IRREPS + "}}",
    "Orb-direct": "{+Orb: {cutoff: 3.0, channels: 8, layers: 1, mlp_hidden_dim: 8}}",
    "Orb": "{+Orb: {cutoff: 3.0, conservative: true, channels: 8, layers: 1, mlp_hidden_dim: 8}}",
    "PaiNN": "{+PaiNN: {cutoff: 3.0, channels: 4, radial_features: 4, layers: 1}}",
    "PET": "{+PET: {elements: [H, C, O], cutoff: 3.0, channels: 8, node_channels: 8, heads: 2}}",
    "SchNet": "{+SchNet: {cutoff: 3.0, channels: 4, expansion_features: 8, layers: 1}}",
    "SmoothedPairPotential": "{+SmoothedPairPotential: {potential: {+Morse: {cutoff: 3.0}}}}",
    "StillingerWeber": "{+StillingerWeber: {sigma: 0.8}}",
    "TensorNet": "{+TensorNet: {cutoff: 3.0, radial_features: 4, channels: 4, layers: 1}}",
    "ZBLCoreRepulsion": "{+ZBLCoreRepulsion: {cutoff: 3.0, trainable: true}}",
    "NonLinearMACE": "{+NonLinearMACE: {elements: [H, C, O], cutoff: 3.0, channels: 4, l_max: 2}}",
    "ZEmbeddingMACE": "{+ZEmbeddingMACE: {cutoff: 3.0, n_radial: 4, channels: 4, l_max: 2}}",
    "ZEmbeddingNequIP": "{+ZEmbeddingNequIP: {cutoff: 3.0, layers: 2, features: " + IRREPS + "}}",
}

#: Nothing in it is trained.
FIXED = {"D3Dispersion", "FixedOffset"}


def test_every_model_has_a_row() -> None:
    rows = {name.partition("-")[0] for name in MODELS}
    assert rows == {model.__name__ for model in ALL_PES_MODELS} - FIXED


@pytest.mark.parametrize("name", MODELS)
def test_swapping_the_model(
    name: str, data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[GraphPESModel] = []  # the model in memory when training ends
    monkeypatch.setattr(graph_pes.cli.train, "report", lambda model, *_: found.append(model))
    rest = REST.replace("DATA", str(data_files)).replace("RESULTS", str(tmp_path))
    (tmp_path / "config.yaml").write_text(f"model: {MODELS[name]}\n{rest}")
    folder = train_from_config(read_config([str(tmp_path / "config.yaml")]))
    assert folder is not None
    (trained,) = found
    assert type(trained).__name__ == name.partition("-")[0]

    # two steps of the optimiser, after which everything is saved
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2

    # the same model from files
    loaded = load_model(folder / "model.pt")
    save_model(loaded, tmp_path / "copy.pt")
    again = load_model(tmp_path / "copy.pt")
    atoms = ase.io.read(data_files / "test.xyz", index=0)
    graph = AtomicGraph.from_ase(atoms, trained.cutoff_value)
    keys = ["energy", "forces", "local_energies"]
    expected = trained.eval().predict(graph, keys)
    for model in (loaded.eval(), again.eval()):
        assert same(weights(model), weights(trained))
        assert same(model.predict(graph, keys), expected)

    # five steps of molecular dynamics
    atoms.calc = loaded.ase_calculator()
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"].item(), rel=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], rtol=1e-4, atol=1e-4)
    start = atoms.positions.copy()
    VelocityVerlet(atoms, timestep=0.1 * units.fs).run(5)
    assert np.isfinite(atoms.get_potential_energy())
    has_forces = expected["forces"].abs().max() > 0
    assert (atoms.positions != start).any() == bool(has_forces)
