from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.build import molecule

from graph_pes.atomic_graph import HEAD, AtomicGraph, head_number, to_batch
from graph_pes.cli import export as command
from graph_pes.models import (
    EDDP,
    MACE,
    AdditionModel,
    FixedOffset,
    GraphPESModel,
    LennardJones,
    M3GNet,
    MultiHead,
    NequIP,
    Orb,
    PaiNN,
    SchNet,
    TensorNet,
    UnitConverter,
    load_model,
    lora,
    save_model,
    select_head,
)
from graph_pes.nn.heads import PerHead
from graph_pes.training.pre_fit import with_auto_offset

CHO = ["C", "H", "O"]
MODELS = {
    "PaiNN": lambda: PaiNN(channels=8, layers=1, cutoff=3.0),
    "SchNet": lambda: SchNet(channels=8, layers=1, cutoff=3.0),
    "M3GNet": lambda: M3GNet(3.0, three_body_cutoff=2.5, channels=8, layers=1),
    "TensorNet": lambda: TensorNet(channels=8, layers=1, radial_features=8, cutoff=3.0),
    "NequIP": lambda: NequIP(
        CHO, layers=1, features={"channels": 4, "l_max": 1, "use_odd_parity": True}, cutoff=3.0
    ),
    "MACE": lambda: MACE(CHO, channels=4, l_max=1, correlation=2, layers=2, cutoff=3.0),
    "Orb": lambda: Orb(channels=8, layers=1, mlp_hidden_dim=8, cutoff=3.0, conservative=True),
    "direct Orb": lambda: Orb(channels=8, layers=1, mlp_hidden_dim=8, cutoff=3.0),
}
HEADS = ["PBE", "xTB"]


def graphs(*heads: str, seed: int = 0) -> list[AtomicGraph]:
    made = []
    for n, head in enumerate(heads):
        atoms = molecule(["CH3OH", "H2O", "CH4"][n % 3])
        atoms.rattle(0.1, seed=seed + n)
        graph = AtomicGraph.from_ase(atoms, 3.0, dtype=torch.float64)
        made.append(graph._replace(other={HEAD: torch.tensor(head_number(head))}))
    return made


def two_heads(model: GraphPESModel) -> MultiHead:
    """Heads that differ: in their weights, and in the energies of atoms."""
    multi = MultiHead(model, HEADS).double().eval()
    for head, size in zip(HEADS, (0.1, 0.3), strict=True):
        for module in multi.modules():
            if isinstance(module, PerHead):
                for parameter in module.heads[head].parameters():
                    parameter.data += size * torch.randn_like(parameter)
        multi.offsets[head]["H"] = -10 * size  # type: ignore[index, operator]
    return multi


