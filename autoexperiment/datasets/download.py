"""Files from the network: resumed where they broke off, checked against a known hash, complete or absent."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import ipaddress
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from autoexperiment.errors import DataError
from autoexperiment.files import fsync, fsync_dir

STALLED_S = 30.0  # without a byte
CONNECTIONS = 6  # in one call, each going on where the one before broke off
_CHUNK = 256 * 1024
_LOUD_BYTES = 10_000_000  # from this size on, every tenth is told
_DIGEST = re.compile("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_NO_RANGE = 416

Say = Callable[[str], None]


def fetch(url: str, target: Path, *, digest: str, limit_bytes: int, say: Say) -> None:
    """Download a file unless it is there already.

    The bytes gather in a hidden `.part` file beside the target, which a later call continues. It becomes the target
    only when its hash is the given one. Two processes may do this at once: the second waits for the first.

    Args:
        url: https; http only for a server on this machine. The same holds for the addresses it redirects to.
        digest: "sha256:…" or "md5:…", in hexadecimal.
        limit_bytes: a file that is longer is not fetched.
        say: is told what goes on, one line at a time.
    Raises: DataError: no network, no such file, too long, or twice a wrong hash; or the target is there, but another.
    """
    order = _Order(url, target, digest.lower(), limit_bytes, say)
    if not _DIGEST.fullmatch(order.digest):
        raise order.failure(f"{digest!r} is no hash.", advice="Give it as sha256: and 64 hexadecimal digits.")
    _check_address(order, url)
    try:
        _fetch(order)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"Cannot write {error.filename or target}: {reason}. Make room, or choose another folder."
        ) from error


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file's content has the hash "sha256:…" or "md5:…". Raises: OSError: it cannot be read."""
    with path.open("rb") as file:
        return _matches(file, digest.lower())


@dataclass(frozen=True)
class _Order:
    """What is to be fetched: see `fetch`."""

    url: str
    target: Path
    digest: str
    limit_bytes: int
    say: Say

    @property
    def part(self) -> Path:
        return self.target.with_name(f".{self.target.name}.{self.digest[-12:]}.part")

    @property
    def is_local(self) -> bool:
        return _is_loopback(self.url)

    def failure(self, problem: str, *, advice: str = "") -> DataError:
        by_hand = f"Put the file at {self.target} yourself, or check the connection and type the same again."
        return DataError(f"Cannot fetch {self.url}: {problem} {advice or by_hand}")


def _fetch(order: _Order) -> None:
    order.target.parent.mkdir(parents=True, exist_ok=True)
    with _locked_part(order) as part:
        if part is not None:
            _complete(order, part)
            fsync(part.fileno())
            os.replace(order.part, order.target)
            fsync_dir(order.target.parent)
            order.say(f"Fetched {order.target}: its hash is as published")
            return
    if not has_digest(order.target, order.digest):
        raise DataError(
            f"{order.target} is there, but its hash is not {order.digest}. Move it away to have {order.url} fetched."
        )


# ---- the part file -----------------------------------------------------------------------------


@contextmanager
def _locked_part(order: _Order) -> Iterator[IO[bytes] | None]:
    """The part file, locked, to read and write; None when the target is there.

    The part file is its own lock: whoever gets it after another process moved it into place looks again.
    """
    while not order.target.exists():
        with os.fdopen(os.open(order.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as part:
            _lock(order, part)
            if _is_still(order.part, part):
                yield part
                return
    yield None


def _lock(order: _Order, part: IO[bytes]) -> None:
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        order.say(f"Another process is fetching {order.target.name}: waiting for it")
        fcntl.flock(part, fcntl.LOCK_EX)


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether the open file has that path: another process may have moved or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _matches(file: IO[bytes], digest: str) -> bool:
    algorithm, _, expected = digest.partition(":")
    file.seek(0)
    found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))  # type: ignore[arg-type]
    return found.hexdigest() == expected


