from __future__ import annotations

import bz2
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import AtomicGraph
from graph_pes.interfaces import ani
from graph_pes.interfaces.ani import from_torchani
from graph_pes.interfaces.foreign import UnsupportedModelError

from .original import assert_equal_to_original, assert_usable, data_file, structures

INFO = "models/ani-2x_member0/ani-2x_1x.info"

# --- the published weights --------------------------------------------------------------------


def of_torchani(info: Path, monkeypatch: pytest.MonkeyPatch, member: int = 0) -> Any:
    """The model of torchani itself."""
    pytest.importorskip("torchani", reason="torchani is not installed")
    from torchani import neurochem

    monkeypatch.setattr(neurochem, "neurochem_dir", lambda: info.parent.resolve())
    return neurochem.load_model_from_info_file(info, model_index=member)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_equal(precision: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    info = data_file(INFO)
    original = of_torchani(info, monkeypatch).to(getattr(torch, precision))
    everything = {**structures(), **structures("O N S", seed=1), **structures("F Cl C", seed=2)}
    model = ani(info, precision=precision, native=native)
    assert_equal_to_original(model, original.ase(), everything, fully_periodic=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_ethanol(native: bool) -> None:
    """As measured with torchani."""
    if not native:
        pytest.importorskip("torchani", reason="torchani is not installed")
    graph = AtomicGraph.from_ase(molecule("CH3CH2OH"), 5.1, dtype=torch.float64)
    energy = ani(data_file(INFO), native=native).predict_energy(graph).item()
    assert energy == pytest.approx(-4217.5179, abs=5e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("native", [False, True])
def test_trains_and_saves(native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if native:
        monkeypatch.setitem(sys.modules, "torchani", None)
    else:
        pytest.importorskip("torchani", reason="torchani is not installed")
    assert_usable(ani(data_file(INFO), native=native), structures()["methanol"], tmp_path)


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchani", None)
    with pytest.raises(ImportError, match=r"pip install 'graph-pes\[ani\]'"):
        ani("some.info")


# --- files ------------------------------------------------------------------------------------

CONSTANTS = """\
TM = 1
Rcr = 4.1000e+00
Rca = 3.1000e+00
EtaR = [3.1000000e+00]
ShfR = [9.1000000e-01,1.9000000e+00,3.0000000e+00]
Zeta = [4.1000000e+00]
ShfZ = [6.1000000e-01,2.3000000e+00]
EtaA = [2.1000000e+00]
ShfA = [1.1000000e+00,2.2000000e+00]
Atyp = [H,C,O]
"""

#: Of 3 x 3 radial and 6 x 4 angular functions.
WIDTHS = {"H": [33, 5, 4, 1], "C": [33, 7, 3, 1], "O": [33, 6, 4, 1]}

LAYER = """\
layer [
nodes={n_out};
activation={activation};
type=0;
blocksize={n_in};
dropout=0;
dropset=0.000000;
maskupdate=0.000000;
maxnorm=0;
norm=0.000000;
normupdate=0.000000;
l2norm=0;
l2valu=0.000000;
btchnorm=0;
weights=FILE:ANN-{symbol}.nnf-l{n}.wparam[{size}];
biases=FILE:ANN-{symbol}.nnf-l{n}.bparam[{n_out}];
]
"""


def write_network(folder: Path, symbol: str, hidden: int = 9) -> None:
    """A network with random weights."""
    text, rng = "inputsize=33;\natom_net X $\n", np.random.default_rng(ord(symbol))
    for n, (n_in, n_out) in enumerate(pairwise(WIDTHS[symbol]), start=1):
        layer = {"n": n, "n_in": n_in, "n_out": n_out, "size": n_in * n_out, "symbol": symbol}
        text += LAYER.format(activation=hidden if n_out > 1 else 6, **layer)
        for kind, size in (("w", n_in * n_out), ("b", n_out)):
            values = rng.normal(size=size).astype("<f4")
            values.tofile(folder / f"ANN-{symbol}.nnf-l{n}.{kind}param")
    (folder / f"ANN-{symbol}.nnf").write_bytes(b"12=\n" + bz2.compress(text.encode()))


@pytest.fixture
def info(tmp_path: Path) -> Path:
    """A tiny ensemble of two in the format of NeuroChem, the members of which are the same."""
    folder = tmp_path / "tiny" / "train0" / "networks"
    folder.mkdir(parents=True)
    for symbol in WIDTHS:
        write_network(folder, symbol)
    shutil.copytree(folder.parent, tmp_path / "tiny" / "train1")
    (tmp_path / "tiny" / "tiny.params").write_text(CONSTANTS)
    (tmp_path / "tiny" / "sae.dat").write_text("H,0=-0.61\nC,1=-38.07\nO,2=-75.19\n")
    (tmp_path / "tiny.info").write_text("tiny/tiny.params\ntiny/sae.dat\ntiny/train\n2\n")
    return tmp_path / "tiny.info"


@pytest.mark.filterwarnings("ignore")
def test_files_are_read_as_by_torchani(info: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = of_torchani(info, monkeypatch, member=1).double()
    everything = structures()
    for model in (
        ani(info, member=1, precision="float64", native=True),
        from_torchani(original, native=True),
        from_torchani(original),
    ):
        assert model.dtype == torch.float64
        assert model.cutoff_value == 4.1
        assert_equal_to_original(model, original.ase(), everything, fully_periodic=True)


def test_narrow_networks_stay_narrow(info: Path) -> None:
    """Units that were added to those of C, say, have no gradient."""
    network: Any = ani(info, native=True)["network"].train()
    graph = AtomicGraph.from_ase(structures()["methanol"], 4.1)
    found = network.predict(graph, ["energy", "forces"])
    (found["energy"] ** 2 + (found["forces"] ** 2).sum()).backward()
    assert network.networks.widths == [33, 7, 4, 1]
    weights = [W.grad[1] for W in network.networks.weights]
    biases = [b.grad[1, 0] for b in network.networks.biases]
    assert bool((weights[0] != 0).any(0).all())
    assert bool((weights[1][:, :3] != 0).all())
    assert bool((weights[1][:, 3] == 0).all())
    assert bool((weights[2][3] == 0).all())
    assert biases[1][3] == 0


def rewrite(file: str, *changes: tuple[str, str]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / file).write_text(text)

    return change


NETWORKS = "tiny/train0/networks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite("tiny.info", ("\n2", "")), "expected the names of files of constants"),
        (rewrite("tiny/tiny.params", ("EtaA", "EtaB")), r"expected constants .* \['EtaA'\]"),
        (rewrite("tiny/tiny.params", ("[2.1", "[1,2.1")), "expected one value of EtaA"),
        (rewrite("tiny/tiny.params", ("[9.1", "[0.1,9.1")), "networks of the 36 symmetry funct"),
        (lambda at: write_network(at / NETWORKS, "C", hidden=5), "activation CELU.* 5 in layer 1"),
        (lambda at: (at / NETWORKS / "ANN-C.nnf").write_text("x"), "expected a compressed descr"),
        (
            lambda at: (at / NETWORKS / "ANN-C.nnf-l2.bparam").write_bytes(b"1234"),
            "l2.bparam: expected 3 numbers, got 1",
        ),
    ],
)
def test_files_of_something_else(
    info: Path, change: Callable[[Path], object], message: str
) -> None:
    change(info.parent)
    with pytest.raises(UnsupportedModelError, match=message):
        ani(info, native=True)


def test_missing_files(info: Path) -> None:
    with pytest.raises(ValueError, match="member: expected one of the 2 of the ensemble, got 2"):
        ani(info, member=2, native=True)
    (info.parent / "tiny" / "sae.dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"sae\.dat"):
        ani(info, native=True)


@pytest.mark.filterwarnings("ignore")
def test_other_models(info: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = of_torchani(info, monkeypatch)
    from torchani.cutoffs import CutoffSmooth
    from torchani.potentials import RepulsionXTB

    original.potentials["repulsion"] = RepulsionXTB(original.symbols)
    with pytest.raises(UnsupportedModelError, match=r"it adds \['repulsion'\]"):
        from_torchani(original, native=True)
    del original.potentials["repulsion"]
    original.aev_computer.radial.cutoff_fn = CutoffSmooth()
    with pytest.raises(UnsupportedModelError, match="cosine cutoffs, got .*CutoffSmooth"):
        from_torchani(original, native=True)
    with pytest.raises(UnsupportedModelError, match="expected one member of an ensemble"):
        from_torchani(of_torchani(info, monkeypatch, member=None), native=True)
