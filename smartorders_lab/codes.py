"""The enums of rows.py as plain integers: numba reads these as constants, enum members it would compile as objects."""

from __future__ import annotations

from .rows import (
    Answer,
    Ask,
    EntryKind,
    Even,
    Field,
    Kind,
    LegStatus,
    Liquidity,
    News,
    Reason,
    Role,
    SizeKind,
    Status,
    Target,
)

# fmt: off
CREATED, HELD, ARMED, TRIGGERED, FILLED, REJECTED, CANCELLED, BREAK_EVEN = (int(k) for k in list(Kind)[:8])
TIMER_STARTED, TIMER_CLEARED, ACTION, ACTION_REFUSED, ENDED, ALERT = (int(k) for k in list(Kind)[8:])

LEG_PENDING, LEG_TRIGGERED, LEG_FILLED, LEG_CANCELLED = (int(s) for s in LegStatus)
S_PENDING, S_ACTIVE, S_PARTIAL, S_CLOSED, S_STOPPED, S_CANCELLED = (int(s) for s in Status)

(ROLE_NONE, ENTRY, TAKE_PROFIT, TRAILING_TP, STOP_LOSS, EVEN_STOP, TRAILING_STOP, MAX_HOLD, CLOSE, ADD, REDUCE, OPEN_NOW, EDIT,
 CANCEL, STOP_OUT) = (int(r) for r in Role)

R_NONE, R_CANCELLED, R_EXPIRED = int(Reason.NONE), int(Reason.CANCELLED), int(Reason.ENTRY_EXPIRED)
R_REJECTED, R_STATUS, R_LARGE = int(Reason.REJECTED), int(Reason.WRONG_STATUS), int(Reason.TOO_LARGE)
R_TRIGGER, R_STALE, R_CLOSING = int(Reason.WOULD_TRIGGER), int(Reason.STALE_VERSION), int(Reason.CLOSING)
R_MANY, R_NO_SIZE, R_SMALL = int(Reason.TOO_MANY), int(Reason.NO_SIZE), int(Reason.TOO_SMALL)

E_MARKET, E_LIMIT, E_STOP, E_TRAILING, E_HELD = (int(k) for k in EntryKind)
BY_COST, BY_RISK = int(SizeKind.COST), int(SizeKind.RISK)
AT_PRICE, AT_DISTANCE = int(Target.PRICE), int(Target.DISTANCE)
EVEN_OFF, EVEN_FEES = int(Even.OFF), int(Even.FEES)
MAKER, TAKER = int(Liquidity.MAKER), int(Liquidity.TAKER)

ASK_SUBMIT, ASK_CANCEL, ASK_MATCH = (int(a) for a in Ask)
TOLD_NOTHING, TOLD_FILL, TOLD_CANCELLED, TOLD_REJECTED = (int(a) for a in Answer)
NEWS_REPORT, NEWS_CANCEL = int(News.REPORT), int(News.CANCEL)

F_ENTRY, F_SIZE, F_STOP, F_TRAILING, F_EVEN, F_LEVELS, F_TTP, F_HOLD, F_EXPIRY, F_RESIZE = (int(f) for f in Field)
# fmt: on
