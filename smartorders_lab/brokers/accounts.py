"""What an account really holds, held against what a session believes: its coins, its open orders, and orders of ours that nobody owns.

    account = await look(broker, book)
    account.differences                # [] if all that orders hold is there

What became of each child is found out by its worker (`live`). Here is what no child can say: coins that are gone without us, and orders
that bear an id of this session and belong to no smart order of it, as after a store was lost or an old copy of it was put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from ..execution import PREFIX, client_id
from ..fields import plain
from ..rows import Status
from .resting import PREFIX as REST

if TYPE_CHECKING:
    from ..book import Book
    from .live import LiveBroker

ATTEMPTS = 5
"""Attempts at a child whose ids are looked for, beyond those that are known."""


class Orphan(NamedTuple):
    """An open order that bears an id as ours are, and that no smart order here owns. `ours`: the id is one of this session."""

    symbol: str
    client_id: str
    id: str
    ours: bool


@dataclass(frozen=True)
class Account:
    """`balances`: free and total of each currency; `held`: of each base currency, what living orders hold; `differences` in words."""

    balances: dict[str, tuple[Decimal, Decimal]]
    held: dict[str, Decimal]
    orphans: list[Orphan]

    @property
    def differences(self) -> list[str]:
        """Coins that orders hold and the account does not have."""
        nothing = (Decimal(0), Decimal(0))
        return [
            f"{coin}: orders hold {plain(held)}, and the account has {plain(self.balances.get(coin, nothing)[1])}: "
            "the rest was sold or moved by somebody else"
            for coin, held in self.held.items()
            if self.balances.get(coin, nothing)[1] < held
        ]


async def look(broker: LiveBroker, book: Book) -> Account:
    """Ask the exchange. Raises brokers.venues.Failed if it does not say."""
    owned = _owned(broker, book)
    symbols = sorted({market.instrument.symbol for market in book.markets.values()})
    found = [(symbol, *order) for symbol in symbols for order in await broker.venue.open_orders(symbol)]
    owned |= _owned(broker, book)  # also what has been sent meanwhile
    strange = [order for order in found if order[1].startswith((PREFIX, REST)) and order[1] not in owned]
    ours = _ours(book) if strange else set()
    orphans = [Orphan(*order, order[1] in ours) for order in strange]
    before = _held(broker, book)
    balances = await broker.venue.balances()
    after = _held(broker, book)  # the less of both: what is sold meanwhile is not missing
    held = {coin: min(held, after.get(coin, Decimal(0))) for coin, held in before.items()}
    found_out = Account(balances, held, orphans)
    if found_out.differences:
        await broker.fresh()  # the next look knows what has been sold since the last
    return found_out


def _owned(broker: LiveBroker, book: Book) -> set[str]:
    rests = () if broker.rests is None else broker.rests.names()
    return {job.submit.client_id for job in book.jobs.values() if job.open} | {name for name, _ in rests}


def _ours(book: Book) -> set[str]:
    """Every id that this session can have given."""
    ids = set(book.by_client)
    for number in book.specs:
        children = int(book.rows(number)[0]["children"][0])
        for child in range(1, children + 2):
            ids |= {client_id(book.journal.id, number, child, attempt) for attempt in range(1, ATTEMPTS + 1)}
    return ids


def _held(broker: LiveBroker, book: Book) -> dict[str, Decimal]:
    held: dict[str, Decimal] = {}
    for number in book.homes:
        row = book.rows(number)[0][0]
        instrument = book.markets[book.specs[number].symbol].instrument
        units = int(row["entered"] - row["exited"]) - (0 if broker.rests is None else broker.rests.sold(number))
        if row["side"] > 0 and row["status"] < Status.CLOSED and units > 0 and ":" not in instrument.symbol:
            coin = instrument.symbol.split("/")[0]
            held[coin] = held.get(coin, Decimal(0)) + instrument.quantity(units)
    return held