@pytest.mark.parametrize("name", MODELS)
def test_starts_from_the_model(name: str) -> None:
    model = MODELS[name]().double().eval()
    batch = to_batch(graphs("PBE", "xTB"))
    before = model.predict(batch, ["energy", "forces"])
    after = MultiHead(model, HEADS).eval().predict(batch, ["energy", "forces"])
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_every_structure_has_its_head(name: str, tmp_path: Path) -> None:
    """In a mixed batch, and as the chosen head predicts, also from a file."""
    multi = two_heads(MODELS[name]())
    names = ["xTB", "PBE", "xTB", "PBE"]
    batch = graphs(*names)
    found = multi.predict(to_batch(batch), ["energy", "forces"])
    save_model(multi, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    starts = [0]
    for n, (graph, head) in enumerate(zip(batch, names, strict=True)):
        starts.append(starts[-1] + len(graph.Z))
        chosen = select_head(loaded, head).eval()
        assert type(chosen["base"]) is type(MODELS[name]())
        bare = graph._replace(other={})
        expected = chosen.predict(bare, ["energy", "forces"])
        forces = found["forces"][starts[n] : starts[n + 1]]
        torch.testing.assert_close(found["energy"][n], expected["energy"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(forces, expected["forces"], rtol=1e-9, atol=1e-9)
    energies = [
        select_head(multi, head).predict_energy(batch[0]._replace(other={})) for head in HEADS
    ]
    assert abs(energies[0] - energies[1]) > 1


def test_the_rest_is_shared() -> None:
    multi, single = MultiHead(MODELS["TensorNet"](), HEADS), MODELS["TensorNet"]()
    per_head = [name for name, m in multi.named_modules() if isinstance(m, PerHead)]
    assert per_head == ["model.read_out", "model.scaler"]
    names = {name for name, _ in multi.named_parameters()}
    assert {"model.read_out.heads.PBE.norm.weight", "offsets.xTB.values"} <= names
    shared = {
        name for name, _ in single.named_parameters() if not name.startswith(("read", "scal"))
    }
    assert {f"model.{name}" for name in shared} <= names


def test_a_head_learns_from_its_structures_alone() -> None:
    multi = MultiHead(MODELS["PaiNN"](), HEADS)
    multi.predict_forces(to_batch(graphs("xTB", "xTB"))).square().sum().backward()
    read_out = multi.model.read_out.heads
    gradients = [read_out[head].first.weight.grad for head in HEADS]
    assert gradients[0] is None or float(gradients[0].abs().max()) == 0
    assert float(gradients[1].abs().max()) > 0


def labelled(energies: dict[str, dict[str, float]]) -> list[AtomicGraph]:
    made = []
    for n, head in enumerate(list(energies) * 6):
        graph = graphs(head, head, head)[n % 3]
        atoms = [energies[head][{1: "H", 6: "C", 8: "O"}[Z]] for Z in graph.Z.tolist()]
        energy = torch.tensor(sum(atoms), dtype=torch.float64)
        made.append(graph._replace(properties={"energy": energy}))
    return made


REFERENCES = {
    "PBE": {"H": -13.0, "C": -1030.0, "O": -2040.0},
    "xTB": {"H": -10.0, "C": -50.0, "O": -110.0},
}


def values(multi: MultiHead) -> dict[str, dict[str, float]]:
    return {
        head: {symbol: multi.offsets[head][symbol].item() for symbol in "HCO"}  # type: ignore[index]
        for head in HEADS
    }


def test_energies_of_atoms_of_a_new_model() -> None:
    multi = MultiHead(MODELS["PaiNN"](), HEADS)
    data = labelled(REFERENCES)
    multi.pre_fit_all_components(data)
    for head, expected in REFERENCES.items():
        assert values(multi)[head] == pytest.approx(expected, abs=0.1)
    # What is left for the network is the noise, not the difference between the heads.
    scales = multi.model.scaler.heads["PBE"].per_element_scaling.values
    assert float(scales.detach().max()) < 2


def test_energies_of_atoms_of_a_trained_model() -> None:
    model = AdditionModel(painn=MODELS["PaiNN"](), offset=FixedOffset(**REFERENCES["PBE"]))
    data = labelled(REFERENCES)
    model.pre_fit_all_components(data[::2])
    multi = MultiHead(model, HEADS)
    multi.pre_fit_all_components(data)
    assert values(multi)["xTB"] == {"H": 0, "C": 0, "O": 0}  # only where it is asked for
    assert with_auto_offset(multi, data) is multi
    errors = torch.tensor(
        [float(multi.eval().predict_energy(g) - g.properties["energy"]) for g in data]
    )
    assert errors.abs().max() < 1
    assert abs(values(multi)["xTB"]["C"] - 980) < 5
    assert abs(values(multi)["PBE"]["C"]) < 5


def test_low_rank_corrections_of_heads(tmp_path: Path) -> None:
    multi = lora(two_heads(MODELS["PaiNN"]()), rank=2, targets=".*heads")
    save_model(multi, tmp_path / "model.pt")
    batch = to_batch(graphs("PBE", "xTB"))
    again = load_model(tmp_path / "model.pt").eval()
    torch.testing.assert_close(again.predict_forces(batch), multi.predict_forces(batch))


def test_within_a_sum() -> None:
    pair = LennardJones(cutoff=3.0).double()
    total = AdditionModel(multi=two_heads(MODELS["PaiNN"]()), pair=pair).eval()
    (graph,) = graphs("xTB")
    chosen = select_head(total, "xTB").eval()
    assert list(chosen.models) == ["multi", "pair"]
    found = chosen.predict_energy(graph._replace(other={}))
    torch.testing.assert_close(found, total.predict_energy(graph))


def test_mistakes() -> None:
    multi = two_heads(MODELS["PaiNN"]())
    (graph,) = graphs("PBE")
    with pytest.raises(ValueError, match=r"name no head.*\['PBE', 'xTB'\].*select_head\(model, 'P"):
        multi.predict_energy(graph._replace(other={}))
    with pytest.raises(ValueError, match="structure 1 belongs to a head that .* has"):
        multi.predict_energy(to_batch(graphs("PBE", "PBA")))
    with pytest.raises(ValueError, match=r"head: expected one of \['PBE', 'xTB'\], got 'pbe'"):
        select_head(multi, "pbe")
    with pytest.raises(ValueError, match="PaiNN has no heads, and so no 'PBE'"):
        select_head(MODELS["PaiNN"](), "PBE")
    with pytest.raises(ValueError, match="no module matches .*; the names are"):
        MultiHead(EDDP(["H"], cutoff=3.0), HEADS, read_out="typo")
    for wrong in ("PBE", [], ["a", "a"]):
        with pytest.raises(ValueError, match="expected a list of different names"):
            MultiHead(MODELS["PaiNN"](), wrong)
    with pytest.raises(ValueError, match="a head can't be called 'a.b'"):
        MultiHead(MODELS["PaiNN"](), ["a.b"])


def test_a_head_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    multi = two_heads(MODELS["PaiNN"]())
    save_model(multi, tmp_path / "model.pt")
    exported: list[GraphPESModel] = []

    class Metadata:
        dtype, cutoff, radial_tables = "float64", 3.0, "none"

    def export(model: GraphPESModel, *_, **__):
        exported.append(model)
        return Metadata()

    monkeypatch.setattr(command, "export_model", export)
    command.main([str(tmp_path / "model.pt"), str(tmp_path / "xtb.pt2"), "--head", "xTB"])
    (graph,) = graphs("xTB")
    found = exported[0].eval().predict_energy(graph._replace(other={}))
    torch.testing.assert_close(found, multi.predict_energy(graph))


def test_in_other_units() -> None:
    multi = UnitConverter(two_heads(MODELS["PaiNN"]()), energy_to_eV=2.0, length_to_A=1.0)
    (graph,) = graphs("xTB")
    assert multi.eval().predict_energy(graph) == pytest.approx(
        2 * float(multi.model.predict_energy(graph))
    )
