"""Precision, shapes, copies, files: what breaks in use rather than in physics."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graph_pes.atomic_graph import AtomicGraph, is_batch, to_batch
from graph_pes.models.io import load_model, save_model

from .structures import StructureKind, random_structure
from .subject import (
    TOLERANCES,
    ModelUnderTest,
    all_predictions,
    assert_close,
    assert_same_bits,
    default_dtype,
    graph_for,
    name_of,
)

_OTHER = {torch.float32: torch.float64, torch.float64: torch.float32}


def check_dtype(subject: ModelUnderTest) -> None:
    """Models keep their precision, whatever torch's default dtype and that of the graph.

    Energies are float64, and forces, virial and stress have the dtype of the model, for a
    model made in that precision and for one converted to it.
    """
    for dtype in subject.dtypes:
        converted = subject.model(_OTHER[dtype]).to(dtype)
        for model in (subject.model(dtype), converted):
            for graph_dtype in (torch.float32, torch.float64):
                for name, atoms in subject.named_structures():
                    graph = graph_for(model, atoms, graph_dtype)
                    with default_dtype(_OTHER[dtype]):
                        predicted = all_predictions(model, graph)
                    own = model.dtype or graph_dtype
                    for key in predicted.keys() - {"local_energies"}:
                        expected = torch.float64 if key == "energy" else own
                        if predicted[key].dtype != expected:
                            raise AssertionError(
                                f"{key} of {name} is {predicted[key].dtype}, expected {expected} "
                                f"(model: {dtype}, torch's default: {_OTHER[dtype]})"
                            )


def check_device(subject: ModelUnderTest) -> None:
    """Everything happens on the device of the model, whatever torch's default device.

    No GPU is needed: the default device is made one that holds no data, and mixing its tensors
    with others is an error. Constants have to be buffers, or they stay behind when the model
    is moved.
    """
    model = subject.model(torch.float64)
    for name, module in model.named_modules():
        if loose := [key for key, value in vars(module).items() if isinstance(value, Tensor)]:
            raise AssertionError(
                f"{name or type(model).__name__}: {loose} would not be moved to another device; "
                "use register_buffer"
            )
    for name, atoms in subject.named_structures():
        graph = graph_for(model, atoms)
        expected = all_predictions(model, graph)
        try:
            with torch.device("meta"):
                predicted = all_predictions(model, graph)
        except Exception as error:
            raise AssertionError(
                f"{name}: fails if torch's default device is not that of the model. Pass "
                "device=... when you make tensors."
            ) from error
        assert_same_bits(f"{name}, torch's default device being another", predicted, expected)


def check_precision(subject: ModelUnderTest) -> None:
    """Single precision gives what double precision gives, to 1e-4 of the largest force."""
    double = subject.model(torch.float64)
    single = subject.model(torch.float64).to(torch.float32)
    for name, atoms in subject.named_structures():
        graph = graph_for(double, atoms)
        expected = all_predictions(double, graph)
        largest = expected["forces"].abs().max()
        for key, value in all_predictions(single, graph).items():
            # Energies too: that of free atoms, which may be large, must not be rounded.
            scale = largest if "energ" in key else None
            what = f"{key} of {name}, single precision"
            if key != "local_energies":
                assert_close(what, value, expected[key], TOLERANCES[torch.float32], scale)


def check_shapes(subject: ModelUnderTest) -> None:
    """Shapes are right and values finite, also for one atom, no edges and batches of one."""
    kinds = [
        StructureKind(n_atoms=1, elements=subject.elements),
        StructureKind(n_atoms=2, elements=subject.elements, isolated_atoms=2),
        StructureKind(n_atoms=1, elements=subject.elements, pbc=(True, True, True)),
    ]
    structures = [random_structure(kind, n) for n, kind in enumerate(kinds)]
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        for n, atoms in enumerate([*structures, *subject.structures]):
            graph = graph_for(model, atoms, dtype)
            for batched in (False, True):
                predicted = all_predictions(model, to_batch([graph]) if batched else graph)
                for key, value in predicted.items():
                    what = f"{key} of {name_of(n, atoms)}{' in a batch of one' * batched}, {dtype}"
                    shape = _expected_shape(key, len(atoms), batched)
                    if value.shape != shape:
                        raise AssertionError(
                            f"{what}: expected shape {shape}, got {tuple(value.shape)}"
                        )
                    assert_close(what, value, value, 0.0)  # is finite


def _expected_shape(key: str, n_atoms: int, batched: bool) -> tuple[int, ...]:
    if key in ("local_energies", "forces"):
        return (n_atoms,) if key == "local_energies" else (n_atoms, 3)
    shape = () if key == "energy" else (3, 3)
    return (1, *shape) if batched else shape


def check_purity(subject: ModelUnderTest) -> None:
    """Neither ``predict`` nor ``forward`` change the graph or the model; predictions repeat.

    To the last bit, that is.
    """
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        state = deepcopy(model.state_dict())
        for name, atoms in subject.named_structures():
            graph = graph_for(model, atoms, dtype)
            for given in (graph, to_batch([graph])):
                before = deepcopy(given)
                first = all_predictions(model, given)
                again = all_predictions(model, given)
                assert_same_bits(f"second prediction for {name}, {dtype}", again, first)
                if is_batch(given):
                    with torch.no_grad():
                        model(given)
                _assert_unchanged(f"the graph of {name}", given._asdict(), before._asdict())
                _assert_unchanged("the state of the model", model.state_dict(), state)


def _assert_unchanged(what: str, after: Any, before: Any) -> None:
    if isinstance(before, dict):
        if after.keys() != before.keys():
            changed = sorted(set(after) ^ set(before))
            raise AssertionError(f"{what} is changed by a prediction: {changed}")
        for key in before:
            _assert_unchanged(f"{what}, {key!r},", after[key], before[key])
    elif isinstance(before, Tensor):
        if not torch.equal(after, before):
            raise AssertionError(f"{what} is changed by a prediction: {before} to {after}")
    elif after != before:
        raise AssertionError(f"{what} is changed by a prediction: {before} to {after}")


def check_grad_modes(subject: ModelUnderTest) -> None:
    """Predictions are the same in ``torch.no_grad()`` and ``torch.inference_mode()``.

    In training mode they can be differentiated, in evaluation mode they are detached.
    """
    dtype = subject.dtypes[0]
    model = subject.model(dtype)
    for name, atoms in subject.named_structures():
        graph = graph_for(model, atoms, dtype)
        expected = all_predictions(model, graph)
        for mode in (torch.no_grad, torch.inference_mode):
            for batched in (False, True):
                with mode():
                    # Made inside, so that its tensors are those of inference mode.
                    inside = graph_for(model, atoms, dtype)
                    inside = to_batch([inside]) if batched else inside
                    predicted = all_predictions(model, inside)
                what = f"predictions for {name} in torch.{mode.__name__}()"
                shaped = {key: x.view_as(expected[key]) for key, x in predicted.items()}
                assert_same_bits(what, shaped, expected)
        if attached := [key for key, x in expected.items() if x.requires_grad]:
            raise AssertionError(f"{attached} of {name} are not detached in evaluation mode")
    if any(p.requires_grad for p in model.parameters()):
        predicted = model.train().predict(
            graph_for(model, subject.structures[0], dtype), ["energy"]
        )
        if not predicted["energy"].requires_grad:
            raise AssertionError("the energy can't be differentiated in training mode")


def check_files(subject: ModelUnderTest) -> None:
    """A model that is saved and loaded predicts the same, to the last bit."""
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt"
            save_model(model, path)
            with default_dtype(_OTHER[dtype]):
                loaded = load_model(path).eval()
        _assert_same_model(subject, f"the model loaded from a file, {dtype}", loaded, model)


def check_copies(subject: ModelUnderTest) -> None:
    """A deep copy predicts the same to the last bit, and shares nothing with the original."""
    for dtype in subject.dtypes:
        model = subject.model(dtype)
        copy = deepcopy(model)
        _assert_same_model(subject, f"the deep copy, {dtype}", copy, model)
        state = deepcopy(model.state_dict())
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.add_(1.0)
        _assert_unchanged("the model, when its copy is,", model.state_dict(), state)


def _assert_same_model(subject: ModelUnderTest, what: str, actual: Any, expected: Any) -> None:
    _assert_unchanged(what, actual.state_dict(), expected.state_dict())
    for attribute in ("elements_seen", "implemented_properties", "cutoff_value", "dtype"):
        a, b = getattr(actual, attribute), getattr(expected, attribute)
        if a != b:
            raise AssertionError(f"{attribute} of {what} is {a} rather than {b}")
    dtype: torch.dtype = expected.dtype or torch.float64
    for name, atoms in subject.named_structures():
        graph: AtomicGraph = graph_for(expected, atoms, dtype)
        before = all_predictions(expected, graph)
        assert_same_bits(f"{what}: {name}", all_predictions(actual, graph), before)
