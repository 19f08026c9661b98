"""API keys: where they come from, and that they go nowhere else.

    keys = Keys.find("binance")        # the keyring first, then SMARTORDERS_BINANCE_KEY and _SECRET (and _PASSWORD)

A key is never written, pickled, copied or shown: not by repr, not in an error, not in a log. `Scrubber` takes what looks like one, and the
known ones in any spelling, out of log records and of text that goes to a user.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import quote

from .errors import ExchangeError

NEEDS_PASSWORD = frozenset({"okx", "bitget", "kucoin"})
"""Exchanges whose keys have a passphrase as well."""
_HIDDEN = "***"
_LOOKS = re.compile(
    r"(?i)((?:signature|sign|api[-_]?sign|passphrase|x-[a-z-]*key|ok-access-[a-z]+|kc-api-[a-z]+|access-[a-z]+|authorization)"
    r"""["']?\s*[=:]\s*["']?(?:bearer\s+)?)([^\s"',&}]{6,})"""
)
"""What is signed, in an address, a header or a body."""
_known: set[str] = set()


class Secret:
    """Text that shows itself to nobody but `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str):
        self._text = text
        _known.update(_spellings(text))

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return _HIDDEN

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return _HIDDEN

    def _never(self, *_: Any) -> NoReturn:
        raise TypeError("a secret is neither copied nor stored; read it where it is needed")

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _never


class Keys:
    """The keys of one exchange. Raises ExchangeError for what cannot be a key, without showing it."""

    __slots__ = ("exchange", "key", "password", "secret", "source")
    key: Secret
    secret: Secret
    password: Secret

    def __init__(self, exchange: str, key: str, secret: str, password: str = "", source: str = "the caller"):
        self.exchange, self.source = exchange, source
        for name, value in (("key", key), ("secret", secret), ("password", password)):
            needed = name != "password" or exchange in NEEDS_PASSWORD
            if needed and not value:
                raise ExchangeError(f"{exchange}: the API {name} from {source} is missing; {_ways(exchange)}")
            multi_line = name == "secret" and "PRIVATE KEY" in value  # Coinbase's is a PEM
            if (value != value.strip() and not multi_line) or value.startswith(("'", '"')):
                raise ExchangeError(
                    f"{exchange}: the API {name} from {source} has spaces, line ends or quotes around it; give it without"
                )
            if not multi_line and any(not 32 < ord(letter) < 127 for letter in value):
                raise ExchangeError(
                    f"{exchange}: the API {name} from {source} has letters that no key has; copy it again"
                )
            setattr(self, name, Secret(value.replace("\\n", "\n") if multi_line else value))

    def __repr__(self) -> str:
        return f"Keys({self.exchange!r}, from {self.source})"

    @classmethod
    def find(cls, exchange: str, profile: str = "") -> Keys:
        """The keys of an exchange, from the system's keyring or the environment. Raises ExchangeError that says where it looked."""
        names = ("key", "secret", "password")
        service = f"smartorders_lab:{exchange}" + (f":{profile}" if profile else "")
        found = _from_keyring(service, names)
        if found.get("key"):
            return cls(exchange, found["key"], found.get("secret", ""), found.get("password", ""), f"keyring {service}")
        prefix = f"SMARTORDERS_{exchange}_".upper() + (f"{profile}_".upper() if profile else "")
        given = {name: os.environ.get(prefix + name.upper(), "") for name in names}
        return cls(exchange, given["key"], given["secret"], given["password"], f"{prefix}KEY, _SECRET and _PASSWORD")

    def for_ccxt(self) -> dict[str, str]:
        """As a ccxt client takes them."""
        found = {"apiKey": self.key.reveal(), "secret": self.secret.reveal()}
        if self.password.reveal():
            found["password"] = self.password.reveal()
        return found


def _from_keyring(service: str, names: Iterable[str]) -> dict[str, str]:
    """What the system's keyring holds; nothing where there is none."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return {}
    try:
        return {name: value for name in names if (value := keyring.get_password(service, name))}
    except KeyringError:
        return {}


def _ways(exchange: str) -> str:
    prefix = f"SMARTORDERS_{exchange.upper()}_"
    also = f" and {prefix}PASSWORD" if exchange in NEEDS_PASSWORD else ""
    return f"set {prefix}KEY, {prefix}SECRET{also}, or store them in the keyring under smartorders_lab:{exchange}"


def _spellings(text: str) -> set[str]:
    """A secret as it is, and as it may turn up in an address, in JSON, or in base64."""
    if len(text) < 6:
        return set()
    plain = {text, *(line for line in text.splitlines() if len(line) > 16 and "PRIVATE KEY" not in line)}
    spelled = {quote(one, safe="") for one in plain} | {base64.b64encode(one.encode()).decode() for one in plain}
    return plain | spelled | {one.replace("\n", "\\n") for one in plain}


def scrub(text: str) -> str:
    """Text without secrets."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _LOOKS.sub(rf"\1{_HIDDEN}", text)


class Scrubber(logging.Filter):
    """Takes secrets out of log records, the text of exceptions included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record; it is always kept."""
        record.msg, record.args = scrub(record.getMessage()), ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True
