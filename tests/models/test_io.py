from __future__ import annotations

import importlib
import json
import os
import pickle
import pickletools
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

import graph_pes.models
from graph_pes.atomic_graph import AtomicGraph
from graph_pes.models import (
    AdditionModel,
    FixedCharges,
    FixedOffset,
    FixedTensorOffset,
    GraphPESModel,
    GraphPropertyModel,
    LearnableOffset,
    LearnableTensorOffset,
    LearnedCharges,
    LennardJones,
    Morse,
    PaiNN,
    SchNet,
    StillingerWeber,
    TensorAdditionModel,
    TensorMACE,
    TensorNequIP,
    UnitConverter,
    ZEmbeddingTensorMACE,
    ZEmbeddingTensorNequIP,
    io,
    load_model,
    load_model_component,
    save_model,
)
from graph_pes.models.io import ModelFileError, load_metadata
from graph_pes.nn.mlp import MLP
from tests.conformance.models import MODELS

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def graph_of(atoms: ase.Atoms, cutoff: float = 5.0) -> AtomicGraph:
    return AtomicGraph.from_ase(atoms, cutoff, dtype=torch.float64)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, and of the same types."""
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


# --- round trips --------------------------------------------------------------------------

FEATURES = {"channels": 4, "l_max": 1, "use_odd_parity": True}

OTHERS: dict[str, Callable[[], GraphPropertyModel]] = {
    "mixed": lambda: AdditionModel(
        painn=PaiNN(channels=4, layers=2).double(),
        schnet=SchNet(channels=4, layers=1).float(),
        morse=Morse().half(),
        units=UnitConverter(LennardJones().double(), 2.0, 3.0),
        nested=AdditionModel(a=LearnableOffset(H=1 / 3), b=Morse().double()),
    ),
    "water": StillingerWeber.monatomic_water,
    "FixedTensorOffset": lambda: FixedTensorOffset(H=[1.0, 1 / 3], O=[0.0, -1.0]),
    "LearnableTensorOffset": lambda: LearnableTensorOffset(3, H=[1 / 3, 0.0, 2.0]),
    "TensorAdditionModel": lambda: TensorAdditionModel(a=LearnableTensorOffset(2)),
    "TensorNequIP": lambda: TensorNequIP(
        ["H", "Si"], cutoff=4.0, layers=2, features=FEATURES, target_tensor_irreps="0e + 1o"
    ),
    "ZEmbeddingTensorNequIP": lambda: ZEmbeddingTensorNequIP(
        cutoff=4.0, layers=2, features=FEATURES, target_tensor_irreps="1o"
    ),
    "FixedCharges": lambda: FixedCharges(H=0.5, Si=-0.5),
    "LearnedCharges": lambda: LearnedCharges(SchNet(cutoff=4.0, channels=4, layers=1)),
    "TensorMACE": lambda: TensorMACE(["H", "Si"], cutoff=4.0, channels=2, l_max=1),
    "ZEmbeddingTensorMACE": lambda: ZEmbeddingTensorMACE(cutoff=4.0, channels=2, l_max=1),
}
FACTORIES = {row.name: row.factory for row in MODELS} | OTHERS
ELEMENTS = {row.name: row.elements for row in MODELS}


def test_every_model_is_here() -> None:
    names = {type(factory()).__name__ for factory in FACTORIES.values()}
    concrete = {
        name
        for name in graph_pes.models.__all__
        if isinstance(model := getattr(graph_pes.models, name), type)
        and not getattr(model, "__abstractmethods__", None)
    }
    # Structures name the head of a MultiHead: see test_multi_head.
    assert concrete - names - {"EnergyOffset", "MultiHead"} == set()


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None], ids=["32", "64", "as_is"])
@pytest.mark.parametrize("name", FACTORIES)
def test_round_trip(
    name: str,
    dtype: torch.dtype | None,
    default: torch.dtype,
    path: Path,
    default_dtype: Callable[[torch.dtype], None],
) -> None:
    """Nothing changes, to the last bit, whatever torch's default dtype is."""
    model = FACTORIES[name]()
    model = model if dtype is None else model.to(dtype)
    model.register_elements([1, 14])
    save_model(model, path)
    default_dtype(default)
    loaded = load_model(path)
    assert type(loaded) is type(model)
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))
    for attribute in ("dtype", "cutoff_value", "elements_seen", "implemented_properties"):
        assert getattr(loaded, attribute) == getattr(model, attribute)
    assert repr(loaded) == repr(model)
    R = np.random.default_rng(0).uniform(0, 4, (5, 3))
    elements = ELEMENTS.get(name, ("H", "Si"))
    first, last = elements[0], elements[-1]
    atoms = ase.Atoms(f"{last}3{first}2", R, cell=[4.5, 4.6, 4.7], pbc=True)
    graph, properties = graph_of(atoms, model.cutoff_value), list(model.implemented_properties)
    if isinstance(model, GraphPESModel):
        properties += ["energy", "forces", "virial"]
    expected = model.eval().predict(graph, properties)
    assert same(loaded.eval().predict(graph, properties), expected)


