"""A dry run: live trading in which nothing is sent. Each request that would be is shown, and the orders live on on paper.

    session = so.live("binance", store="dry.duckdb", limits={...}, dry_run=True)
    for request in session.broker.requests: print(request)

The broker is the live one, with its limits, its switch and its ways of looking things up. The ccxt client builds and signs what it would
send, and there its `fetch` ends: it writes the request down and hands back nothing. What becomes of an order is said by a paper exchange
that sees the ticks of the session. So a dry run cannot tell what only the exchange knows: whether there is money, and what it refuses.

A lookup that would be repeated is shown once. Secrets, signatures and what is derived from them are shown as ***.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np

from ..errors import ExchangeError
from ..fills import FillModel
from ..instrument import Instrument
from ..keys import NEEDS_PASSWORD, Keys, Secret, scrub
from ..messages import Cancel, Submit, What
from ..rows import Liquidity
from .guard import Guard
from .live import LiveBroker, Pauses, Reports, _market
from .paper import PaperBroker
from .venues import Failed, Fate, Fill, Truth, Venue, Wanted, connect

KEPT = 10_000
"""Requests that are remembered."""
_TELLS = ("sign", "key", "pass", "auth", "token", "secret")
"""What is in the name of a header that nobody is to see."""
_ANSWER = {"dry run": "nobody was asked"}
"""What every request is answered with: nothing that names an order, and not nothing."""
_doing: ContextVar[tuple[str, str]] = ContextVar("doing", default=("", ""))
_Dues = tuple[int, Sequence[tuple[str, int, int, bool]]]

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """A request that would have been sent. `what`: create, cancel or look up; `order`: the number of its smart order (-1: of none);
    `ms`: when. Headers and text have no secrets in them."""

    ms: int
    what: str
    order: int
    client_id: str
    method: str
    url: str
    headers: dict[str, str]
    body: str

    def __str__(self) -> str:
        body = f" {self.body}" if self.body else ""
        headers = ", ".join(f"{name}: {value}" for name, value in self.headers.items())
        return f"{self.what} {self.method} {self.url}{body} [{headers}]"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return self._asdict()


class DryVenue(Venue):
    """An exchange that is asked nothing; `paper` says what becomes of orders.

    `public`: makes a client without keys, from which the markets are learnt if the one with keys does not have them.
    """

    def __init__(self, name: str, make: Callable[[], Any], paper: PaperBroker, public: Callable[[], Any] | None = None):
        super().__init__(name, make)
        self.paper, self._public = paper, public
        self.requests: deque[Request] = deque(maxlen=KEPT)
        self.listeners: list[Callable[[Request], None]] = []
        self.submits: dict[str, Submit] = {}
        self._cancelled: set[str] = set()
        self._seen: set[tuple[str, str, str]] = set()

    @property
    def request_expiry_ns(self) -> int:
        """The paper exchange has what it has."""
        return 0

    @property
    def visibility_lag_ns(self) -> int:
        """It says at once what it has."""
        return 0

    async def open(self) -> None:
        """Markets, from an exchange that is not told who asks."""
        client = self.client = self._make()
        for name in ("apiKey", "secret", "password"):
            Secret(
                str(getattr(client, name, None) or "")
            )  # whatever they are, they are known to be secret from here on
        client.fetch, client.enableRateLimit = self._written_down, False
        client.watch = client.watch_multiple = _no_stream
        self._prepare(client)
        if not client.markets:
            public = Venue(self.name, self._public or partial(anonymous, self.name))
            try:
                await public.open()
                client.set_markets_from_exchange(public.client)
                self.skew_ms = public.skew_ms
            finally:
                await public.close()

    async def create(self, wanted: Wanted) -> str:
        """Show how an order would be created, and have it on paper; raises Failed for what ccxt would not send."""
        await self._shown("create", wanted.client_id, super().create(wanted))
        submit = self.submits.get(wanted.client_id)
        if submit is not None:  # what another order rests on is not watched on paper
            first = self.paper.submit(submit._replace(instant=True))
            for report in first:
                if report.what is What.REJECTED:
                    raise Failed(Fate.REFUSED, f"on paper: {report.reason}")
        return _id(wanted.client_id)

    async def cancel(self, symbol: str, client_id: str, id: str, stop: bool = False) -> bool:
        """Show how an order would be cancelled, and take it back on paper."""
        await self._shown("cancel", client_id, super().cancel(symbol, client_id, id, stop))
        self._cancelled.add(client_id)
        submit = self.submits.get(client_id)
        if submit is not None:
            self.paper.cancel(Cancel(client_id, submit.symbol, submit.sent, True))
        return False

    async def find(self, symbol: str, client_id: str, id: str, since_ms: int, stop: bool = False) -> Truth | None:
        """Show how an order would be looked up, and what became of it on paper."""
        await self._shown("look up", client_id, super().find(symbol, client_id, id, since_ms, stop), refused=False)
        if client_id not in self.submits:
            return Truth(_id(client_id), client_id not in self._cancelled, Decimal(0), ())
        told = self.paper.query(client_id)
        if any(report.what is What.ABSENT for report in told):
            return None
        instrument = self.instrument(symbol)
        fills = tuple(
            Fill(
                report.fill_id,
                report.ts,
                instrument.price(report.price),
                instrument.quantity(report.quantity),
                Liquidity(report.liquidity),
                (),
            )
            for report in told
            if report.what is What.FILLED
        )
        if fills:
            order = {"id": _id(client_id), "info": {"trades": [fill.id for fill in fills]}}
            await self._shown("look up", client_id, self._trades(symbol, order, since_ms), refused=False)
        filled = sum((fill.amount for fill in fills), Decimal(0))
        over = any(report.what in (What.CANCELLED, What.REJECTED) for report in told)
        whole = filled == instrument.quantity(self.submits[client_id].quantity)
        return Truth(_id(client_id), not over and not whole, filled, fills)

    async def open_orders(self, symbol: str) -> list[tuple[str, str]]:
        """What works on paper."""
        await self._shown("look up", "", super().open_orders(symbol), refused=False)
        mine = [submit for submit in self.paper.open_orders() if _market(submit.symbol) == symbol]
        return [(submit.client_id, _id(submit.client_id)) for submit in mine]

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """What the paper account has; nothing if there is none."""
        await self._shown("look up", "", super().balances(), refused=False)
        return {name: (total - used, total) for name, (total, used) in self.paper.balances().items()}

    async def _shown(self, what: str, client_id: str, work: Any, refused: bool = True) -> None:
        """Let ccxt build its requests. What it makes of the missing answers says nothing; raises Failed if it built none."""
        before, token = self._sent, _doing.set((what, client_id))
        try:
            await work
        except Failed:
            if refused and self._sent == before:
                raise
        except Exception as error:
            log.debug("%s: no answer, so %s", client_id, error)
        finally:
            _doing.reset(token)

    async def _written_down(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """In place of ccxt's fetch."""
        what, client_id = _doing.get()
        key = (client_id, method, urlsplit(url).path)
        if what == "look up":
            if key in self._seen:
                return dict(_ANSWER)
            self._seen.add(key)
        submit = self.submits.get(client_id)
        text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
        request = Request(
            self.now_ms(),
            what,
            -1 if submit is None else submit.order,
            client_id,
            method,
            scrub(url),
            {str(name): _hidden(str(name), value) for name, value in (headers or {}).items()},
            scrub(text),
        )
        self.requests.append(request)
        log.info("dry run: order %d would %s", request.order, request)
        for listener in [*self.listeners]:
            listener(request)
        return dict(_ANSWER)


