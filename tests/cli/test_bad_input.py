"""Bad input: one clear message, exit code 1, no traceback on the terminal, nothing lost."""

# ruff: noqa: E501 (one line for each mistake, or way to train)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
import yaml

import graph_pes.cli.train
from graph_pes.cli import test as test_command
from graph_pes.cli import train as train_command
from graph_pes.cli.settings import run_command
from graph_pes.models import LennardJones, save_model
from tests.runs import config, with_labels


def fails(capsys: pytest.CaptureFixture[str], command: Callable[[], object]) -> str:
    """The one message of a command that fails."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "Traceback" not in out
    errors = [line for line in out.splitlines() if "ERROR" in line]
    assert len(errors) == 1, out
    assert out.splitlines()[-1] == errors[0]
    return errors[0].removeprefix("[graph-pes ERROR]: ")


class Bad:
    """Runs the command on a configuration with something wrong in it."""

    def __init__(self, data_files: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.data_files, self.folder, self.capsys = data_files, folder, capsys

    def train(self, *overrides: str) -> str:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config(self.data_files, self.folder)))
        message = fails(self.capsys, lambda: train_command.main([str(path), *overrides]))
        log = self.folder / "run" / "rank-0.log"
        if log.exists():
            assert "Traceback" in log.read_text()
        return message


@pytest.fixture
def bad(data_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bad:
    return Bad(data_files, tmp_path, capsys)


# --- data -------------------------------------------------------------------------------------


def drop(key: str) -> Callable[[int, ase.Atoms], None]:
    def change(n: int, atoms: ase.Atoms) -> None:
        if n == 2:
            (atoms.info if key == "energy" else atoms.arrays).pop(key)

    return change


def nan(key: str) -> Callable[[int, ase.Atoms], None]:
    def change(n: int, atoms: ase.Atoms) -> None:
        if n == 2 and key == "energy":
            atoms.info["energy"] = np.nan
        elif n == 2:
            atoms.arrays["forces"][1, 2] = np.nan

    return change


@pytest.mark.parametrize("key", ["energy", "forces"])
@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("pre_transform", ["true", "false"])
def test_a_label_that_is_not_a_number(
    key: str, part: str, pre_transform: str, bad: Bad, ethanol: list[ase.Atoms]
):
    path = with_labels(ethanol[:4], nan(key), bad.folder / "nan.xyz")
    message = bad.train(f"data/{part}={{path: {path}, pre_transform: {pre_transform}}}")
    assert message == (
        f"{path}, structure 2: the label {key!r} ({key}) holds a value that is NaN or infinite"
    )


def test_a_charge_that_is_not_a_number(bad: Bad, ethanol: list[ase.Atoms]):
    def change(n: int, atoms: ase.Atoms) -> None:
        atoms.info["total_charge"] = "plus" if n == 2 else 1

    path = with_labels(ethanol[:4], change, bad.folder / "charged.xyz")
    message = bad.train(f"data/train={path}")
    assert message.startswith(f"{path}, structure 2: 'total_charge' should be a number")
    assert "'plus'" in message


def test_an_error_in_a_worker(bad: Bad, ethanol: list[ase.Atoms]):
    path = with_labels(ethanol[:4], nan("energy"), bad.folder / "nan.xyz")
    message = bad.train(
        f"data/valid={{path: {path}, pre_transform: false}}", "fitting/loader_kwargs/num_workers=1"
    )
    assert message.startswith(f"{path}, structure 2: the label 'energy'")


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_a_label_that_is_missing(key: str, bad: Bad, ethanol: list[ase.Atoms]):
    path = with_labels(ethanol[:4], drop(key), bad.folder / "missing.xyz")
    mapping = "{energy: energy, forces: forces}"
    message = bad.train(f"data/train={{path: {path}, property_map: {mapping}}}")
    assert message.startswith(f"{path}, structure 2: ")
    assert repr(key) in message


def test_a_label_that_no_structure_has(bad: Bad, ethanol: list[ase.Atoms]):
    def change(n: int, atoms: ase.Atoms) -> None:
        atoms.info["REF_energy"] = atoms.info.pop("energy")

    path = with_labels(ethanol[:3], change, bad.folder / "named.xyz")
    message = bad.train(f"data/train={path}")
    assert message == (
        "the loss needs the label 'energy', but the training data only have ['forces']: name it in "
        "property_map, or remove the loss"
    )


def test_a_cell_without_volume(bad: Bad, ethanol: list[ase.Atoms]):
    def change(n: int, atoms: ase.Atoms) -> None:
        atoms.pbc = True
        atoms.cell = [10, 10, 0 if n == 1 else 10]

    path = with_labels(ethanol[:3], change, bad.folder / "flat.xyz")
    message = bad.train(f"data/train={path}")
    assert message.startswith(f"{path}, structure 1: ")
    assert "cell" in message


def test_graphs_with_too_small_a_cutoff(bad: Bad):
    message = bad.train(
        f"data/train={{path: {bad.data_files}/train.xyz, cutoff: 2.0}}",
        "model={+PaiNN: {channels: 4, cutoff: 3.0}}",
    )
    assert message == (
        "the training data list neighbours up to 2 Å, but the model needs those up to 3 Å: give the "
        "data a larger cutoff, or none, to take that of the model"
    )


def test_test_sets_are_checked_before_training(bad: Bad, ethanol: list[ase.Atoms]):
    path = with_labels(ethanol[:4], nan("forces"), bad.folder / "nan.xyz")
    message = bad.train(f"data/test/hot={path}", "fitting/trainer_kwargs/max_epochs=100000")
    assert message.startswith(f"{path}, structure 2: ")
    short = f"{{path: {bad.data_files}/test.xyz, cutoff: 1.5}}"
    message = bad.train(f"data/test/hot={short}", "fitting/trainer_kwargs/max_epochs=100000")
    assert message.startswith("the test data 'hot' list neighbours up to 1.5 Å")


def test_more_structures_than_there_are(bad: Bad):
    path = f"{bad.data_files}/train.xyz"
    message = bad.train(f"data/train={{path: {path}, n: 9}}")
    assert message == f"data/train: {path} holds 8 structures, but n = 9 were asked for"


@pytest.mark.parametrize("n", ["0", "-3"])
def test_no_structures(n: str, bad: Bad):
    message = bad.train(f"data/valid={{path: {bad.data_files}/valid.xyz, n: {n}}}")
    assert (
        message == f"data/valid: n = {n} makes an empty data set: expected at least one structure"
    )


def test_an_empty_file(bad: Bad):
    (bad.folder / "empty.xyz").write_text("")
    message = bad.train(f"data/train={bad.folder}/empty.xyz")
    assert (
        message == f"data/train: {bad.folder}/empty.xyz is empty: expected at least one structure"
    )


def test_a_truncated_file(bad: Bad):
    text = (bad.data_files / "train.xyz").read_text()
    (bad.folder / "half.xyz").write_text(text[: len(text) // 2 + 300])
    message = bad.train(f"data/train={bad.folder}/half.xyz")
    assert message.startswith(
        f"data/train: {bad.folder}/half.xyz can't be read, it may be truncated"
    )


def test_a_file_of_another_kind(bad: Bad):
    (bad.folder / "table.xyz").write_text("time,energy\n0,1\n")
    message = bad.train(f"data/train={bad.folder}/table.xyz")
    assert message.startswith(f"data/train: {bad.folder}/table.xyz can't be read")


def test_a_file_that_is_not_there(bad: Bad):
    message = bad.train("data/train=elsewhere.xyz")
    assert message.startswith("data/train: elsewhere.xyz: there is no such file (looked from ")


@pytest.mark.parametrize("name", ["train", "valid"])
def test_test_sets_of_the_same_name(name: str, bad: Bad):
    message = bad.train(f"data/test/{name}={bad.data_files}/test.xyz")
    assert message == f"data/test: {name!r} already is the name of another data set"


def test_fewer_structures_than_processes(bad: Bad):
    message = bad.train(
        f"data/valid={{path: {bad.data_files}/valid.xyz, n: 1}}", "fitting/trainer_kwargs/devices=2"
    )
    assert message == (
        "the validation set has 1 structures: expected at least one for each of 2 processes"
    )


# --- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["fitting/optimiser={}"], "unknown key fitting/optimiser: did you mean 'optimizer'? "),
        (["model={+FixedOffset: {Xx: 1.0}}"], "model: can't make +FixedOffset: "),
        (["model={+PiaNN: {}}"], "model: there is no object +PiaNN: did you mean 'PaiNN'?"),
        (["fitting/optimizer={name: Adam, learning_rate: 1}"], "fitting/optimizer: can't make +Optimizer: Adam takes no argument 'learning_rate'"),
        (["model/many-body/+PaiNN/cutoff=-1"], "model/many-body: can't make +PaiNN: "),
        (["model/many-body/+PaiNN/layers=two"], "model/many-body: can't make +PaiNN: "),
        (["fitting/trainer_kwargs/accelerator=gppu"], "You selected an invalid accelerator name: `accelerator='gppu'`"),
        (["fitting/trainer_kwargs/max_epochs=many"], "fitting/trainer_kwargs/max_epochs: expected a whole number or null, got 'many' (str)"),
        (["fitting/trainer_kwargs/precision=33"], "fitting/trainer_kwargs/precision: expected one of 64, 32, 16 or"),
        (["fitting/loader_kwargs/num_workers=two"], "fitting/loader_kwargs/num_workers: expected a whole number, got 'two' (str)"),
        (["fitting/loader_kwargs/batch_size=0"], "batch_size should be a positive whole number"),
        (["fitting/swa={lr: 1e-3, start: 0.5}", "fitting/trainer_kwargs/max_epochs=-1"], "swa.start is a fraction of max_epochs, which is not set"),
        (["no-such-file.yaml"], "can't read the configuration file no-such-file.yaml"),
        (["loss=[+PerAtomEnergyLoss(), +PerAtomEnergyLoss()]"], "loss: TotalLoss: expected losses with different names"),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(overrides: list[str], expected: str, bad: Bad):
    message = bad.train(*overrides)
    assert message.startswith(expected)
    assert len(message) < 500


def test_a_key_given_twice(bad: Bad):
    (bad.folder / "twice.yaml").write_text("fitting:\n  swa: null\n  ema: {}\n  swa: null\n")
    path = bad.folder / "twice.yaml"
    assert bad.train(str(path)) == f"{path}: the key 'swa' is given twice, in lines 2 and 4"


def test_mistakes_leave_no_folder(bad: Bad):
    bad.train("model={+PiaNN: {}}")
    bad.train("data/train=elsewhere.xyz")
    bad.train("fitting/optimizer={name: Adma}")
    bad.train("fitting/scheduler={name: StepLR}")
    assert [path.name for path in bad.folder.iterdir()] == ["config.yaml"]


# --- model files ------------------------------------------------------------------------------


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    save_model(LennardJones(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def newer(path: Path) -> None:
    contents = torch.load(path, weights_only=True)
    torch.save({**contents, "graph_pes_model": 99}, path)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def something_else(path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (newer, "has format 99, but this version of graph-pes reads formats up to"),
        (damaged, "is not a model file of graph-pes 2, or is damaged"),
        (empty, "is not a model file of graph-pes 2, or is damaged"),
        (something_else, "is not a model file of graph-pes"),
    ],
)
def test_model_files(
    spoil: Callable[[Path], None],
    expected: str,
    model_file: Path,
    bad: Bad,
    capsys: pytest.CaptureFixture[str],
):
    spoil(model_file)
    arguments = [f"model_path={model_file}", f"data={bad.data_files}/valid.xyz"]
    message = fails(capsys, lambda: test_command.main(arguments))
    assert message.startswith(f"{model_file} {expected}")
    assert expected in bad.train(f"model={{+load_model: {model_file}}}")


def test_a_model_without_the_labels_that_the_data_have(
    model_file: Path, bad: Bad, capsys: pytest.CaptureFixture[str]
):
    mapping = "property_map: {dipole: dipole}"
    data = f"data={{path: {Path(__file__).parents[2]}/examples/ethanol/data/valid.xyz, {mapping}}}"
    message = fails(capsys, lambda: test_command.main([f"model_path={model_file}", data]))
    assert message.startswith("nothing to evaluate: LennardJones predicts ['energy'")


# --- while training ---------------------------------------------------------------------------


def test_an_error_leaves_the_best_model(bad: Bad, monkeypatch: pytest.MonkeyPatch, run: Path):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graph_pes.cli.train, "report", full)
    message = bad.train()
    assert message == "[Errno 28] No space left on device"
    names = {path.name for path in (bad.folder / "run").iterdir()}
    assert {"model.pt", "summary.yaml", "checkpoints"} <= names
    assert "[graph-pes ERROR]: Traceback" in (bad.folder / "run" / "rank-0.log").read_text()


def test_a_gpu_without_enough_memory(capsys: pytest.CaptureFixture[str]):
    def command() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    message = fails(capsys, lambda: run_command(command))
    assert message.startswith("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert "batch_size" in message


def test_a_bug_shows_its_traceback(bad: Bad, monkeypatch: pytest.MonkeyPatch):
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(graph_pes.cli.train, "report", bug)
    with pytest.raises(ZeroDivisionError):
        bad.train()
    assert "ZeroDivisionError" in (bad.folder / "run" / "rank-0.log").read_text()


def test_the_traceback_is_seen_if_asked_for(
    capsys: pytest.CaptureFixture[str], data_files: Path, tmp_path: Path
):
    plain = config(
        data_files, tmp_path, "general/log_level=DEBUG", "loss={+PropertyLoss: {property: stress}}"
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(SystemExit):
        train_command.main([str(tmp_path / "config.yaml")])
    out = capsys.readouterr().out
    assert "the loss needs the label 'stress'" in out.splitlines()[-1]
