"""Configuration files: what is read, how they are merged, what mistakes are called."""

# ruff: noqa: E501 (one line for each mistake, or way to train)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_pes.training.config_files import (
    ConfigError,
    check_keys,
    fill_references,
    merge,
    read_config,
    read_yaml,
    write_yaml,
)

keys = st.text("abc", min_size=1, max_size=2)
configs = st.recursive(
    st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.text("xyz", max_size=3),
    lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
mappings = st.dictionaries(keys, configs, max_size=4)


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("1.e-3", 1e-3),
        (".5e1", 5.0),
        ("5_000", 5000),
        ("0.001", 1e-3),
        ("3", 3),
        ("1e-3x", "1e-3x"),
        ("'1e-3'", "1e-3"),
        ("e-3", "e-3"),
        ("null", None),
        ("[1e-3, {a: 2e1}]", [1e-3, {"a": 20.0}]),
    ],
)
def test_numbers(text: str, value: Any):
    found = read_yaml(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_chemical_symbols_are_no_truth_values():
    assert read_yaml("{No: 1.0, NO: path.xyz, y: 2, On: 3}", "test") == {
        "No": 1.0,
        "NO": "path.xyz",
        "y": 2,
        "On": 3,
    }


@given(mappings)
def test_what_is_written_is_read_again(config: dict[str, Any]):
    import tempfile

    path = Path(tempfile.mkdtemp()) / "config.yaml"
    write_yaml(config, path)
    assert read_config([str(path)]) == config


# --- mistakes ---------------------------------------------------------------------------------


def test_a_key_given_twice_names_both_lines(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("model: a\ndata:\n  train: x\n  valid: y\n  train: z\n")
    with pytest.raises(ConfigError, match=r"config.yaml: the key 'train' is given twice.* 3 and 5"):
        read_config([str(path)])


def test_anchors_may_be_merged_and_overridden():
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}"
    assert read_yaml(text, "test")["other"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"test is not valid YAML: (?s:.*)line 1"),
        ("a: b: c", "test is not valid YAML"),
        ("a: 1\n---\nb: 2", "test is not valid YAML: .*single document"),
        ("path: {{ path }}", "test, line 1: a key should be a single word"),
        ("? [1, 2]\n: 3", "test, line 1: a key should be a single word"),
    ],
)
def test_invalid_yaml_is_named(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read_yaml(text, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one configuration file"),
        (["missing.yaml"], "can't read the configuration file missing.yaml: .*No such file"),
        (["nonsense"], "can't understand the argument 'nonsense': expected a file"),
        (["=3"], "can't understand the argument '=3'"),
        (["a=[1"], r"a=\[1 is not valid YAML"),
    ],
)
def test_arguments_that_are_no_configuration(arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        read_config(arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected keys and values, got an empty file"),
        (b"- a\n- b\n", "expected keys and values, got list"),
        (b"just text", "expected keys and values, got str"),
        (b"\xff\xfe\x00a", "can't read the configuration file"),
    ],
)
def test_files_that_hold_no_configuration(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config([str(path)])


# --- merging ----------------------------------------------------------------------------------


def test_files_and_overrides_are_merged_from_left_to_right(tmp_path: Path):
    base, more = tmp_path / "base.yaml", tmp_path / "lr=1e-3.yml"
    base.write_text("fitting: {optimizer: {name: Adam, lr: 0.1}, swa: null}\nseed: 1")
    more.write_text("fitting: {optimizer: {lr: 1e-2}}")
    found = read_config([str(base), str(more), "seed=2", "fitting/optimizer/betas=[0.9, 1e-1]"])
    assert found == {
        "fitting": {"optimizer": {"name": "Adam", "lr": 0.01, "betas": [0.9, 0.1]}, "swa": None},
        "seed": 2,
    }
    assert read_config(["seed=2", str(base)])["seed"] == 1


def test_overrides_may_hold_equals_signs_and_mappings():
    found = read_config(["a/b==/c", "model={+PaiNN: {cutoff: =/c}}"])
    assert found == {"a": {"b": "=/c"}, "model": {"+PaiNN": {"cutoff": "=/c"}}}


@given(mappings, mappings)
def test_merging(base: dict[str, Any], update: dict[str, Any]):
    before = repr((base, update))
    merged = merge(base, update)
    assert repr((base, update)) == before
    assert merge(merged, update) == merged
    assert merge(base, {}) == base
    assert merge({}, update) == update
    assert set(merged) == set(base) | set(update)
    for key in merged:
        if key not in update:
            assert merged[key] == base[key]
        elif not isinstance(update[key], dict):
            assert merged[key] == update[key]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"+PaiNN": {"layers": 2}}, {"+SchNet": {"layers": 3}}),
        ({"+PaiNN": {"layers": 2}}, {"offset": "+LearnableOffset()"}),
        ({"offset": "+LearnableOffset()"}, {"+PaiNN": {}}),
        ({"name": "Adam", "lr": 1e-3}, {"+Optimizer": {"name": "SGD"}}),
    ],
)
def test_another_object_replaces_one(old: dict[str, Any], new: dict[str, Any]):
    assert merge({"x": old}, {"x": new}) == {"x": new}


