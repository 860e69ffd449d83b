"""When a limit ends, read from what a client says about it: the services have a dozen ways to tell the time."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

LATEST = timedelta(days=40)  # a monthly limit; what is later was misread
JUST_NOW = timedelta(minutes=15)  # a time of day that has passed by less is today's, else tomorrow's
_UNITS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_UNIT = r"(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_EPOCH = re.compile(r"(?:\||resets?_?(?:at)?[\"']?\s*[:=]\s*[\"']?)(\d{10})(?:\d{3})?\b", re.IGNORECASE)
_SECONDS = re.compile(
    r"(?:retry[-_ ]?after(?:[-_ ]seconds)?|resets?_in_seconds)[\"']?\s*[:=]\s*[\"']?(\d+(?:\.\d+)?)(?![\w.])",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"(?:\b(?:in|after)\s+|delay[\"']?\s*[:=]\s*[\"']?)"
    rf"((?:\d{{1,9}}(?:\.\d+)?\s*{_UNIT}\s*(?:,\s*)?(?:and\s+)?)+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|[smhd])", re.IGNORECASE)
_ISO = re.compile(r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)")
_CLOCK = re.compile(
    r"(?:resets?|try again|available again|renews?|until)\s+(?:(?:at|on)\s+)?"
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    r"(?:,?\s+(?P<year>\d{4}))?(?:\s*,\s*|\s+at\s+|\s+|\b))?"
    r"(?:(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s*(?P<half>am|pm)?)?(?:\s*\((?P<zone>[A-Za-z_+\-/0-9]+)\))?",
    re.IGNORECASE,
)


def reset_time(text: str, now: datetime, *, local: tzinfo | None = None) -> datetime | None:
    """The moment in UTC when a limit ends, or None when the text names none that can be true.

    Args:
        now: with its time zone; spans are counted from it, times of day are the next after it.
        local: what a time without a zone is in; None: this machine's zone.
    """
    readings = (
        _from_epoch(text), _from_seconds(text, now), _from_span(text, now), _from_iso(text, local),
        _from_clock(text, now, local),
    )  # fmt: skip
    for found in readings:
        if found is not None and now - timedelta(days=1) < found < now + LATEST:
            return found.astimezone(UTC)
    return None


def _from_epoch(text: str) -> datetime | None:
    match = _EPOCH.search(text)
    return datetime.fromtimestamp(int(match[1]), UTC) if match else None


def _from_seconds(text: str, now: datetime) -> datetime | None:
    match = _SECONDS.search(text)
    return now + timedelta(seconds=min(float(match[1]), 1e9)) if match else None


def _from_span(text: str, now: datetime) -> datetime | None:
    match = _SPAN.search(text)
    if match is None:
        return None
    seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(match[1]))
    return now + timedelta(seconds=min(seconds, 1e9))


def _from_iso(text: str, local: tzinfo | None) -> datetime | None:
    return _earliest(_ISO, text, lambda match: _zoned(datetime.fromisoformat(match[1]), local))


def _from_clock(text: str, now: datetime, local: tzinfo | None) -> datetime | None:
    return _earliest(_CLOCK, text, lambda match: _at_clock(match, now, local))


def _earliest(pattern: re.Pattern[str], text: str, read: Callable[[re.Match[str]], datetime | None]) -> datetime | None:
    """The first match that is a time: there may be a 25:00 before it."""
    for match in pattern.finditer(text):
        try:
            found = read(match)
        except (ValueError, OverflowError, OSError):  # no such time or day
            continue
        if found is not None:
            return found
    return None


def _zone(name: str | None) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (OSError, ValueError, KeyError):  # not a zone, or a system without their list
        return None


def _zoned(time: datetime, local: tzinfo | None) -> datetime:
    """A time with a zone; one without gets `local`, or this machine's."""
    if time.tzinfo is not None:
        return time
    return time.astimezone() if local is None else time.replace(tzinfo=local)


def _at_clock(match: re.Match[str], now: datetime, local: tzinfo | None) -> datetime | None:
    has_time = match["hour"] is not None and (match["minute"] or match["half"])
    if not has_time and match["month"] is None:
        return None
    zone = _zone(match["zone"]) or local
    today = now.astimezone(zone)
    hour = int(match["hour"]) if has_time else 0
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    time = today.replace(hour=hour, minute=int(match["minute"] or 0) if has_time else 0, second=0, microsecond=0)
    if match["month"]:
        return _on_date(match, time, today, zone)
    if time < today - JUST_NOW:
        time += timedelta(days=1)
    return _zoned(time.replace(tzinfo=None), zone)


def _on_date(match: re.Match[str], time: datetime, today: datetime, zone: tzinfo | None) -> datetime:
    month = _MONTHS.index(match["month"][:3].lower()) + 1
    time = time.replace(year=int(match["year"] or today.year), month=month, day=int(match["day"]), tzinfo=None)
    if not match["year"] and time < today.replace(tzinfo=None) - timedelta(days=1):
        time = time.replace(year=time.year + 1)
    return _zoned(time, zone)
