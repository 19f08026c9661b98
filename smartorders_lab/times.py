"""Durations and instants as people write them, to integer nanoseconds (UTC)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9}
NS |= {"h": 3600 * 10**9, "d": 86400 * 10**9, "w": 7 * 86400 * 10**9}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|min|s|m|h|d|w)")
_NOT_A_TIME = "is not a time; write 2024-08-08T23:55:00Z, a datetime, or integer nanoseconds"
_LONGEST = 36525 * NS["d"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def duration_ns(value: object) -> int:
    """Nanoseconds of `"50ms"`, `"1h30m"`, a timedelta (also numpy's) or an int that is nanoseconds already.

    Raises ValueError on anything else, and on negative durations.
    """
    if isinstance(value, timedelta):
        result = duration_of(value)
    elif isinstance(value, np.timedelta64):
        result = int(value.astype("timedelta64[ns]").astype(np.int64))
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        result = int(value)
    elif isinstance(value, str):
        parts = _PART.findall(value.strip())
        if not parts or _PART.sub("", value).strip():
            raise ValueError("is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds")
        if sum(float(number) * NS[unit] for number, unit in parts) > _LONGEST:
            raise ValueError("is longer than 100 years; give a shorter one")
        result = sum(round(float(number) * NS[unit]) for number, unit in parts)
    else:
        raise ValueError("is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds")
    if result < 0:
        raise ValueError("a duration cannot be negative")
    if result > _LONGEST:
        raise ValueError("is longer than 100 years; give a shorter one")
    return result


def duration_text(ns: int) -> str:
    """The shortest exact text of a duration: `duration_ns(duration_text(x)) == x`."""
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        count, ns = divmod(ns, NS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def instant_ns(value: object) -> int:
    """Nanoseconds since 1970 (UTC) of an aware datetime, an ISO text with a zone, numpy datetime64, or an int in ns.

    Raises ValueError on a naive datetime or text: which hour it means is not ours to guess.
    """
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[ns]").astype(np.int64))
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        try:
            return _iso_ns(value)
        except ValueError as error:
            known = str(error).startswith("has no time zone")
            raise error if known else ValueError(_NOT_A_TIME) from None
    if not isinstance(value, datetime):
        raise ValueError(_NOT_A_TIME)
    _require_zone(value)
    return duration_of(value - _EPOCH) + getattr(value, "nanosecond", 0)


def _iso_ns(text: str) -> int:
    """ISO text to ns; digits beyond the microseconds, which datetime drops, are kept."""
    base, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    moment = datetime.fromisoformat(base + rest[len(digits) :])
    _require_zone(moment)
    if len(digits) > 9:
        raise ValueError
    return duration_of(moment - _EPOCH) + int(digits.ljust(9, "0") if dot else 0)


def _require_zone(moment: datetime) -> None:
    if moment.tzinfo is None:
        raise ValueError("has no time zone; add one, as in 2024-08-08T23:55:00Z or datetime(..., tzinfo=UTC)")


def duration_of(delta: timedelta) -> int:
    """Nanoseconds of a timedelta, also a negative one."""
    return (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000


def instant_text(ns: int) -> str:
    """ISO text of an instant, to the nanosecond where it matters."""
    seconds, rest = divmod(int(ns), 10**9)
    base = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return base + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"
