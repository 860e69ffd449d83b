"""Plain JSON against types: defaults, checks, all faults at once."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.errors import UsageError
from autoexperiment.workflow import typed


@dataclass(frozen=True)
class Rate:
    value: float
    kind: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class Train:
    model: str
    rate: Rate
    epochs: int = 1
    sizes: tuple[int, ...] = (8,)
    extra: dict[str, Any] = field(default_factory=dict)
    warmup: Rate | None = None
    limit: float | None = None
    is_quick: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}. Allowed: 1 or more.")


@dataclass
class Node:
    children: list[Node] = field(default_factory=list)


WHOLE: dict[str, Any] = {"model": "mlp", "rate": {"value": 0.5}}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def completed(kind: Any, value: Any) -> tuple[Any, list[str]]:
    faults: list[str] = []
    return typed.complete(kind, value, "x", faults), faults


def test_what_is_left_out_gets_its_default() -> None:
    built = typed.build(Train, WHOLE, where="train")

    assert built == Train("mlp", Rate(0.5, "constant"), 1, (8,), {}, None, None, False)


def test_nested_objects_become_their_dataclasses_and_tuples() -> None:
    built = typed.build(Train, {**WHOLE, "sizes": [3, 4], "warmup": {"value": 1, "kind": "cosine"}}, where="train")

    assert built.warmup == Rate(1.0, "cosine")
    assert built.sizes == (3, 4)


def test_a_whole_number_is_a_number_but_not_the_other_way_round() -> None:
    whole, faults = completed(float, 2)

    assert (whole, type(whole), faults) == (2.0, float, [])
    assert completed(int, 2.0)[1] == ["x is 2.0. Needed: a whole number"]


@pytest.mark.parametrize("kind", [int, float])
def test_true_is_no_number(kind: type) -> None:
    assert completed(kind, True)[1]
    assert completed(bool, 1)[1]


def test_a_number_that_no_float_can_hold_is_a_fault() -> None:
    assert "larger than any number" in completed(float, 10**400)[1][0]


def test_all_faults_are_named_at_once() -> None:
    given_ = {"rate": {"value": "fast", "kind": "linear"}, "epoch": 3, "sizes": ["8"]}

    with pytest.raises(UsageError) as caught:
        typed.build(Train, given_, where="train")

    text = str(caught.value)
    assert "Train has 5 faults" in text
    assert "Unknown field 'epoch' in train. Known: model, rate, epochs" in text
    assert "Did you mean 'epochs'?" in text
    assert "train.model is missing. Needed: text" in text
    assert "train.rate.value is 'fast'. Needed: a number" in text
    assert "train.rate.kind is 'linear'. Needed: one of 'constant', 'cosine'" in text
    assert "train.sizes.0 is '8'. Needed: a whole number" in text


def test_very_many_faults_are_counted_not_listed() -> None:
    with pytest.raises(UsageError, match=r"has 1000 faults(.|\n)*and 980 more"):
        typed.refuse([str(i) for i in range(1000)], "It")


def test_a_fault_deep_in_an_optional_object_has_its_place() -> None:
    faults = completed(Train, {**WHOLE, "warmup": {"value": None}})[1]

    assert faults == ["x.warmup.value is None. Needed: a number"]


def test_the_own_check_of_a_dataclass_is_a_fault_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"train: epochs is 0\. Allowed: 1 or more"):
        typed.build(Train, {**WHOLE, "epochs": 0}, where="train")


def test_with_faults_the_defaults_are_there_all_the_same() -> None:
    whole, faults = completed(Train, {"rate": {}})

    assert len(faults) == 2
    assert whole["epochs"] == 1
    assert whole["rate"]["kind"] == "constant"


def test_a_union_takes_the_member_of_the_same_type_first() -> None:
    assert completed(float | int, 3) == (3, [])
    assert type(completed(float | int, 3)[0]) is int
    assert completed(int | str, "3") == ("3", [])
    assert "Needed: a whole number or text" in completed(int | str, 3.5)[1][0]


def test_a_literal_is_taken_by_value_and_type() -> None:
    assert completed(Literal[1, "a"], 1)[1] == []
    assert completed(Literal[1, "a"], True)[1]
    assert completed(Literal[1, "a"], 1.0)[1]


def test_lists_and_objects_check_what_they_hold() -> None:
    assert completed(list[int], [1, "2"])[1] == ["x.1 is '2'. Needed: a whole number"]
    assert completed(Sequence[float], [1])[0] == [1.0]
    assert completed(dict[str, int], {"a": None})[1] == ["x.a is None. Needed: a whole number"]
    assert completed(Mapping[str, int], [])[1] == ["x is []. Needed: an object"]
    assert completed(tuple[int, str], [1])[1] == ["x has 1 items. Allowed: 2"]
    assert completed(tuple[int, str], [1, "a"]) == ([1, "a"], [])
    assert completed(None, 0)[1] == ["x is 0. Needed: null"]


def test_an_object_without_fields_takes_nothing() -> None:
    @dataclass
    class Nothing:
        pass

    assert completed(Nothing, {"a": 1})[1] == ["Unknown field 'a' in x, which has none. Leave it out."]


# ---- anything to plain JSON


def test_numbers_of_numpy_become_those_of_python() -> None:
    faults: list[str] = []

    plain = typed.plain({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.float64(2)}, "", faults)

    assert (plain, faults) == ({"a": 0.5, "b": 3, "c": True, "d": 2.0}, [])
    assert [type(value) for value in plain.values()] == [float, int, bool, float]


def test_dataclasses_tuples_and_mappings_become_plain() -> None:
    faults: list[str] = []

    plain = typed.plain(UserDict({"rate": Rate(1.0), "sizes": (1, 2)}), "", faults)

    assert (plain, faults) == ({"rate": {"value": 1.0, "kind": "constant"}, "sizes": [1, 2]}, [])


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1}, b"a", object(), np.zeros(2), Path("a"), 1j, print, np.float32("nan")]
)
def test_what_is_no_json_is_a_fault_with_its_place(value: Any) -> None:
    faults: list[str] = []

    assert typed.plain({"a": [value]}, "", faults) == {"a": [None]}

    assert len(faults) == 1
    assert faults[0].startswith("a.0 is ")


def test_names_that_are_no_text_are_a_fault() -> None:
    faults: list[str] = []

    typed.plain({"a": {1: 2}}, "", faults)

    assert faults == ["a has the name 1. Allowed: names that are text"]


def test_a_list_that_holds_itself_is_a_fault() -> None:
    endless: list[Any] = []
    endless.append(endless)
    faults: list[str] = []

    typed.plain(endless, "it", faults)

    assert len(faults) == 1
    assert "nested deeper than 100 levels" in faults[0]


def test_a_value_that_can_not_show_itself_is_named_by_its_type() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    faults: list[str] = []

    typed.plain(Hostile(), "it", faults)

    assert "a Hostile" in faults[0]


@settings(deadline=None)
@given(JSON)
def test_plain_json_stays_as_it_is(value: Any) -> None:
    faults: list[str] = []

    plain = typed.plain(value, "", faults)

    assert faults == []
    assert json.dumps(plain) == json.dumps(value)


@settings(deadline=None)
@given(st.sampled_from([Train, int, float, str, bool, list[int], dict[str, float], Rate | None, tuple[int, str]]), JSON)
def test_any_json_is_either_sound_or_a_fault_never_an_error(kind: Any, value: Any) -> None:
    whole, faults = completed(kind, value)

    if not faults:
        assert completed(kind, whole) == (whole, [])  # what is complete stays as it is
        typed.make(kind, whole, "x", faults)


@settings(deadline=None)
@given(st.builds(Rate, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["constant", "cosine"])))
def test_a_dataclass_comes_back_from_its_json(rate: Rate) -> None:
    text = json.dumps(typed.plain(rate, "", []))

    assert typed.build(Rate, json.loads(text), where="rate") == rate


# ---- types


@pytest.mark.parametrize("kind", [set, bytes, dict[int, str], list[set[int]], Path, complex, "text", type])
def test_a_type_that_json_can_not_have_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="has the type"):
        typed.check_kind(kind, where="Step 'a'")


def test_paths_are_allowed_where_they_are_asked_for() -> None:
    typed.check_kind(Path, where="Step 'a'", paths=True)


def test_a_dataclass_may_hold_itself() -> None:
    typed.check_kind(Node, where="Step 'a'")

    assert typed.build(Node, {"children": [{}]}, where="node") == Node([Node()])


def test_an_annotation_that_names_nothing_is_refused() -> None:
    @dataclass
    class Lost:
        value: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UsageError, match=r"annotations of Lost can't be read: name 'Missing'"):
        typed.check_kind(Lost, where="Step 'a'")


@pytest.mark.parametrize(
    ("given_", "wanted", "is_part"),
    [
        (int, int, True), (int, float, True), (float, int, False), (int, Any, True), (Any, int, False),
        (list[int], list, True), (list, list[int], False), (tuple[int, ...], list, True), (Rate, dict, True),
        (dict[str, int], dict, True), (dict, Rate, False), (int, int | None, True), (int | None, int, False),
        (int | None, int | str | None, True), (str, Path, False), (bool, int, False),
    ],
)  # fmt: skip
def test_a_type_is_part_of_another(given_: Any, wanted: Any, is_part: bool) -> None:
    assert typed.is_part(given_, wanted) is is_part
