"""Training on data of all sorts: mixed periodicity, labels missing on some structures."""

# ruff: noqa: E501 (one line for each mistake, or way to train)

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.data import GraphDataset
from graph_pes.models import FixedOffset, LearnableOffset, LennardJones, load_model
from graph_pes.training.fit import FitOptions, prepare
from graph_pes.training.loss import PerAtomEnergyLoss
from graph_pes.training.pre_fit import with_auto_offset
from tests.runs import Recorder, column, config, train, with_labels

MODEL = "model={+PaiNN: {channels: 4, layers: 1, cutoff: 4.0}}"
ALL_LOSSES = "loss=[+PerAtomEnergyLoss(), +ForceRMSE(), {+PropertyLoss: {property: stress}}]"


def finite(folder: Path) -> bool:
    model = load_model(folder / "model.pt")
    return all(torch.isfinite(p).all() for p in model.parameters())


def crystals_and_molecules() -> list[ase.Atoms]:
    structures = []
    for n in range(3):
        crystal = bulk("Cu", cubic=True) * (1 + n % 2, 1, 1)
        crystal.rattle(0.05, seed=n)
        crystal.set_cell(crystal.cell * (1 + 0.01 * n), scale_atoms=True)
        small = molecule("H2O")
        small.rattle(0.05, seed=n)
        for structure in (crystal, small):
            structure.calc = EMT()
            structure.get_potential_energy()
            structure.get_forces()
            if structure.pbc.any():
                structure.get_stress()
        structures += [crystal, small]
    return structures


@pytest.mark.parametrize("first", ["crystal", "molecule"])
def test_crystals_with_stress_and_molecules_without(first: str, tmp_path: Path):
    structures = crystals_and_molecules()
    if first == "molecule":
        structures = structures[::-1]
    path = tmp_path / "mixed.xyz"
    ase.io.write(path, structures)
    recorder = Recorder()
    # with one structure per batch, some batches have no stress at all
    folder = train(
        config(
            tmp_path,
            tmp_path,
            MODEL,
            ALL_LOSSES,
            f"data={{train: {{path: {path}, shuffle: false}}, valid: {path}}}",
            "fitting/loader_kwargs/batch_size=1" if first == "crystal" else "general/seed=2",
            "fitting/optimizer/lr=1e-2",
            "fitting/trainer_kwargs/max_epochs=10",
        ),
        callbacks=[recorder],
    )
    assert finite(folder)
    stress = column(folder, "valid/metrics/stress_rmse")
    assert stress[-1] < stress[0]
    # over the crystals alone
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    model = load_model(folder / "model.pt")
    errors = []
    for structure in structures:
        if structure.pbc.any():
            graph = AtomicGraph.from_ase(structure, cutoff=4.0)
            label = graph.properties["stress"]
            errors.append((model.predict_stress(graph) - label).detach().numpy())
    expected = np.sqrt(np.square(errors).mean())
    np.testing.assert_allclose(summary["test/train/stress_rmse"], expected, rtol=1e-4)


def test_data_sets_in_a_row(tmp_path: Path):
    crystals, molecules = tmp_path / "crystals.xyz", tmp_path / "molecules.xyz"
    ase.io.write(crystals, crystals_and_molecules()[::2])
    ase.io.write(molecules, crystals_and_molecules()[1::2])
    parts = [
        f"{name}: {{+file_dataset: {{path: {path}, cutoff: 4.0}}}}"
        for name, path in (("a", molecules), ("b", crystals))
    ]
    both = f"{{+ConcatDataset: {{{', '.join(parts)}}}}}"
    folder = train(
        config(tmp_path, tmp_path, MODEL, ALL_LOSSES, f"data={{train: {both}, valid: {both}}}")
    )
    assert finite(folder)
    assert load_model(folder / "model.pt").elements_seen == ["H", "O", "Cu"]


