"""Parameters by the names that other tools give them: refused, with the name they have here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from autoexperiment.errors import UsageError, unknown

P = ParamSpec("P")
R = TypeVar("R")


def known_keywords(elsewhere: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function refuse keywords that it doesn't have, before Python says which ones are missing.

    Args: elsewhere: name of a parameter in other tools → its name here, or a sentence when there is none.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for word in kwargs:
                if word not in names:
                    raise UsageError(_refusal(function.__name__, word, elsewhere.get(word), names))
            return function(*args, **kwargs)

        return checked

    return decorate


def _refusal(function: str, word: str, here: str | None, names: list[str]) -> str:
    if here is None:
        return unknown("parameter", word, names, where=f"{function}()")
    hint = f"Here it is {here!r}. Type: {function}(df, {here}=…)" if here in names else here
    return f"{function}() has no parameter {word!r}. {hint}"
