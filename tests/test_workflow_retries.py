"""Which errors pass by themselves."""

from __future__ import annotations

import errno
import json
import socket
import urllib.error
from email.message import Message

import pytest

from autoexperiment.errors import HarnessError
from autoexperiment.workflow.retries import is_transient


def chained(inner: BaseException, outer: OSError = OSError("request failed")) -> OSError:  # noqa: B008
    """An OSError of a library's own, raised while another one was handled."""
    try:
        try:
            raise inner
        except BaseException:
            raise type(outer)(*outer.args)  # noqa: B904
    except OSError as error:
        return error


def caused(inner: BaseException) -> OSError:
    try:
        raise OSError("request failed") from inner
    except OSError as error:
        return error


def answered(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://localhost", code, "", Message(), None)


class _BothKinds(ValueError, ConnectionError):
    pass


class _Ours(HarnessError, ConnectionError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(), ConnectionResetError(), BrokenPipeError(), TimeoutError(), InterruptedError(), BlockingIOError(),
        *(
            OSError(number, "")
            for number in (
                errno.EAGAIN, errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT,
                errno.EBUSY, errno.EMFILE, errno.ENOBUFS, errno.ESTALE, errno.ECONNREFUSED,
            )
        ),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        urllib.error.URLError(ConnectionRefusedError()), urllib.error.URLError(TimeoutError()),
        answered(503), answered(429), answered(500),
        chained(ConnectionResetError()), caused(TimeoutError()), caused(chained(TimeoutError())),
    ],
)  # fmt: skip
def test_errors_of_network_and_resources_pass(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(), TypeError(), HarnessError("x"), KeyError(), MemoryError(), RuntimeError(), None,
        FileNotFoundError(errno.ENOENT, ""), PermissionError(errno.EACCES, ""), OSError(errno.ENOSPC, ""),
        OSError(errno.EROFS, ""), OSError(errno.EIO, ""), FileExistsError(errno.EEXIST, ""), OSError("no number"),
        json.JSONDecodeError("", "", 0), _BothKinds(), _Ours("x"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        urllib.error.URLError("unknown url type"), urllib.error.URLError(FileNotFoundError(errno.ENOENT, "")),
        answered(404), answered(401),
        chained(ValueError()), chained(FileNotFoundError(errno.ENOENT, "")),
        chained(TimeoutError(), FileNotFoundError(errno.ENOENT, "")),
    ],
)  # fmt: skip
def test_all_other_errors_stay(error: BaseException | None) -> None:
    assert not is_transient(error)


def test_an_error_that_is_its_own_reason_comes_to_an_end() -> None:
    error = urllib.error.URLError("")
    error.reason = error

    assert not is_transient(error)