def test_the_same_object_gets_further_arguments():
    old, new = {"+PaiNN": {"layers": 2}}, {"+PaiNN": {"channels": 4}}
    assert merge({"x": old}, {"x": new})["x"] == {"+PaiNN": {"layers": 2, "channels": 4}}


def test_items_of_lists():
    base = {"loss": ["+A()", {"+B": {"weight": 1}}]}
    merged = merge(base, read_config(["loss/1/+B/weight=2"]))
    assert merged == {"loss": ["+A()", {"+B": {"weight": 2}}]}
    assert base["loss"][1] == {"+B": {"weight": 1}}
    with pytest.raises(ConfigError, match="loss/2: there is no such item, as loss is a list of 2"):
        merge(base, read_config(["loss/2=+C()"]))
    assert merge(base, {"loss": {"energy": "+C()"}}) == {"loss": {"energy": "+C()"}}
    assert merge(base, {"loss": {}}) == {"loss": {}}


# --- references -------------------------------------------------------------------------------


def test_references():
    config = {
        "cutoff": 4.5,
        "model": {"a": {"+PaiNN": {"cutoff": "=/cutoff"}}, "b": {"x": "=../a/+PaiNN/cutoff"}},
        "beside": {"x": "=./y", "y": "=y_too", "y_too": 7},
        "list": [1, "=/cutoff", {"w": "=/weights/1"}, ["=/cutoff"], "=0"],
        "weights": [0.1, 0.2],
        "section": "=/model",
        "literally": "=",
    }
    filled, used = fill_references(config)
    assert filled["model"] == {"a": {"+PaiNN": {"cutoff": 4.5}}, "b": {"x": 4.5}}
    assert filled["beside"] == {"x": 7, "y": 7, "y_too": 7}
    assert filled["list"] == [1, 4.5, {"w": 0.2}, [4.5], 1]
    assert filled["section"] == filled["model"]
    assert filled["section"] is not filled["model"]
    assert filled["literally"] == "="
    assert used == {"cutoff", "model", "beside", "list", "weights"}


@given(mappings)
def test_without_references_nothing_changes(config: dict[str, Any]):
    assert fill_references(config) == (config, set())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cutoff": 5, "a": {"b": "=/cutof"}}, "a/b: .* leads nowhere: there is no 'cutof' at the top level: did you mean 'cutoff'"),
        ({"a": {"b": "=/a/x/y", "x": {"z": 1}}}, "there is no 'y' in a/x"),
        ({"a": ["=/b/2"], "b": [1, 2]}, "a/0: the reference =/b/2 leads nowhere: there is no '2' in b"),
        ({"a": {"b": "=../../x"}}, r"too many \.\."),
        ({"a": "=/"}, "names no key"),
        ({"a": "=b", "b": "=a"}, "leads back to itself"),
        ({"a": {"b": "=/a"}}, "a/b: the reference =/a leads back to itself"),
        ({"a": {"x": "=/b"}, "b": {"y": "=/a"}}, "leads back to itself"),
    ],
)  # fmt: skip
def test_references_that_lead_nowhere(config: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        fill_references(config)


# --- keys -------------------------------------------------------------------------------------


def test_the_nearest_key_is_named():
    known = ["optimizer", "scheduler", "swa"]
    check_keys({"swa": 1, "scheduler": 2}, known, "fitting/")
    with pytest.raises(
        ConfigError, match="unknown key fitting/optimiser: did you mean 'optimizer'"
    ):
        check_keys({"optimiser": 1}, known, "fitting/")
    with pytest.raises(ConfigError, match=r"unknown key fitting/xyz\. Known keys: \['optimizer'"):
        check_keys({"xyz": 1}, known, "fitting/")