def _complete(order: _Order, part: IO[bytes]) -> None:
    """Bring the part file to the right content, from whatever an earlier call left of it."""
    for _ in (1, 2):  # once more from the start: the first bytes may be an earlier call's, or a proxy's
        _gather(order, part)
        if _matches(part, order.digest):
            return
        part.truncate(0)
    order.part.unlink()
    raise order.failure(
        f"it arrived twice with another hash than {order.digest}.",
        advice=f"The bytes were thrown away. Try another network, or put the right file at {order.target} yourself.",
    )


def _gather(order: _Order, part: IO[bytes]) -> None:
    for _ in range(CONNECTIONS):
        start = part.seek(0, os.SEEK_END)
        order.say(f"Fetching {order.url}" + (f", from byte {start:,} on" if start else ""))
        with _answer(order, start) as answer:
            if answer is None or _receive(order, part, answer):
                return
    raise order.failure(
        f"the connection broke off {CONNECTIONS} times.", advice="What arrived is kept. Type the same again later."
    )


# ---- the network -------------------------------------------------------------------------------


@contextmanager
def _answer(order: _Order, start: int) -> Iterator[http.client.HTTPResponse | None]:
    """The server's answer to a request for the bytes from `start` on; None: there are none.

    Raises: DataError: no network, no such file, or an address that is not allowed.
    """
    headers = {"User-Agent": "autoexperiment"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = _opener(order).open(urllib.request.Request(order.url, headers=headers), timeout=STALLED_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _NO_RANGE and start:
            yield None
            return
        raise order.failure(f"the server answered {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        _, host = _parts(order.url)
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise order.failure(f"there is no network here, or {host} does not answer ({reason}).") from error
    with answer:
        yield answer


def _receive(order: _Order, part: IO[bytes], answer: http.client.HTTPResponse) -> bool:
    """Add an answer's bytes to the part file; False: it broke off.

    Raises: DataError: there are more than allowed.
    """
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {part.tell()}-"):
        part.truncate(0)  # not the bytes that were asked for: most likely all of them
        part.seek(0)
    size = part.tell()
    length = answer.headers.get("Content-Length", "")
    total = size + int(length) if length.isdecimal() else None
    _check_limit(order, total or 0)
    while chunk := _chunk(answer):
        _check_limit(order, size + len(chunk))
        part.write(chunk)
        part.flush()
        _tell(order, size, size + len(chunk), total)
        size += len(chunk)
    return chunk is not None and total in (None, size)


def _chunk(answer: http.client.HTTPResponse) -> bytes | None:
    """The next bytes, b"" at the end, None when the connection broke off and says so."""
    try:
        return answer.read1(_CHUNK)
    except (OSError, http.client.HTTPException):
        return None


def _check_limit(order: _Order, size: int) -> None:
    if size > order.limit_bytes:
        order.part.unlink()
        raise order.failure(
            f"it has {size:,} bytes or more, and {order.limit_bytes:,} are expected.",
            advice="Nothing was kept. Check the address.",
        )


def _tell(order: _Order, before: int, now: int, total: int | None) -> None:
    if total and total >= _LOUD_BYTES and 10 * now // total > 10 * before // total:
        order.say(f"{order.target.name}: {now / 1e6:.0f} of {total / 1e6:.0f} MB")


# ---- addresses ---------------------------------------------------------------------------------


def _parts(url: str) -> tuple[str, str]:
    """Scheme and host, empty where there is none or the address is malformed."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


def _is_loopback(url: str) -> bool:
    _, host = _parts(url)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(order: _Order, url: str) -> None:
    """Raises: DataError: neither https nor a server on this machine that was asked for from the start."""
    scheme, host = _parts(url)
    is_fine = (scheme == "https" and host) or (scheme == "http" and order.is_local and _is_loopback(url))
    if not is_fine:
        what = "the address" if url == order.url else f"the server redirects to {url}, which"
        raise order.failure(f"{what} is not allowed.", advice="Only https addresses are. Use one.")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that may be fetched itself."""

    def __init__(self, order: _Order) -> None:
        self.order = order

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(self.order, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(order: _Order) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # without the handlers for file, ftp and data addresses
    for handler in (
        urllib.request.ProxyHandler({} if order.is_local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(order),
    ):
        opener.add_handler(handler)
    return opener
