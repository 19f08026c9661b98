"""What an exchange says of our orders by itself: a private stream, which only wakes whoever looks.

    stream = PrivateStream(venue)
    await stream.run(names, wake)      # for ever: wake("so…") whenever something may have happened to that child

Nothing of what a stream says is believed: not what was filled, nor whether an order is over, nor what it cost. Each exchange words these
otherwise, parts of them are missing here and mean the last trade only there, and some come twice, late or never. A frame in which an id of
ours stands, wherever and in whatever form, wakes the child of that id; what became of it is looked up. So a frame that nobody can read
wakes as well as one that makes sense, and the worst that a stream can do is to cost a look.

It has a client of its own, so that it holds up no order, and takes a new one whenever a connection has failed: with the old one go its
tokens and whatever it has remembered. What was said meanwhile is lost; the first frames of a new connection, among which is the answer to
the subscription, wake every child.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .venues import Venue

KEEP_ALIVE_S = 10.0
"""How often a connection is asked whether it is there; silent for three times that it is given up."""
GREETINGS, GREETING_S = 6, 5.0
"""The first frames of a connection, and for how long a frame can be one: greeting, log-in, subscription, what there is. Events after the
subscription may have been missed until all of them have come."""
SHORTEST_S, LONGEST_S = 0.2, 60.0
"""Pauses before a failed connection is made anew; twice as long each time that it fails soon."""
LASTED_S = 60.0
"""A connection that has lasted so long has not failed soon."""

log = logging.getLogger(__name__)


class PrivateStream:
    """The orders of one account, as the exchange tells them. `venue` has to be open when it runs."""

    def __init__(self, venue: Venue):
        self.venue = venue
        self._proven = False
        self._heard = self._met = 0.0
        self._greetings = 0
        self._names: Callable[[], Mapping[str, str]]
        self._wake: Callable[[str], None]

    @property
    def hears(self) -> bool:
        """Whether it can be relied on to wake: this connection has told of an order of ours before, and is alive."""
        return self._proven and time.monotonic() < self._heard + 3 * KEEP_ALIVE_S

    def missed(self) -> None:
        """Something was found that it had not told: it has to prove itself again."""
        self._proven = False

    async def run(self, names: Callable[[], Mapping[str, str]], wake: Callable[[str], None]) -> None:
        """Listen until cancelled. `names`: client ids of the children that are not over, by all that these are called; `wake` gets some."""
        self._names, self._wake = names, wake
        pause = SHORTEST_S
        task = asyncio.current_task()
        while True:
            began, client = time.monotonic(), None
            try:
                client = self.venue.another()
                self._listen(client)
                while True:
                    await client.watch_orders()
            except asyncio.CancelledError as error:
                if task is None or task.cancelling():  # otherwise ccxt has cancelled what it was waiting for itself
                    raise
                why: BaseException = error
            except Exception as error:
                why = error
            finally:
                self._proven = False
                if client is not None:
                    await _closed(client)
            log.info("%s: the stream of orders has ended: %s", self.venue.name, type(why).__name__)
            self._everyone()
            if time.monotonic() > began + LASTED_S:
                pause = SHORTEST_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_S)

    def _listen(self, client: Any) -> None:
        """Hear every frame before ccxt does: one that it cannot read ends its receiving, and it says so to nobody."""
        client.open()  # KuCoin's asks for its loop before it has made a connection
        client.options["ws"] = {**(client.options.get("ws") or {}), "keepAlive": int(1000 * KEEP_ALIVE_S)}
        make, known = client.client, dict[str, Any]()

        def connection(url: str) -> Any:
            made = make(url)
            if known.get(url) is not made:
                known[url], self._greetings, self._met = made, GREETINGS, time.monotonic()
                made.handle_message = partial(self._frame, made.handle_message)
            return made

        client.client = connection

    def _frame(self, handle: Callable[[Any], None], message: Any) -> None:
        if message.type in (1, 2, 9, 10):  # text, binary, ping, pong
            self._heard = time.monotonic()
        if message.type in (1, 2):
            self._text(message.data if isinstance(message.data, str) else bytes(message.data).decode("latin-1"))
        try:
            handle(message)
        except Exception as error:
            log.info("%s: ccxt cannot read a frame of the stream of orders: %s", self.venue.name, type(error).__name__)

    def _text(self, text: str) -> None:
        meant = {client_id for name, client_id in self._names().items() if name in text}
        self._proven = self._proven or bool(meant)
        if self._greetings > 0 and time.monotonic() < self._met + GREETING_S:
            self._greetings -= 1
            self._everyone()
            return
        for client_id in sorted(meant):
            self._wake(client_id)

    def _everyone(self) -> None:
        for client_id in sorted({*self._names().values()}):
            self._wake(client_id)


async def _closed(client: Any) -> None:
    """Close a client, to the end also when there is no time for it."""
    closing = asyncio.ensure_future(client.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        raise
    except Exception as error:
        log.info("the stream of orders was not closed well: %s", type(error).__name__)
