"""Child orders on their way to a venue: told once, looked up until it is known what became of them, told again only when proven absent.

Nothing here waits, sends or stores: a `Job` says what its state is and what is to be done next, `session` and `book` do it.

A request whose outcome is unknown is never simply repeated. It is looked up by its client id, and only if it is not found twice, when it
can no longer arrive and would be visible if it had, is the child sent again, as a new attempt under a new client id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .desk import Said
from .errors import StoreError
from .messages import Report, Submit, What
from .rows import Answer, Reason

MISSES = 2
"""Times that a child must not be found before it counts as absent."""
FIRST_LOOK_NS, LONGEST_LOOK_NS = 500_000_000, 30_000_000_000
"""Wait before a request of unknown outcome is looked up again; twice as long each time, up to the longest."""
PREFIX = "so"
"""What client ids of ours begin with."""
_NOTHING: Said = (Answer.NOTHING, 0, 0, 0, 0)


class State(StrEnum):
    """Where a job is."""

    SUBMITTING = "submitting"
    """Its intent is durable; whether it was sent, nobody knows."""
    UNKNOWN = "unknown"
    """It was sent, and nobody knows whether it arrived."""
    WORKING = "working"
    DONE = "done"
    REJECTED = "rejected"


@dataclass
class Job:
    """One child order. `since`: the first tick that it can meet beyond the one on which it was sent; `attempt` counts from 1; `sent_ns` and
    `look_ns` are times of this machine's clock."""

    submit: Submit
    child: int
    since: int
    attempt: int = 1
    state: State = State.SUBMITTING
    sent_ns: int = 0
    look_ns: int = 0
    looks: int = 0
    misses: int = 0
    recalled: bool = False
    doubted: bool = False
    """It was asked about, and that came to nothing: what is heard of it since need not be all."""
    fills: dict[str, int] = field(default_factory=dict)
    venue_id: str = ""
    """How the venue calls it."""

    @property
    def order(self) -> int:
        """The number of its smart order."""
        return self.submit.order

    @property
    def filled(self) -> int:
        """What has been filled."""
        return sum(self.fills.values())

    @property
    def open(self) -> bool:
        """Whether it is not over."""
        return self.state not in (State.DONE, State.REJECTED)

    def sent(self, now_ns: int) -> None:
        """It is being told to the broker."""
        self.state, self.sent_ns, self.looks, self.misses = State.UNKNOWN, now_ns, 0, 0
        self.look_ns = now_ns + FIRST_LOOK_NS

    def looked(self, now_ns: int) -> None:
        """It is being looked up."""
        self.looks += 1
        self.look_ns = now_ns + min(FIRST_LOOK_NS << min(self.looks, 16), LONGEST_LOOK_NS)

    def answered(self, reports: Iterable[Report]) -> None:
        """These are the answer to a request or a look."""
        self.doubted = all(report.what in (What.UNKNOWN, What.ABSENT) for report in reports)

    def hear(self, reports: Iterable[Report], now_ns: int, proof_ns: int) -> list[Said]:
        """Take in what the broker reports; returns what the engine has to hear of it.

        What was heard before is passed over. `proof_ns`: after so long an absent child can neither arrive nor be there unseen.
        """
        said: list[Said] = []
        for report in reports:
            if not self.open:
                break
            if report.what == What.FILLED:
                if report.fill_id in self.fills:
                    continue
                self.state = State.WORKING
                if report.quantity <= 0 or self.filled + report.quantity > self.submit.quantity:
                    raise StoreError(
                        f"order {self.order}, child {self.child} ({self.submit.client_id}): the broker reports a fill of {report.quantity} "
                        f"after {self.filled} of {self.submit.quantity}; stop here and look at the account before going on"
                    )
                self.fills[report.fill_id] = report.quantity
                said.append((Answer.FILL, report.price, report.quantity, report.liquidity, report.lost))
                if self.filled == self.submit.quantity:
                    self.state = State.DONE
            elif report.what == What.ACCEPTED:
                self.state, self.misses = State.WORKING, 0
                self.venue_id = report.fill_id or self.venue_id
            elif report.what == What.CANCELLED:
                self.state = State.DONE
                said.append((Answer.CANCELLED, 0, 0, 0, 0))
            elif report.what == What.REJECTED:
                self.state = State.REJECTED
                said.append((Answer.REJECTED, 0, 0, reason_of(report.reason), 0))
            elif report.what == What.ABSENT and self.state is State.UNKNOWN:
                self.misses += now_ns >= self.sent_ns + proof_ns
        return said

    @property
    def absent(self) -> bool:
        """Whether it is proven that the last attempt never was, and never will be."""
        return self.state is State.UNKNOWN and self.misses >= MISSES

    def to_json(self) -> dict[str, Any]:
        """For a snapshot."""
        return {**vars(self), "submit": [*self.submit], "state": str(self.state)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """What `to_json` gave."""
        return cls(**{**data, "submit": Submit(*data["submit"]), "state": State(data["state"])})


def reason_of(text: str) -> int:
    """The engine's word for why a venue refused."""
    return int(Reason.NO_FUNDS if text.startswith("insufficient funds") else Reason.REFUSED)


def client_id(session: str, order: int, child: int, attempt: int) -> str:
    """The id under which a venue knows one attempt at a child: 18 characters, the same whenever it is asked for."""
    digest = hashlib.blake2b(f"{session}:{order}:{child}:{attempt}".encode(), digest_size=10).digest()
    number, text = int.from_bytes(digest), ""
    for _ in range(16):
        number, digit = divmod(number, 36)
        text += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return f"{PREFIX}{text}"


def first(said: list[Said]) -> Said:
    """What answers a question: the first thing that was said, or nothing yet."""
    return said.pop(0) if said else _NOTHING
