"""Share links: a whole spec as one line of text.

`solab1:` + base64url(canonical JSON) + `.` + 8 hex digits of its BLAKE2b. The checksum tells a damaged link from a
whole one; it does not say who made it. A link holds a spec and nothing else: no account, no secret, no path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import TYPE_CHECKING, Any

from .errors import LinkError, Problem, SpecError

if TYPE_CHECKING:
    from .spec import SmartOrder

SCHEME = "solab"
LINK_VERSION = 1
MAX_LINK = 8192
"""Longest link, in characters. A full ladder of 20 levels takes about 2,000."""
MAX_DEPTH = 6


def encode(order: SmartOrder) -> str:
    """The link of an order."""
    body = base64.urlsafe_b64encode(order.to_json().encode()).decode().rstrip("=")
    return f"{SCHEME}{LINK_VERSION}:{body}.{_checksum(body)}"


def decode(link: object) -> SmartOrder:
    """The order of a link. Raises LinkError naming the step that failed."""
    from .spec import SmartOrder

    if not isinstance(link, str):
        raise _error(link, "must be text", "paste the whole link")
    text = link.strip()
    if len(text) > MAX_LINK:
        raise _error(
            text[:24] + "…", f"has {len(text)} characters, more than {MAX_LINK} (MAX_LINK)", "it is not one of ours"
        )
    head, colon, rest = text.partition(":")
    if not (colon and head.startswith(SCHEME) and head[len(SCHEME) :].isdigit()):
        raise _error(
            text, f"is not a share link: it does not start with {SCHEME}{LINK_VERSION}:", "paste the whole link"
        )
    if int(head[len(SCHEME) :]) != LINK_VERSION:
        raise _error(
            head, f"has version {head[len(SCHEME) :]}, this library reads {LINK_VERSION}", "update smartorders_lab"
        )
    body, dot, check = rest.rpartition(".")
    if not dot or _checksum(body) != check:
        raise _error(text, "is damaged: the checksum does not match", "copy the whole link again")
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        data = strict_json(raw.decode())
    except (binascii.Error, UnicodeDecodeError):
        raise _error(text, "is damaged: not base64url of UTF-8", "copy the whole link again") from None
    except SpecError as error:
        raise LinkError(error.problems) from None
    try:
        return SmartOrder.from_dict(data)
    except SpecError as error:
        raise LinkError(error.problems) from None


def strict_json(text: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN, infinities or deep nesting; numbers stay text. Raises SpecError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise SpecError(Problem(key, None, "stands twice in the JSON", "keep one"))
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise SpecError(Problem("json", constant, "is not a number that JSON knows", "use a finite number"))

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=str)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SpecError(Problem("json", text, f"is not JSON: {error}", "see SmartOrder.to_json()")) from None
    if not isinstance(data, dict):
        raise SpecError(Problem("json", text, "must be an object", "see SmartOrder.to_json()"))
    if _depth(data) > MAX_DEPTH:
        raise SpecError(Problem("json", None, f"is nested deeper than {MAX_DEPTH} (MAX_DEPTH)", "it is not a spec"))
    return data


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=4).hexdigest()


def _error(value: object, rule: str, fix: str) -> LinkError:
    return LinkError(Problem("link", value, rule, fix))
