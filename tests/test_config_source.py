"""JSON and YAML: what is read, where it stands, and what is refused before it costs anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.config.source import Source, parse_source, read_source
from autoexperiment.errors import ConfigError

# `1e3` is text for the dumper, which follows YAML 1.1, and a number for YAML 1.2
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(
    lambda text: text[:1] not in tuple("+-.0123456789")
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def read(text: str, kind: str) -> Any:
    return parse_source(text, kind, name="x").root.value


def refusal(text: str, kind: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_source(text, kind, name="x")
    assert str(caught.value).startswith(f"Invalid {kind.upper()} in the configuration\nError: ")
    return str(caught.value).partition("Error: ")[2]


def places(source: Source, value: Any, place: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], int]:
    """The line of everything in a value."""
    found = {place: source.line(place)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found |= places(source, item, (*place, key))
    return found


# JSON


@settings(max_examples=100, deadline=None)
@given(VALUES, st.sampled_from([None, 0, 3]))
def test_json_is_read_as_the_standard_library_reads_it(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)

    assert json.dumps(read(text, "json")) == json.dumps(value)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('{}[]",:01e.-+truefalsn \\/#\n')))
def test_a_text_is_json_for_us_when_it_is_for_the_standard_library(text: str) -> None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        refusal(text, "json")
    else:
        assert read(text, "json") == expected


def test_places_in_json_have_their_lines() -> None:
    text = '\n{ "a": 1,\n\n "b": {"c": [\n10,\n\t{"d":\n null}]}\n, "e": "x" }\n'

    source = parse_source(text, "json", name="x")

    assert places(source, source.root.value) == {
        (): 2, ("a",): 2, ("b",): 4, ("b", "c"): 4, ("b", "c", 0): 5, ("b", "c", 1): 6, ("b", "c", 1, "d"): 6, ("e",): 8,
    }  # fmt: skip
    assert source.line(("b", "c", 1, "missing", "deeper")) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1, column 1: the text ends where a value is needed"),
        ('{"a": 1,\n}', "line 1, column 8: no comma is allowed before '}'. Remove it"),
        ('{"a": [1,\n 2,\n]}', "line 2, column 3: no comma is allowed before ']'"),
        ('{"a": NaN}', "line 1, column 7: NaN is not JSON"),
        ('{"a": -Infinity}', "line 1, column 7: -Infinity is not JSON"),
        ('{"a":\n True}', "line 2, column 2: 'True' is not JSON. Write numbers such as 0.001 or 1e-3, and text in quotation "
                          "marks: true"),
        ("{'a': 1}", "line 1, column 2: a key in double quotation marks"),
        ('{"a": \'b\'}', "not in single ones"),
        ('{"a": 1 "b": 2}', "line 1, column 9: a comma or '}' is needed here, not '\"'"),
        ('{"a" 1}', "a colon is needed between the key 'a' and its value"),
        ('{"a": 01}', "'01' is not JSON"),
        ('{"a": .5}', "'.5' is not JSON"),
        ('{"a": 1} x', "line 1, column 10: more text after the end"),
        ('{"a": 1\n// why\n}', "line 2, column 1: JSON has no comments"),
        ('{"a": 5, # why\n "b": 1}', "line 1, column 10: JSON has no comments"),
        ('{"a": "x\n"}', "line 1, column 9: this text goes over the end of its line"),
        ('{"a": "x', "line 1, column 7: this text has no closing quotation mark"),
        ('{"a": "\\q"}', "a wrong \\"),
        ('{"a": [1', "the text ends where ']' is needed"),
        ('{"a": ' + "9" * 401 + "}", "line 1, column 7: a number of 401 digits"),
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused_at_its_line_and_column(text: str, said: str) -> None:
    assert said in refusal(text, "json")


# YAML


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def yaml_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: the one in C is missing on some systems."""
    if request.param == "SafeLoader":
        monkeypatch.delattr(yaml, "CSafeLoader")