def test_saving_again_gives_the_same_contents(path: Path) -> None:
    save_model(FACTORIES["mixed"](), path)
    first = torch.load(path, weights_only=True)
    save_model(load_model(path), path)
    assert same(torch.load(path, weights_only=True), first)


def test_golden_file_of_format_1() -> None:
    """Made once by make_format_1.py: every later version has to read it."""
    model = load_model(GOLDEN / "format_1.pt").eval()
    frozen = json.loads((GOLDEN / "format_1.json").read_text())
    predicted = model.predict(graph_of(molecule("CH3CH2OH"), 3.0), ["energy", "forces"])
    for key, value in predicted.items():
        # One part is in single precision.
        np.testing.assert_allclose(value, frozen[key], rtol=0, atol=1e-5)
    assert model.elements_seen == ["H", "C", "O"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "models.painn.embedding.embeddings.values"
    ]
    assert model["offset"].offsets["C"].item() == -1029.4889999148424
    assert [m.dtype for m in model.models.values()][:2] == [torch.float64, torch.float32]
    assert load_metadata(GOLDEN / "format_1.pt") == {"note": "golden", "epoch": 3}


def test_random_numbers_go_on_as_before(path: Path) -> None:
    model = PaiNN(channels=4)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    save_model(model, path)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_loaded_models_can_be_trained(path: Path) -> None:
    save_model(PaiNN(channels=4).eval(), path)
    loaded = load_model(path)
    assert loaded.training
    loaded.predict_forces(graph_of(molecule("CH4"))).square().sum().backward()
    assert loaded.embedding.embeddings.values.grad is not None


# --- metadata and components --------------------------------------------------------------


def test_metadata(path: Path) -> None:
    save_model(Morse(), path)
    assert load_metadata(path) == {}
    metadata = {
        "loss": np.float64(0.25),
        "n": np.int64(3),
        "best": np.bool_(True),
        "names": ["a", np.str_("b")],
        "shape": (1, 2),
        "nested": {"x": torch.tensor([1.0, 2.0]), 7: None},
    }
    save_model(Morse(), path, metadata)
    expected = {"loss": 0.25, "n": 3, "best": True, "names": ["a", "b"], "shape": (1, 2)}
    expected["nested"] = {"x": torch.tensor([1.0, 2.0]), 7: None}
    assert same(load_metadata(path), expected)


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        ({"a": {"b": [1, {2}]}}, r"metadata\['a'\]\['b'\]\[1\] is a set, which can't be stored"),
        ({"when": np.datetime64("2026-01-01")}, r"metadata\['when'\] is a datetime64"),
        ({"xs": np.zeros(3)}, r"metadata\['xs'\] is a ndarray"),
        ({("a", "b"): 1}, r"metadata has the key \('a', 'b'\), which can't be stored"),
    ],
)
def test_metadata_that_could_not_be_read_again(
    metadata: dict[str, Any], where: str, path: Path
) -> None:
    with pytest.raises(ModelFileError, match=where):
        save_model(Morse(), path, metadata)
    assert not path.exists()


def test_component(path: Path) -> None:
    save_model(FACTORIES["mixed"](), path)
    component = load_model_component(path, "painn")
    assert isinstance(component, PaiNN)
    assert same(dict(component.state_dict()), dict(load_model(path)["painn"].state_dict()))
    with pytest.raises(ModelFileError, match=r"no component 'triple': .*'painn', 'schnet'"):
        load_model_component(path, "triple")
    save_model(Morse(), path)
    with pytest.raises(ModelFileError, match=r"holds a Morse, not a sum of models: use load_model"):
        load_model_component(path, "painn")


