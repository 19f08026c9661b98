"""What goes between a session and what is around it: ticks from a feed, requests to a broker, its reports.

Times are ns since 1970 on the exchange's clock unless a name says otherwise; prices and quantities are integers of the
instrument's increments, as in the engine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from .rows import NONE


class Block(NamedTuple):
    """Ticks of one symbol in the order in which the engine has to see them, each once; arrays of one length.

    `ts` int64, never decreasing, also from one block to the next. `price` (the last trade), `bid`, `ask`, `mark` int64, None
    where the feed has none; `size` float64 in base currency. `token`: text from which the feed goes on after the last of them.
    `late`: they come after a gap (a restart, an outage), too late to be traded on as if they were new.
    """

    symbol: str
    ts: np.ndarray
    price: np.ndarray
    size: np.ndarray | None = None
    bid: np.ndarray | None = None
    ask: np.ndarray | None = None
    mark: np.ndarray | None = None
    token: str = ""
    late: bool = False


class Notice(NamedTuple):
    """What a feed has to say beside ticks: `what` is `live`, `stale`, `gap`, `dropped` or `error`; of an account `account` or `orphan`."""

    symbol: str
    what: str
    text: str
    count: int = 0  # type: ignore[assignment]


class Submit(NamedTuple):
    """Send a child order. `side` is +1 to buy, -1 to sell; `direction` that of the position (+1 long).

    `opens`: it adds to the position; `at_limit`: a limit that also fills on arrival exactly at its price (an entry, sent because
    the price is there). `leg`: its place among the children of its order, in which they are matched. `sent`: when it was decided;
    `instant`: on the tick that the venue is at now, so that without latency it meets that tick. `limit` None: market.
    """

    client_id: str
    symbol: str
    order: int
    leg: int
    side: int
    direction: int
    quantity: int
    limit: int | None
    opens: bool
    at_limit: bool
    sent: int
    instant: bool


class Cancel(NamedTuple):
    """Take a child order back. `instant` as in Submit."""

    client_id: str
    symbol: str
    sent: int
    instant: bool


class What(StrEnum):
    """What a report says of a child order."""

    ACCEPTED = "accepted"
    FILLED = "filled"
    """One fill, whole or in part."""
    CANCELLED = "cancelled"
    """It is over; what has not been reported as filled never will be."""
    REJECTED = "rejected"
    """It never was, for sure."""
    UNKNOWN = "unknown"
    """Nobody can say yet: only looking it up can."""
    ABSENT = "absent"
    """Looked up and not found. One look proves nothing."""


class Report(NamedTuple):
    """What a venue says of one child order. `fill_id` is unique for each fill at the venue, and of an order that is ACCEPTED the venue's
    name; `liquidity` as in rows.Liquidity. `fees`: what a fill has cost, (currency, amount as text), where the venue says so; `lost`: what
    of that is base currency, in quantity increments of 1e-8, NONE: the venue does not say, and the fill model does.
    """

    client_id: str
    what: What
    ts: int = 0
    price: int = 0
    quantity: int = 0
    liquidity: int = 0
    fill_id: str = ""
    reason: str = ""
    fees: tuple[tuple[str, str], ...] = ()
    lost: int = NONE

    def brief(self) -> list[Any]:
        """As plain data, without what is at its default at the end."""
        values, defaults = [*self], [*self._field_defaults.values()]
        bare = len(values) - len(defaults)
        while len(values) > bare and values[-1] == defaults[len(values) - bare - 1]:
            values.pop()
        return values