@settings(max_examples=100, deadline=None)
@given(VALUES, st.booleans())
def test_yaml_gives_back_what_was_written(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False)

    assert json.dumps(read(text, "yaml")) == json.dumps(value)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_json_without_controls_is_yaml(value: Any) -> None:
    assert json.dumps(read(json.dumps(value, indent=1, ensure_ascii=False), "yaml")) == json.dumps(value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001), ("-3E4", -30000.0), (".5", 0.5), ("5.", 5.0), ("+1.5e+2", 150.0), ("10", 10), ("-7", -7),
        ("1e5", 100000.0), ("010", 10), ("0o17", 15), ("0x1F", 31), (".inf", math.inf), ("-.inf", -math.inf),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("1:30", "1:30"), ("190:20:30", "190:20:30"),
        ("1_000", "1_000"), ("2026-05-03", "2026-05-03"), ("2026-05-03T10:00:00Z", "2026-05-03T10:00:00Z"),
        ("0b11", "0b11"), ("1e", "1e"), ("=", "="), ("'1'", "1"), ('"true"', "true"), ("!!str 10", "10"),
        ("! 10", "10"), ("!!int 3", 3), ("!!float 3", 3.0), ("!!null ''", None),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("yaml_parser")
def test_a_scalar_is_what_yaml_1_2_says(written: str, value: Any) -> None:
    found = read(f"a: {written}", "yaml")["a"]

    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number_in_yaml() -> None:
    assert math.isnan(read("a: .nan", "yaml")["a"])


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("on: 1\n1: 2\nnull: 3\n2026-05-03: 4", "yaml") == {"on": 1, "1": 2, "null": 3, "2026-05-03": 4}


@pytest.mark.usefixtures("yaml_parser")
def test_places_in_yaml_have_their_lines() -> None:
    text = "# a comment\na: 1\n\nb:\n  c:\n    - 10\n    - d: null\n      e: x\nf: {g: [1,\n  2]}\n"

    source = parse_source(text, "yaml", name="x")

    assert places(source, source.root.value) == {
        (): 2, ("a",): 2, ("b",): 4, ("b", "c"): 5, ("b", "c", 0): 6, ("b", "c", 1): 7, ("b", "c", 1, "d"): 7,
        ("b", "c", 1, "e"): 8, ("f",): 9, ("f", "g"): 9, ("f", "g", 0): 9, ("f", "g", 1): 10,
    }  # fmt: skip


def test_what_an_alias_repeats_stands_where_it_was_written() -> None:
    source = parse_source("- &a\n  x: 1\n-\n  y: *a\n", "yaml", name="x")

    assert source.root.value == [{"x": 1}, {"y": {"x": 1}}]
    assert source.line((1, "y")) == 4
    assert source.line((1, "y", "x")) == 2


@pytest.mark.usefixtures("yaml_parser")
def test_merge_keys_bring_in_what_is_not_there() -> None:
    text = "- &a {x: 1, y: 1}\n- &b {y: 2, z: 2}\n- <<: *a\n  y: 3\n- y: 4\n  <<: [*a, *b]\n"

    assert read(text, "yaml")[2:] == [{"x": 1, "y": 3}, {"x": 1, "y": 4, "z": 2}]


def test_a_quoted_merge_sign_is_a_key() -> None:
    assert read("'<<': 1", "yaml") == {"<<": 1}


def test_an_empty_yaml_file_is_null() -> None:
    assert read("# nothing\n", "yaml") is None