def test_component_of_tensors(path: Path) -> None:
    save_model(TensorAdditionModel(a=FixedTensorOffset(H=[1.0])), path)
    assert isinstance(load_model_component(path, "a"), FixedTensorOffset)


# --- models of others ---------------------------------------------------------------------

MODULE = """
import torch
from graph_pes.models import GraphPESModel
from graph_pes.atomic_graph import neighbour_distances, sum_over_neighbours

class Spring(GraphPESModel):
    def __init__(self, k, /, cutoff=3.0, *lengths, nested=None, activation=None, **options):
        super().__init__(cutoff, ["local_energies"])
        self.k = torch.nn.Parameter(torch.tensor(float(k)))
        self.register_buffer("third", torch.tensor(1 / 3), persistent=False)
        self.nested, self.lengths, self.options = nested, lengths, options
        self.activation = activation
        options["seen"] = True  # bad manners
        self.history = []

    def forward(self, graph):
        r = neighbour_distances(graph)
        energies = sum_over_neighbours(self.k * (r - self.third) ** 2, graph)
        return {"local_energies": energies}

    @property
    def extra_state(self):
        return {"history": self.history}

    @extra_state.setter
    def extra_state(self, state):
        self.history = state["history"]

    class Stiff(GraphPESModel):
        def __init__(self):
            super().__init__(2.0, ["local_energies"])

        def forward(self, graph):
            return {"local_energies": 0 * graph.R.sum(1)}
"""