def test_labels_missing_on_some_structures(
    ethanol: list[ase.Atoms], data_files: Path, tmp_path: Path
):
    def leave_out(n: int, atoms: ase.Atoms) -> None:
        if n % 2:
            del atoms.info["energy"]
        if n % 3 == 0:
            del atoms.arrays["forces"]

    path = with_labels(ethanol[:8], leave_out, tmp_path / "partly.xyz")
    recorder = Recorder()
    folder = train(
        config(
            data_files,
            tmp_path,
            f"data={{train: {path}, valid: {path}}}",
            "fitting/loader_kwargs/batch_size=1",
        ),
        callbacks=[recorder],
    )
    assert finite(folder)
    model = load_model(folder / "model.pt")
    energies, forces = [], []
    for n, atoms in enumerate(ethanol[:8]):
        graph = AtomicGraph.from_ase(atoms, cutoff=3.0)
        predicted = model.predict(graph, ["energy", "forces"])
        if n % 2 == 0:
            error = predicted["energy"] - graph.properties["energy"]
            energies.append(error.item() / len(atoms))
        if n % 3:
            forces.append((predicted["forces"] - graph.properties["forces"]).detach().numpy())
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    for key, values in (("per_atom_energy_rmse", energies), ("forces_rmse", forces)):
        expected = np.sqrt(np.square(np.stack(values)).mean())
        np.testing.assert_allclose(summary[f"test/valid/{key}"], expected, rtol=1e-4)


def test_validation_is_over_the_whole_set(data_files: Path, tmp_path: Path):
    # 5 structures: batches of 4 and 1, or all at once
    folders = [
        train(
            config(
                data_files,
                tmp_path,
                "fitting/optimizer/lr=0.0",
                f"fitting/loader_kwargs={{batch_size: {batch_size}, drop_last: {drop}}}",
            )
        )
        for batch_size, drop in ((4, "false"), (5, "true"), (2, "true"))
    ]
    for name in ("valid/loss/total", "valid/metrics/forces_rmse", "valid/metrics/energy_mae"):
        values = [column(folder, name)[0] for folder in folders]
        np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_models_of_tensors(data_files: Path, tmp_path: Path):
    # a vector for each atom, here that of the forces
    plain = config(data_files, tmp_path)
    model = {"+LearnableTensorOffset": {"length": 3}}
    for name in ("train", "valid"):
        path = f"{data_files}/{name}.xyz"
        plain["data"][name] = {"path": path, "property_map": {"forces": "tensor"}}
    plain["loss"] = {"+PropertyLoss": {"property": "tensor", "metric": "MSE"}}
    folder = train({**plain, "model": {"a": model, "b": model}})
    summary = yaml.safe_load((folder / "summary.yaml").read_text())
    expected = summary["valid/loss/total"] ** 0.5
    assert summary["test/valid/tensor_rmse"] == pytest.approx(expected, rel=1e-5)