class DryBroker(LiveBroker):
    """The live broker, on an exchange that is on paper. `requests`: the newest that would have been sent."""

    venue: DryVenue

    def __init__(self, venue: DryVenue, guard: Guard, pauses: Pauses, slippage_cap: Decimal):
        super().__init__(venue, guard, pauses, slippage_cap)
        self.paper = venue.paper

    async def _let_in(self) -> None:
        """Nobody is asked."""

    @property
    def requests(self) -> list[Request]:
        """What would have been sent, oldest first."""
        return [*self.venue.requests]

    def on_request(self, listener: Callable[[Request], None]) -> None:
        """Have `listener` called with each request, in the session's thread: it must be quick."""
        self.venue.listeners.append(listener)

    def close(self) -> None:
        """The paper exchange closes, too."""
        super().close()
        self.paper.close()

    def list(self, instrument: Instrument) -> None:
        """Trade a market here."""
        super().list(instrument)
        self.paper.list(instrument)

    def tick(self, symbol: str, number: int, ts: int, price: int, buy: int, sell: int, size: float | None) -> None:
        """Where the market is."""
        super().tick(symbol, number, ts, price, buy, sell, size)
        self.paper.tick(symbol, number, ts, price, buy, sell, size)

    def due(
        self, symbol: str, ts: np.ndarray, price: np.ndarray, buy: np.ndarray, sell: np.ndarray, size: np.ndarray | None
    ) -> _Dues:
        """The first of these ticks that means something on paper."""
        at, found = self.paper.due(symbol, ts, price, buy, sell, size)
        return at, found

    def match(self, client_id: str) -> Reports:
        """The paper exchange does what the tick does; it is heard as from an exchange, when it is looked up."""
        if self.paper.match(client_id):
            self.touched(client_id)
        return []

    def submit(self, submit: Submit) -> Reports:
        """Have a child created."""
        self.venue.submits[submit.client_id] = submit
        return super().submit(submit)

    def know(self, submit: Submit, id: str, fills: Any) -> None:
        """A child of an earlier start."""
        self.venue.submits[submit.client_id] = submit
        super().know(submit, id, fills)