@pytest.fixture
def springs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module with a model of its own."""
    (tmp_path / "my_springs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_springs", raising=False)
    return importlib.import_module("my_springs")


def test_model_of_an_importable_module(springs: ModuleType, path: Path) -> None:
    options = {"a": [1, (2, "x"), None], "b": {"c": {3: True}}}
    model = springs.Spring(
        2, 3.0, 1.5, 2.5, nested=Morse(D=0.2), activation=torch.nn.SiLU, options=options
    ).double()
    model.history = [1, "two", torch.tensor(3.0)]
    save_model(model, path)
    loaded = load_model(path)
    assert type(loaded) is springs.Spring
    assert loaded.lengths == (1.5, 2.5)
    assert loaded.options == {"options": options, "seen": True}
    assert loaded.activation is torch.nn.SiLU
    assert isinstance(loaded.nested, Morse)
    assert loaded.nested.D.item() == model.nested.D.item()
    assert same(loaded.history[:2], [1, "two"])
    # Also what is not in the state dict, which would differ if it were made again.
    assert same(loaded.third, model.third)
    assert loaded.third.dtype == torch.float64
    graph = graph_of(molecule("CH4"))
    assert same(loaded.predict_energy(graph), model.predict_energy(graph))


def test_class_inside_of_a_class(springs: ModuleType, path: Path) -> None:
    save_model(springs.Spring.Stiff(), path)
    assert type(load_model(path)) is springs.Spring.Stiff


def test_arguments_are_those_given(springs: ModuleType, path: Path) -> None:
    """Not what was made of the same list or dictionary later."""
    lengths = [1.0, 2.0]
    model = springs.Spring(1.0, options=lengths)
    lengths.append(3.0)
    save_model(model, path)
    assert load_model(path).options == {"options": [1.0, 2.0], "seen": True}


def test_numbers_of_numpy(path: Path) -> None:
    model = SchNet(np.float64(3.0), channels=np.int64(4), expansion_features=np.int32(5))
    save_model(model, path)
    arguments = torch.load(path, weights_only=True)["model"]["arguments"]
    assert {key: type(value) for key, value in arguments.items() if value is not None} == {
        "cutoff": float,
        "channels": int,
        "expansion_features": int,
        "layers": int,
        "trainable_basis": bool,
    }


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.nn.SiLU(), r"model\.activation is a SiLU"),
        (torch.tensor(1.0), r"model\.activation is a Tensor"),
        ({"a": [0, {1}]}, r"model\.activation\.a\[1\] is a set"),
        ({(1, 2): 3}, r"model\.activation has the key \(1, 2\)"),
        (torch.float32, r"model\.activation is a dtype"),
        (int, r"model\.activation is a type"),
        (np.zeros(2), r"model\.activation is a ndarray"),
        (len, r"model\.activation is a builtin_function_or_method"),
    ],
)
def test_arguments_that_can_not_be_stored(
    value: Any, what: str, springs: ModuleType, path: Path
) -> None:
    model = springs.Spring(1.0, activation=value)
    with pytest.raises(ModelFileError, match=f"{what}.*can't be stored in a model file"):
        save_model(model, path)
    with pytest.raises(ModelFileError, match=what.replace("model", "model.models.spring", 1)):
        save_model(AdditionModel(spring=model), path)
    assert not path.exists()


def test_state_that_can_not_be_stored(springs: ModuleType, path: Path) -> None:
    model = springs.Spring(1.0)
    model.history = [np.zeros(2)]
    with pytest.raises(ModelFileError, match=r"state.*_extra_state.*history'\]\[0\] is a ndarray"):
        save_model(model, path)


class InMain(Morse):
    pass


InMain.__module__ = "__main__"


class Gone(Morse):
    pass


NotThere = Gone
del Gone


def test_classes_that_can_not_be_imported(path: Path) -> None:
    class Local(Morse):
        pass

    script = "is defined in a script, notebook or function"
    for model, message in (
        (Local(), f"the class .*Local {script}"),
        (InMain(), f"the class InMain {script}"),
        (AdditionModel(a=InMain()), rf"model\.models\.a: the class InMain {script}"),
        (NotThere(), r"the class Gone from the Python module .*test_io, which can't be imported"),
    ):
        with pytest.raises(ModelFileError, match=message):
            save_model(model, path)
    assert not path.exists()


def test_class_given_as_argument(springs: ModuleType, path: Path) -> None:
    class Local(torch.nn.Module):
        pass

    with pytest.raises(ModelFileError, match=r"model\.activation: the class .*Local is defined in"):
        save_model(springs.Spring(1.0, activation=Local), path)


def test_models_that_were_changed(path: Path) -> None:
    model = PaiNN(channels=4, layers=1)
    model.read_out = MLP([4, 8, 8, 1])
    with pytest.raises(ModelFileError, match=r"(?s)could not be loaded .*read_out.* changed"):
        save_model(model, path)
    assert not path.exists()


def test_sums_that_were_changed(path: Path) -> None:
    model = AdditionModel(a=Morse(), b=LearnableOffset(H=1.0))
    model.models["b"] = FixedOffset(H=2.0)
    model.models["c"] = LennardJones()
    save_model(model, path)
    loaded = load_model(path)
    assert {key: type(part) for key, part in loaded.models.items()} == {
        "a": Morse,
        "b": FixedOffset,
        "c": LennardJones,
    }
    assert loaded["b"].offsets["H"].item() == 2.0


# --- classes that are no longer what they were --------------------------------------------


def test_module_is_missing(
    springs: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(AdditionModel(spring=springs.Spring(1.0)), path)
    Path(springs.__file__).unlink()
    monkeypatch.delitem(sys.modules, "my_springs")
    importlib.invalidate_caches()
    message = (
        r"can't load the model in .*model\.pt: it needs the class Spring from the Python module "
        r"my_springs, which can't be imported .*: is the package that defines it installed\?"
    )
    with pytest.raises(ModelFileError, match=message):
        load_model(path)
    assert load_metadata(path) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Spring", "class Coil", "needs the class Spring from the Python module my_springs"),
        ("(GraphPESModel)", "(torch.nn.Module)", "my_springs:Spring is not a GraphPropertyModel"),
        ("float(k)", "[float(k)]", r"do not fit the class Spring, which may .*size mismatch for k"),
        ("self.k", "self.stiffness", r"do not fit the class Spring, .*Missing key.*stiffness"),
        ("nested", "inner", r"Spring does not take the arguments \['nested'\], but .*'inner'"),
        ("self.history = []", "1 / 0", "Spring can't be made again .* ZeroDivisionError"),
        ("import torch", "import no_such_thing", "my_springs, which can't be imported"),
        ("import torch", "import torch; 1 / 0", r"my_springs, which .*ZeroDivisionError"),
    ],
)
def test_class_has_changed(
    old: str, new: str, message: str, springs: ModuleType, path: Path
) -> None:
    save_model(springs.Spring(1.0), path)
    assert old in MODULE
    Path(springs.__file__).write_text(MODULE.replace(old, new))
    del sys.modules["my_springs"]
    importlib.invalidate_caches()
    with pytest.raises(ModelFileError, match=rf"(?s)can't load the model in .*{message}"):
        load_model(path)


# --- no code ------------------------------------------------------------------------------


def test_files_hold_no_code(springs: ModuleType, path: Path) -> None:
    model = AdditionModel(
        spring=springs.Spring(1.0, activation=torch.nn.SiLU),
        **{name: factory() for name, factory in FACTORIES.items() if name in ("mixed", "PaiNN")},
    )
    save_model(model, path, {"epoch": 3})
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        opcodes = list(pickletools.genops(archive.read(name)))
    needed = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert not any(opcode.name in ("INST", "OBJ", "STACK_GLOBAL") for opcode, _, _ in opcodes)
    assert needed == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "Bool")),
    }


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("where", ["alone", "in_a_model_file", "raw_pickle"])
def test_pickles_are_not_run(where: str, path: Path, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    if where == "raw_pickle":
        path.write_bytes(pickle.dumps(trap))
    else:
        save_model(Morse(), path)
        contents = torch.load(path, weights_only=True)
        torch.save(trap if where == "alone" else {**contents, "metadata": trap}, path)
    with pytest.raises(ModelFileError, match=r"graph-pes 1.*pickle|not a model file|YAML file"):
        load_model(path)
    assert not (tmp_path / "sprung").exists()


def test_models_of_graph_pes_1(path: Path) -> None:
    """They are whole objects."""
    torch.save(torch.nn.Linear(1, 1), path)
    message = "holds Python objects, as the models of graph-pes 1 do.*train the model again"
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(path)
    assert "weights_only=False" not in str(error.value)


def with_description(path: Path, description: Any) -> Path:
    save_model(Morse(), path)
    torch.save({**torch.load(path, weights_only=True), "model": description}, path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "subprocess:Popen",
        "torch.nn:Linear",
        "graph_pes.models.io:save_model",
        "graph_pes.models.base:GraphPESModel.__subclasses__",
        "graph_pes.models.base:GraphPESModel",
        "graph_pes.models.base:torch.hub.load",
        "no_such_module:Model",
        "..:Model",
        "os",
        ":system",
        "",
        None,
        7,
    ],
)
def test_only_models_are_made(name: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(os, "system", fail)
    monkeypatch.setattr(subprocess, "Popen", fail)
    evil = {"kind": "model", "class": name, "arguments": {"command": "echo"}}
    inside = {
        "kind": "model",
        "class": "graph_pes.models.addition:AdditionModel",
        "arguments": {"models": {"kind": "dict", "items": {"a": evil}}},
    }
    for description in (evil, inside):
        with pytest.raises(ModelFileError, match="can't load the model in"):
            load_model(with_description(path, description))


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:Popen", "builtins:int"])
def test_only_modules_are_passed_as_classes(name: str, path: Path) -> None:
    description = {
        "kind": "model",
        "class": "graph_pes.models.schnet:SchNet",
        "arguments": {"expansion": {"kind": "class", "class": name}},
    }
    with pytest.raises(ModelFileError, match=f"{name} is not a Module"):
        load_model(with_description(path, description))


@pytest.mark.parametrize(
    "description",
    [
        None,
        "graph_pes.models.morse:Morse",
        [],
        {},
        {"kind": "function"},
        {"kind": "model"},
        {"kind": "tuple", "items": 3},
        {"kind": "dict", "items": {}},
        {"kind": "class", "class": "graph_pes.models.morse:Morse"},
        {"kind": "model", "class": "graph_pes.models.morse:Morse", "arguments": {"E": 1.0}},
        {"kind": "model", "class": "graph_pes.models.morse:Morse", "arguments": {"D": -1.0}},
        {"kind": "model", "class": "graph_pes.models.morse:Morse", "arguments": [1.0]},
    ],
)
def test_damaged_descriptions(description: Any, path: Path) -> None:
    with pytest.raises(ModelFileError, match="can't load the model in"):
        load_model(with_description(path, description))


# --- files that are no model files, or damaged --------------------------------------------


def test_no_file(path: Path) -> None:
    for read in (load_model, load_metadata):
        with pytest.raises(FileNotFoundError, match=r"there is no model file .*model\.pt"):
            read(path)


@pytest.mark.parametrize("contents", [b"", b"model", b"\x80\x02}q\x00.", b"PK\x03\x04" + b"x" * 99])
def test_other_files(contents: bytes, path: Path) -> None:
    path.write_bytes(contents)
    with pytest.raises(ModelFileError, match="not a model file of graph-pes 2, or is damaged"):
        load_model(path)


def test_other_archives(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "text")
    with pytest.raises(ModelFileError, match="not a model file of graph-pes 2, or is damaged"):
        load_model(path)
    for contents in ({"weight": torch.zeros(2)}, [1, 2], None, torch.zeros(2)):
        torch.save(contents, path)
        with pytest.raises(ModelFileError, match="not a model file of graph-pes"):
            load_model(path)


def test_truncated_anywhere(path: Path) -> None:
    save_model(PaiNN(channels=2, layers=1), path)
    whole = path.read_bytes()
    for n in (*range(0, len(whole), len(whole) // 20), len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ModelFileError, match=r"model\.pt .*damaged"):
            load_model(path)


def test_one_wrong_bit_among_the_numbers(path: Path) -> None:
    """Nothing would fail without a checksum: the model would be another one."""
    model = PaiNN(channels=2, layers=1)
    save_model(model, path)
    whole = bytearray(path.read_bytes())
    number = model.embedding.embeddings.values.detach().numpy().tobytes()
    start = whole.find(number)
    assert start > 0
    whole[start + 17] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ModelFileError, match="damaged: the checksum of .* is wrong"):
        load_model(path)


@pytest.mark.parametrize("key", ["model", "state", "frozen", "metadata"])
def test_missing_entries(key: str, path: Path) -> None:
    save_model(Morse(), path)
    contents = torch.load(path, weights_only=True)
    del contents[key]
    torch.save(contents, path)
    with pytest.raises(ModelFileError, match=rf"is damaged: it lacks \['{key}'\]"):
        load_model(path)


# --- formats ------------------------------------------------------------------------------


def with_format(path: Path, number: Any) -> Path:
    save_model(Morse(), path)
    torch.save({**torch.load(path, weights_only=True), "graph_pes_model": number}, path)
    return path


def test_newer_format(path: Path) -> None:
    message = rf"has format {io.FORMAT + 1}, but .* reads formats up to {io.FORMAT}: upgrade"
    with pytest.raises(ModelFileError, match=message):
        load_model(with_format(path, io.FORMAT + 1))


@pytest.mark.parametrize("number", [0, -1, 1.0, "1", None, True])
def test_impossible_formats(number: Any, path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a model file of graph-pes"):
        load_model(with_format(path, number))


def test_old_files_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def step(number: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def upgrade(contents: dict[str, Any]) -> dict[str, Any]:
            steps.append(number)
            return {**contents, "metadata": {**contents["metadata"], number: "upgraded"}}

        return upgrade

    newest = io.FORMAT + 2
    upgrades = {**io.UPGRADES, **{n: step(n) for n in range(io.FORMAT, newest)}}
    monkeypatch.setattr(io, "FORMAT", newest)
    monkeypatch.setattr(io, "UPGRADES", upgrades)
    metadata = load_metadata(GOLDEN / "format_1.pt")
    assert steps == [newest - 2, newest - 1]
    assert metadata["note"] == "golden"
    assert metadata[newest - 1] == "upgraded"


def test_every_past_format_has_a_golden_file_and_an_upgrade() -> None:
    assert sorted(io.UPGRADES) == list(range(1, io.FORMAT))
    for number in range(1, io.FORMAT + 1):
        load_model(GOLDEN / f"format_{number}.pt")


# --- nothing is lost ----------------------------------------------------------------------


def test_failure_while_saving(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(Morse(D=0.2), path)

    def fail(contents: Any, to: Path) -> None:
        Path(to).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(Morse(D=0.3), path)
    assert load_model(path).D.item() == pytest.approx(0.2)
    assert list(path.parent.iterdir()) == [path]


def test_killed_while_saving(path: Path) -> None:
    save_model(Morse(D=0.2), path)
    script = (
        "import os, pathlib, signal, sys, torch\n"
        "from graph_pes.models import Morse, save_model\n"
        "def save(contents, to):\n"
        "    pathlib.Path(to).write_bytes(b'half of it')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = save\n"
        "save_model(Morse(D=0.3), sys.argv[1])\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert load_model(path).D.item() == pytest.approx(0.2)
