"""API keys: where they come from, and that they go nowhere else.

    keys = Keys.find("binance")        # the keyring first, then SMARTORDERS_BINANCE_KEY and _SECRET (and _PASSWORD)

A key is never written, pickled, copied or shown: not by repr, not in an error, not in a log. From the first secret on, the known ones in
any spelling, and what looks like one, are taken out of every log record of the process (`Scrubber`), whichever library writes it; `scrub`
does the same for text that goes to a user, `quieten` for what ccxt prints when it is told to be verbose.

What raises here keeps no key in its frames: some show the local variables of a traceback.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

from .errors import ExchangeError

NEEDS_PASSWORD = frozenset({"okx", "bitget", "kucoin"})
"""Exchanges whose keys have a passphrase as well."""
_HIDDEN = "***"
_LOOKS = re.compile(
    r"(?i)(?<![a-z])((?:signature|sign|api[-_]?sign|passphrase|x-[a-z-]*key|ok-access-[a-z]+|kc-api-[a-z]+|access-[a-z]+|authorization)"
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
        _scrub_logs()

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

    def __init__(
        self,
        exchange: str,
        key: str | Secret,
        secret: str | Secret,
        password: str | Secret = "",
        source: str = "the caller",
    ):
        given = {"key": _secret(key), "secret": _secret(secret), "password": _secret(password)}
        del key, secret, password
        self.exchange, self.source = exchange, source
        for name, text in given.items():
            problem = _problem(exchange, name, text, source)
            if problem:
                raise ExchangeError(f"{exchange}: the API {name} from {source} {problem}")
            setattr(self, name, _whole(text))

    def __repr__(self) -> str:
        return f"Keys({self.exchange!r}, from {self.source})"

    @classmethod
    def find(cls, exchange: str, profile: str = "") -> Keys:
        """The keys of an exchange, from the system's keyring or the environment. Raises ExchangeError that says where it looked."""
        names = ("key", "secret", "password")
        service = f"smartorders_lab:{exchange}" + (f":{profile}" if profile else "")
        found = _from_keyring(service, names)
        if "key" in found:
            return cls(exchange, found["key"], found.get("secret", ""), found.get("password", ""), f"keyring {service}")
        prefix = f"SMARTORDERS_{exchange}_".upper() + (f"{profile}_".upper() if profile else "")
        given = {name: Secret(os.environ.get(prefix + name.upper(), "")) for name in names}
        return cls(exchange, given["key"], given["secret"], given["password"], f"{prefix}KEY, _SECRET and _PASSWORD")

    def for_ccxt(self) -> dict[str, str]:
        """As a ccxt client takes them."""
        found = {"apiKey": self.key.reveal(), "secret": self.secret.reveal()}
        if self.password.reveal():
            found["password"] = self.password.reveal()
        return found


def _secret(given: str | Secret) -> Secret:
    return given if isinstance(given, Secret) else Secret(given)


def _whole(secret: Secret) -> Secret:
    """With line ends where an environment has had them written as two letters."""
    text = secret.reveal()
    return Secret(text.replace("\\n", "\n")) if "PRIVATE KEY" in text and "\\n" in text else secret


def _problem(exchange: str, name: str, secret: Secret, source: str) -> str:
    """What is wrong with a part of a key; nothing if nothing is."""
    text = secret.reveal()
    multi_line = name == "secret" and "PRIVATE KEY" in text  # Coinbase's is a PEM
    if not text:
        needed = name != "password" or exchange in NEEDS_PASSWORD
        return f"is missing; {_ways(exchange)}" if needed else ""
    if (text != text.strip() and not multi_line) or text.startswith(("'", '"')):
        return "has spaces, line ends or quotes around it; give it without"
    if not multi_line and any(not 32 < ord(letter) < 127 for letter in text):
        return "has letters that no key has; copy it again"
    return ""


def _from_keyring(service: str, names: Iterable[str]) -> dict[str, Secret]:
    """What the system's keyring holds; nothing where there is none."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return {}
    try:
        return {name: Secret(value) for name in names if (value := keyring.get_password(service, name))}
    except KeyringError:
        return {}


def _ways(exchange: str) -> str:
    prefix = f"SMARTORDERS_{exchange.upper()}_"
    also = f" and {prefix}PASSWORD" if exchange in NEEDS_PASSWORD else ""
    return f"set {prefix}KEY, {prefix}SECRET{also}, or store them in the keyring under smartorders_lab:{exchange}"


def _spellings(text: str) -> set[str]:
    """A secret as it is, and as it may turn up in an address, in JSON, in a repr or in base64; of a PEM also each line."""
    if len(text) < 6:
        return set()
    plain = {text, text.strip(), *(line for line in text.splitlines() if len(line) > 16 and "PRIVATE KEY" not in line)}
    found = set(plain)
    for one in plain:
        found |= {quote(one, safe=""), quote(one), quote_plus(one), json.dumps(one)[1:-1], repr(one)[1:-1]}
        found |= {base64.b64encode(one.encode()).decode(), base64.urlsafe_b64encode(one.encode()).decode()}
    return found


def scrub(text: str) -> str:
    """Text without secrets."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _LOOKS.sub(rf"\1{_HIDDEN}", text)


def quieten(client: Any) -> None:
    """What a ccxt client prints when it is verbose has no secrets."""
    client.log = lambda *words: print(scrub(" ".join(map(str, words))))


class Scrubber(logging.Filter):
    """Takes secrets out of log records, the text of exceptions included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record that has any; it is always kept."""
        text = record.getMessage()
        clean = scrub(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:
            said = logging.Formatter().formatException(record.exc_info)
            clean = scrub(said)
            if clean != said or _through_ccxt(record.exc_info[1]):
                record.exc_text, record.exc_info = (
                    clean,
                    None,
                )  # a handler that shows local variables would show its headers
        return True


def _through_ccxt(error: BaseException | None) -> bool:
    """Whether a traceback has frames of ccxt, whose local variables hold keys."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "ccxt":
                return True
            trace = trace.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


_scrubs = False


def _scrub_logs() -> None:
    """From now on every log record of the process is scrubbed when it is made: a filter would have to be on every handler."""
    global _scrubs
    if _scrubs:
        return
    _scrubs = True
    make, scrubber = logging.getLogRecordFactory(), Scrubber()

    def scrubbed(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        try:
            scrubber.filter(record)
        except Exception:  # a wrong format: whoever handles the record says so
            record.args = scrub(repr(record.args)) if record.args else record.args  # type: ignore[assignment]
        return record

    logging.setLogRecordFactory(scrubbed)