class Square(torch.nn.Module):
    """A metric that is not exact over batches."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((input - target) ** 2).mean()


def test_metrics_of_ones_own_are_averaged(data_files: Path, tmp_path: Path):
    losses = (
        "loss=[{+PropertyLoss: {property: energy, metric: +tests.training.test_fit.Square()}},"
        " {+PropertyLoss: {property: energy, metric: MSE}},"
        " {+PropertyLoss: {property: forces, metric: +torchmetrics.MeanAbsoluteError()}}]"
    )
    folder = train(config(data_files, tmp_path, losses))
    ours, exact = (column(folder, f"valid/metrics/energy_{m}") for m in ("square", "mse"))
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    names = ("valid/metrics/forces_meanabsoluteerror", "valid/metrics/forces_mae")
    np.testing.assert_allclose(*(column(folder, name) for name in names), rtol=1e-5)


def test_data_sets_are_prepared_once_and_first(
    data_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []
    prepare_data, setup = GraphDataset.prepare_data, GraphDataset.setup
    monkeypatch.setattr(
        GraphDataset, "prepare_data", lambda self: (calls.append("prepare"), prepare_data(self))
    )
    monkeypatch.setattr(
        "graph_pes.data.ASEToGraphDataset.setup",
        lambda self: (calls.append("setup"), setup(self)),
    )
    train(config(data_files, tmp_path))
    assert calls[:4] == ["prepare", "setup", "prepare", "setup"]


# --- before training --------------------------------------------------------------------------


class Counting(PerAtomEnergyLoss):
    seen: list[int] = []  # noqa: RUF012

    def pre_fit(self, training_data: AtomicGraph) -> None:
        assert training_data.ptr is not None
        self.seen.append(len(training_data.ptr) - 1)


@pytest.mark.parametrize(("limit", "n"), [("null", 8), ("5000", 8), ("3", 3)])
def test_how_many_structures_are_looked_at_before(
    limit: str, n: int, data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Counting.seen.clear()
    loss = "loss=+tests.training.test_fit.Counting()"
    train(config(data_files, tmp_path, loss, f"fitting/max_n_pre_fit={limit}"))
    assert Counting.seen == [n]
    assert f"Pre-fitting the model on {n} structures" in capsys.readouterr().out


def test_all_elements_are_registered_however_few_are_fitted():
    structures = [molecule("H2O"), molecule("CH4"), molecule("NH3")]
    for structure in structures:
        structure.info["energy"] = 1.0
    graphs = [AtomicGraph.from_ase(structure) for structure in structures]
    model = prepare(LearnableOffset(), GraphDataset(graphs), FitOptions(max_n_pre_fit=1))
    assert model.elements_seen == ["H", "C", "N", "O"]


def water_and_methane(shift: dict[int, float]) -> list[AtomicGraph]:
    graphs = []
    for name in ("H2O", "CH4", "H2", "O2", "CO"):
        atoms = molecule(name)
        graph = AtomicGraph.from_ase(atoms, cutoff=3.0)
        energy = LennardJones(cutoff=3.0).predict_energy(graph).detach()
        total = energy + sum(shift.get(int(Z), 0.0) for Z in atoms.numbers)
        graphs.append(graph._replace(properties={"energy": total}))
    return graphs


def test_reference_energies():
    graphs = water_and_methane({1: -13.0, 6: -1000.0, 8: -2000.0})
    model = with_auto_offset(LennardJones(cutoff=3.0), graphs)
    assert list(model.models) == ["base", "auto_offset"]  # type: ignore[union-attr]
    batch = to_batch(graphs)
    predicted = model.predict_energy(batch)
    np.testing.assert_allclose(predicted.detach(), batch.properties["energy"], atol=0.5)
    assert model.training


def test_no_offset_is_added_where_none_is_needed():
    model = LennardJones(cutoff=3.0).eval()
    assert with_auto_offset(model, water_and_methane({})) is model
    assert not model.training


def test_reference_energies_need_energies():
    graph = AtomicGraph.from_ase(molecule("H2O"))
    with pytest.raises(ValueError, match="the training data have no energies"):
        with_auto_offset(FixedOffset(H=1.0), [graph])


# --- what can't be trained --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss={+PropertyLoss: {property: stress}}"], "the loss needs the label 'stress', but the training data only have"),
        (["loss={+PropertyLoss: {property: dipole}}"], "the loss needs 'dipole', which AdditionModel does not predict: it predicts"),
        (["model={+FixedOffset: {H: 1.0}}", "loss=+PerAtomEnergyLoss()"], "FixedOffset has no parameters to train"),
        (["data/train/path={}/train.xyz", "data/train/n=9"], "holds 8 structures, but n = 9 were asked for"),
        (["data/train/path={}/train.xyz", "data/train/cutoff=1.5"], "the training data list neighbours up to 1.5 Å, but the model needs"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(
    overrides: list[str], message: str, data_files: Path, tmp_path: Path
):
    plain = config(
        data_files, tmp_path, *(text.replace("{}", str(data_files)) for text in overrides)
    )
    with pytest.raises(ValueError, match=message) as caught:
        train(plain)
    assert "\n" not in str(caught.value)


def test_a_validation_set_without_the_label(
    ethanol: list[ase.Atoms], data_files: Path, tmp_path: Path
):
    def no_forces(n: int, atoms: ase.Atoms) -> None:
        del atoms.arrays["forces"]

    path = with_labels(ethanol[:3], no_forces, tmp_path / "no_forces.xyz")
    with pytest.raises(ValueError, match="label 'forces', but the validation data only have"):
        train(config(data_files, tmp_path, f"data/valid={path}"))


class Unsaveable(LennardJones):
    def __init__(self, function: Any = print):
        super().__init__()
        self.function = function


def test_a_model_that_cannot_be_saved_is_noticed_before_training(data_files: Path, tmp_path: Path):
    recorder = Recorder()
    with pytest.raises(ValueError, match="can't be stored in a model file"):
        train(
            config(
                data_files,
                tmp_path,
                "model={+tests.training.test_fit.Unsaveable: {function: +print}}",
            ),
            callbacks=[recorder],
        )
    assert recorder.weights == []
