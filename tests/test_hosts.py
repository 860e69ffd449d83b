"""Where the ranks of a ring listen: every address is sound, free, and of this machine, or it is named."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment import hosts
from autoexperiment.errors import Refused, UsageError


@pytest.mark.parametrize(
    "text", ['[["10.0.0.1:5000"], ["10.0.0.2:5000"]]', '["10.0.0.1:5000", "10.0.0.2:5000"]'], ids=["lists", "texts"]
)
def test_hosts_file_gives_a_place_to_each_rank(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(text)

    found = hosts.read_hosts(file)

    assert found.places == (("10.0.0.1:5000",), ("10.0.0.2:5000",))
    assert (found.size, found.ports(1)) == (2, [5000])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nope", "can't be read"),
        ('{"a": 1}', "holds no list"),
        ("[]", "names 0 ranks"),
        ("[[]]", "[] as place of rank 0"),
        ("[5]", "5 as place of rank 0"),
        ('[["10.0.0.1"]]', "'10.0.0.1' in"),
        ('[["10.0.0.1:0"]]', "'10.0.0.1:0' in"),
        ('[["10.0.0.1:65536"]]', "'10.0.0.1:65536' in"),
        ('[["[::1]:5000"]]', "'[::1]:5000' in"),
        ('[["a:1"], [7]]', "7 in"),
        ('[["a:1"], ["a:1"]]', "a:1 stands twice"),
    ],
)
def test_malformed_hosts_are_refused_with_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(text)

    with pytest.raises(UsageError) as refusal:
        hosts.read_hosts(file)

    assert named in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_missing_hosts_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        hosts.read_hosts(tmp_path / "hosts.json")


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("10.0.0.1:5000")
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_any_hosts_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(value))

    try:
        found = hosts.read_hosts(file)
    except UsageError:
        return
    assert [list(place) for place in found.places] == [[v] if isinstance(v, str) else v for v in value]


PLACE = st.tuples(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.integers(1, 65_535))


@settings(max_examples=100, deadline=None)
@given(st.lists(PLACE, min_size=1, max_size=8, unique=True))
def test_addresses_keep_their_ports(places: list[tuple[str, int]]) -> None:
    found = hosts.given_hosts([f"{host}:{port}" for host, port in places])

    assert [found.ports(rank) for rank in range(found.size)] == [[port] for _, port in places]


def test_free_ports_are_distinct() -> None:
    ports = hosts.free_ports(8)

    assert len(set(ports)) == 8
    assert set(ports) <= set(hosts.PORTS)


def test_a_port_that_somebody_listens_at_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = hosts.free_ports(1)[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(hosts, "PORTS", (server.getsockname()[1], free))

        found = hosts.free_ports(1)

        assert found == [free]
        with pytest.raises(Refused, match="Only 1 of the ports"):
            hosts.free_ports(2)


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_out_of_range_is_refused(rank: int) -> None:
    with pytest.raises(UsageError, match=f"Rank {rank} is out of range. Allowed: 0 to 1"):
        hosts.hosts_here(2).check_rank(rank)


def test_a_place_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        with pytest.raises(Refused, match=f"{address}, the place of rank 0, is in use"):
            hosts.given_hosts([address]).check_rank(0)


def test_a_place_of_another_machine_is_refused() -> None:
    elsewhere = hosts.given_hosts(["192.0.2.1:5000"])  # an address for documentation, RFC 5737

    with pytest.raises(UsageError, match="no address of this machine"):
        elsewhere.check_rank(0)


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(UsageError, match="can't be used"):
        hosts.given_hosts(["nobody.invalid:5000"]).check_rank(0)
