"""Which errors may pass by themselves, so that a step is tried again."""

from __future__ import annotations

import errno
import socket

from autoexperiment.errors import LabError

# EAI_AGAIN has its own numbers, see below
PASSING = {
    errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
}  # fmt: skip
PASSING_ANSWERS = {408, 425, 429, 500, 502, 503, 504}  # RFC 9110, 6585, 8470: ask again later
DEEPEST = 10
_PASSING = (ConnectionError, TimeoutError, BlockingIOError, InterruptedError)  # also when raised without a number


def is_transient(error: BaseException | None, depth: int = 0) -> bool:
    """Whether an error is one of the network, or of a resource that may come back.

    Libraries of the network put their own OSError, without a number, around the one that says what happened: then
    what it was raised from counts.
    """
    if not isinstance(error, OSError) or isinstance(error, ValueError | TypeError | LabError) or depth > DEEPEST:
        return False
    if isinstance(answer := getattr(error, "code", None), int):  # urllib's HTTPError
        return answer in PASSING_ANSWERS
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, _PASSING) or error.errno in PASSING:
        return True
    if error.errno is not None:
        return False
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    return is_transient(inner, depth + 1)