def dry_broker(
    name: str,
    make: Callable[[], Any],
    guard: Guard,
    pauses: Pauses,
    slippage_cap: Decimal,
    fills: FillModel,
    ledger: str | Path,
    public: Callable[[], Any] | None = None,
) -> DryBroker:
    """A broker that sends nothing.

    `make`: makes a client with keys; `fills`: the fees on paper; `ledger`: the file of the paper exchange.
    """
    return DryBroker(DryVenue(name, make, PaperBroker(ledger, fills), public), guard, pauses, slippage_cap)


class _Nobody:
    """In place of keys."""

    def for_ccxt(self) -> dict[str, str]:
        """None."""
        return {}


def anonymous(name: str) -> Any:
    """A ccxt client without keys."""
    return connect(name, cast("Keys", _Nobody()))


def keys_or_made_up(name: str, profile: str = "") -> Keys:
    """The keys of an exchange; where there are none, some that fit its form, since nobody will look at what they sign.

    Raises ExchangeError for keys that are there and cannot be.
    """
    try:
        return Keys.find(name, profile)
    except ExchangeError as error:
        if "the API key from" not in str(error) or "is missing" not in str(error):
            raise
    secret = base64.b64encode(b"nobody looks at what this signs, it has a length only").decode()
    if name == "coinbase":
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        made = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.TraditionalOpenSSL
        secret = made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    return Keys(name, "made-up-key", secret, "made-up" if name in NEEDS_PASSWORD else "", "nowhere: made up")


def _id(client_id: str) -> str:
    """In place of the exchange's id of an order."""
    return f"id-of-{client_id}"


def _hidden(name: str, value: Any) -> str:
    if any(word in name.lower() for word in _TELLS) and not name.lower().endswith(("version", "sign-type", "verify")):
        return "***"
    return scrub(str(value))


async def _no_stream(*_: Any, **__: Any) -> Any:
    raise ExchangeError("a dry run opens no private stream")