@pytest.mark.usefixtures("yaml_parser")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: !!python/object/apply:os.system ['true']",
            "line 1, column 4: the tag !!python/object/apply:os.system is not",
        ),
        ("a: !mine 3", "the tag !mine is not allowed"),
        ("a: !!binary aGk=", "the tag !!binary is not allowed"),
        ("a: !!set {x}", "the tag !!set is not allowed"),
        ("!!python/dict {a: 1}", "the tag !!python/dict is not allowed"),
        ("a: !!int x", "'x' is no int, as its tag says"),
        ("a: &a [*a]", "line 1, column 8: the alias *a stands inside of what it repeats"),
        ("a: *b", "the alias *b has no anchor &b before it"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins"),
        ("? [1, 2]\n: 3", "a key must be text"),
        ("<<: 5", "must be an object, or a list of objects"),
        ("a:\n\t- 1", "line 2, column 1: a tab stands where only spaces are allowed"),
        ("a: [1,\nb: 2", "while parsing a flow sequence"),
        ("a: 1\n b: 2", "line 2, column 3: mapping values are not allowed"),
        ("a: 1\nb: \x07", "line 2, column 4: the character U+0007 is not allowed"),
        ("a: " + "9" * 401, "a number of 401 digits"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_at_its_line(text: str, said: str) -> None:
    assert said in refusal(text, "yaml")


def test_an_error_does_not_print_what_a_terminal_acts_on() -> None:
    assert refusal("a: !<\x1b]0;x\x07> 1", "yaml").isprintable()
    assert refusal('{"\\u001b[2J" 1}', "json").isprintable()


# bounds


@pytest.mark.usefixtures("yaml_parser")
def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    assert "more than 100000 values; what an alias repeats counts each time" in refusal("\n".join(lines), "yaml")


@pytest.mark.usefixtures("yaml_parser")
def test_a_bomb_of_merges_is_refused() -> None:
    base = "- &a {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\n"

    assert "more than 100000 values" in refusal(base + "- <<: *a\n" * 60, "yaml")


@pytest.mark.parametrize("kind", ["json", "yaml"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_bounded(kind: str, opening: str) -> None:
    assert "more than 64 deep" in refusal(opening * 100_000, kind)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_depth_below_the_bound_is_fine(kind: str) -> None:
    deep = read("[" * 64 + "]" * 64, kind)

    assert json.dumps(deep) == "[" * 64 + "]" * 64


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_the_number_of_values_is_bounded(kind: str) -> None:
    assert "more than 100000 values" in refusal("[" + "1," * 100_000 + "1]", kind)


# duplicate keys


@pytest.mark.parametrize(("kind", "text"), [("json", '{"a": 1,\n"b": 2,\n"a": 3}'), ("yaml", 'a: 1\nb: 2\n"a": 3')])
def test_a_key_that_stands_twice_is_a_fault_with_both_lines(kind: str, text: str) -> None:
    source = parse_source(text, kind, name="x")

    assert source.faults == ((3, "Key 'a' stands twice, first in line 1. Keep one of them"),)


# files


def file_refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "my_config.json"

    assert file_refusal(path) == f"Configuration file not found: {path}\nPlease provide a valid config file path."


def test_a_file_in_the_place_of_a_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    assert "not found" in file_refusal(tmp_path / "a" / "b.json")


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    assert "is not a file" in file_refusal(tmp_path)


@pytest.mark.parametrize(("name", "shown"), [("a.toml", ".toml"), ("a", "none")])
def test_another_format_is_named(tmp_path: Path, name: str, shown: str) -> None:
    path = tmp_path / name
    path.write_text("{}")

    said = file_refusal(path)

    assert said == f"Unsupported configuration file format: {shown} ({path})\nSupported formats: .json, .yaml, .yml"


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.YML", "a.JSON"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"a": 1,\r\n"b": 2}\r\n')

    source = read_source(path)

    assert source.root.value == {"a": 1, "b": 2}
    assert source.line(("b",)) == 2
    assert source.name == str(path)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")

    assert "line 2: byte 0xff. Save the file as UTF-8." in file_refusal(path)


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_file_over_10_mb_is_refused_before_it_is_parsed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(10_000_001)
    monkeypatch.setattr("autoexperiment.config.source.parse_source", lambda *_, **__: pytest.fail("parsed"))

    assert "more than 10 MB" in file_refusal(path)


def test_a_file_of_10_mb_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('"' + "x" * 9_999_998 + '"')

    assert len(read_source(path).root.value) == 9_999_998


def test_a_format_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")

    assert file_refusal(path).startswith(f"Invalid JSON in configuration file: {path}\nError: line 1, column 2: ")


def test_a_file_name_with_controls_is_shown_escaped(tmp_path: Path) -> None:
    assert "\\x1b[2J.json" in file_refusal(tmp_path / "\x1b[2J.json")
