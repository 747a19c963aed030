"""manifest.json: what is written is read back, and nothing else is read."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trine.runtime.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    Manifest,
    manifest_from_json,
    manifest_to_json,
)
from trine.runtime.errors import BundleError

modest = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of an annotated type, small ones."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(
            kind, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(kind)}
        )
    if origin in (Union, types.UnionType):
        return st.none() | values_of(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is not None:
        assert issubclass(origin, Mapping)
        return st.dictionaries(st.text(max_size=5), values_of(arguments[1]), max_size=2)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return {int: st.integers(), str: st.text(max_size=8), bool: st.booleans()}[kind]


MANIFESTS = values_of(Manifest).map(
    lambda m: dataclasses.replace(m, format=FORMAT, format_version=FORMAT_VERSION)
)


@modest
@given(MANIFESTS)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    text = manifest_to_json(manifest)
    assert text.endswith("}\n")
    assert manifest_from_json(text, "m") == manifest
    assert manifest_to_json(manifest_from_json(text, "m")) == text


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values in parsed JSON but the whole."""
    found = [path] if path else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@modest
@given(MANIFESTS, st.data())
def test_any_changed_value_is_refused_or_kept(manifest: Manifest, data: st.DataObject) -> None:
    content = json.loads(manifest_to_json(manifest))
    *path, last = data.draw(st.sampled_from(places(content)), "place")
    part = content
    for key in path:
        part = part[key]
    part[last] = data.draw(ANYTHING, "value")
    text = json.dumps(content)
    try:
        read = manifest_from_json(text, "m")
    except BundleError:
        return
    assert json.loads(manifest_to_json(read)) == content


@modest
@given(MANIFESTS, st.data())
def test_any_field_left_out_or_added_is_named(manifest: Manifest, data: st.DataObject) -> None:
    content = json.loads(manifest_to_json(manifest))
    section = data.draw(st.sampled_from(["", "source", "model"]))
    part = content[section] if section else content
    names = [name for name in part if not name.startswith("format")]
    name = data.draw(st.sampled_from(sorted(names)))
    value = part.pop(name)
    with pytest.raises(BundleError, match=rf"fields missing \['{name}'\], fields unknown \[\]"):
        manifest_from_json(json.dumps(content), "m")
    part[name], part["zzz"] = value, 1
    with pytest.raises(BundleError, match=r"fields missing \[\], fields unknown \['zzz'\]"):
        manifest_from_json(json.dumps(content), "m")


@modest
@given(st.text() | ANYTHING.map(json.dumps))
@example("[" * 100_000)
@example('{"format": "trine-bundle", "format_version": 1}')
@example('{"format": "trine-bundle", "format_version": true}')
@example('{"format": "trine-bundle", "format_version": 1.0}')
def test_any_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"^m: "):
        manifest_from_json(text, "m")


@pytest.fixture
def content(golden_bundle: Path) -> Any:
    """The parsed manifest of a bundle."""
    return json.loads((golden_bundle / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_compare_with_nothing_are_refused(content: Any, number: str) -> None:
    """With a NaN for a tolerance, every self-test would pass."""
    content["engines"][0]["tolerance"]["min_cosine"] = "HERE"
    text = json.dumps(content).replace('"HERE"', number)
    with pytest.raises(BundleError, match=r"min_cosine: is -?(nan|inf), no finite number"):
        manifest_from_json(text, "m")


def test_whole_number_too_large_for_a_fraction(content: Any) -> None:
    content["model"]["decoder"]["rope_theta"] = 10**400
    with pytest.raises(BundleError, match="rope_theta: is 1000"):
        manifest_from_json(json.dumps(content), "m")


def test_whole_numbers_are_read_where_fractions_may_be(content: Any) -> None:
    """JSON of other writers has 1 for 1.0."""
    content["model"]["decoder"]["rope_theta"] = 10000
    theta = manifest_from_json(json.dumps(content), "m").model.decoder.rope_theta
    assert (theta, type(theta)) == (10000.0, float)
