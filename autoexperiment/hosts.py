"""Where the ranks of a ring listen: addresses from a file, from the command line, or free ones of this machine."""

from __future__ import annotations

import errno
import random
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexperiment.errors import Refused, UsageError
from autoexperiment.files import load_json

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections
MOST_RANKS = 256
EXAMPLE = '[["10.0.0.1:5000"], ["10.0.0.2:5000"]]'
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True)
class Hosts:
    """Where the ranks listen. `places`: for each rank one address `host:port`, or several for as many connections."""

    places: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        return len(self.places)

    def ports(self, rank: int) -> list[int]:
        return [_parsed(address)[1] for address in self.places[rank]]

    def check_rank(self, rank: int) -> None:
        """Raises: UsageError: there is no such rank; Refused: it can't listen at its place on this machine."""
        if not 0 <= rank < self.size:
            raise UsageError(
                f"Rank {rank} is out of range. Allowed: 0 to {self.size - 1}, one for each of the {self.size} hosts. "
                "Type: mlx ring --rank 0 --hosts FILE -- python train.py"
            )
        for address in self.places[rank]:
            _check_free(address, rank)


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


def hosts_here(size: int) -> Hosts:
    """Free places on this machine, that nothing outside it can reach. Raises: UsageError: too many, or none."""
    if not 1 <= size <= MOST_RANKS:
        raise UsageError(
            f"{size} ranks are asked for. Allowed: 1 to {MOST_RANKS}. Type: mlx ring -n 2 -- python train.py"
        )
    return Hosts(tuple((f"{LOOPBACK}:{port}",) for port in free_ports(size)))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens at."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if not _bind_fault(f"{LOOPBACK}:{port}"):
            found.append(port)
        if len(found) == count:
            return found
    raise Refused(f"Only {len(found)} of the ports {PORTS[0]} to {PORTS[-1]} are free; {count} are needed.")


def given_hosts(words: Sequence[str]) -> Hosts:
    """One address for each rank. Raises: UsageError: one is malformed, or stands there twice."""
    return _hosts([[word] for word in words], where="--host")


def read_hosts(path: Path) -> Hosts:
    """The hosts in a file, in the form that MLX reads. Raises: UsageError: it can't be read, or is malformed."""
    try:
        value = load_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"The hosts file {path} can't be read: {reason}. {_form()}") from None
    if not isinstance(value, list):
        raise UsageError(f"The hosts file {path} holds no list. {_form()}")
    return _hosts([[item] if isinstance(item, str) else item for item in value], where=str(path))


def _form() -> str:
    return f"Allowed: a JSON list with the address of each rank. Write for example: {EXAMPLE}"


def _hosts(value: Sequence[Any], *, where: str) -> Hosts:
    if not 1 <= len(value) <= MOST_RANKS:
        raise UsageError(f"{where} names {len(value)} ranks. Allowed: 1 to {MOST_RANKS}. Write for example: {EXAMPLE}")
    seen: set[str] = set()
    for rank, place in enumerate(value):
        if not isinstance(place, list) or not place:
            raise UsageError(f"{where} has {place!r} as place of rank {rank}. {_form()}")
        for address in place:
            _check_form(address, f"{where} (rank {rank})")
            if address in seen:
                raise UsageError(f"{address} stands twice in {where}. Allowed: a place of its own for each rank.")
            seen.add(address)
    return Hosts(tuple(map(tuple, value)))


def _check_form(address: object, where: str) -> None:
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match[2]) < 65_536:
        raise UsageError(
            f"{address!r} in {where} is no address. Allowed: an IPv4 address or a name, a colon and a port from 1 to "
            "65535. Write for example: 10.0.0.1:5000"
        )


def _bind_fault(address: str) -> OSError | None:
    """Why nobody can begin to listen at an address of this machine, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MLX does
        try:
            probe.bind(_parsed(address))
        except OSError as error:
            return error
    return None


def _check_free(address: str, rank: int) -> None:
    if (fault := _bind_fault(address)) is None:
        return
    place = f"{address}, the place of rank {rank},"
    if fault.errno == errno.EADDRINUSE:
        raise Refused(f"{place} is in use. It must be free. Choose another port, or end what listens there.")
    if fault.errno == errno.EADDRNOTAVAIL:
        raise UsageError(
            f"{place} is no address of this machine. Every machine starts its own ranks. "
            f"Type there: mlx ring --rank {rank} --hosts FILE -- python train.py"
        )
    raise UsageError(f"{place} can't be used: {fault.strerror}. Allowed: an address of this machine, ports from 1024.")
