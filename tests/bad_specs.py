"""Orders, fill models, actions and replays that must be refused: `(name, callable of tmp_path, error class, whole message)`.

A message is read at 2 a.m.: it names the field, what was given, the rule and the way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smartorders_lab.actions import add_funds, cancel, close_at_market, edit, reduce_funds
from smartorders_lab.errors import ActionError, DataError, LinkError, SpecError
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.replays import replay
from smartorders_lab.spec import BreakEven, Entry, SmartOrder, StopLoss, TakeProfit, TrailingStop
from smartorders_lab.ticks import Ticks

T0 = 1_723_161_255_342_000_000
CENTS = Instrument(
    symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001", min_quantity="0.01", min_notional="5"
)
LADDER = [(105, 40), (110, 35), (120, 25)]


def order(**fields: Any) -> Callable[[Path], SmartOrder]:
    """A good long from 100, with some fields changed; None takes a field away."""
    good = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1, "entry": Entry.limit(100), "take_profits": LADDER}
    merged = good | {"stop_loss": 95} | fields
    return lambda _: SmartOrder(**{name: value for name, value in merged.items() if value is not None})


def call(make: Callable[..., Any], *args: Any, **fields: Any) -> Callable[[Path], Any]:
    return lambda _: make(*args, **fields)


def replayed(**options: Any) -> Callable[[Path], Any]:
    """A replay of a good order over three ticks, with some arguments changed."""

    def run(folder: Path) -> Any:
        ticks = Ticks.from_arrays([T0, T0 + 10**9, T0 + 2 * 10**9], [100.0, 101.0, 102.0], symbol="BTC/USDT")
        given = {"orders": order()(folder), "ticks": ticks} | options
        return replay(**given)

    return run


def fits(**fields: Any) -> Callable[[Path], Any]:
    """A good order, changed, on a market with increments and minimums."""

    def run(folder: Path) -> Any:
        ticks = Ticks.from_arrays([T0, T0 + 1], [100.0, 101.0], instrument=CENTS)
        return replay(order(**fields)(folder), ticks)

    return run


CASES: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    # the order
    ("side LONG", order(side="LONG"), SpecError, "side = 'LONG': must be one of 'buy' or 'sell'; write 'buy'"),
    ("side missing", order(side=None), SpecError, "side: is required; give side=..."),
    (
        "symbol empty",
        order(symbol=""),
        SpecError,
        "symbol = '': must be a unified symbol; write BTC/USDT, or BTC/USDT:USDT for a perpetual",
    ),
    (
        "symbol with a blank",
        order(symbol=" btcusdt"),
        SpecError,
        "symbol = ' btcusdt': must be a unified symbol; write BTC/USDT",
    ),
    (
        "symbol without a slash",
        order(symbol="BTCUSDT"),
        SpecError,
        "symbol = 'BTCUSDT': must be a unified symbol; write BTC/USDT",
    ),
    ("tag a number", order(tag=7), SpecError, "tag = 7: must be text; write it in quotes"),
    (
        "touch a word",
        call(FillModel, touch="maybe"),
        SpecError,
        "touch = 'maybe': must be true or false; write it without quotes",
    ),
    (
        "break-even after a half",
        call(BreakEven, after=1.5),
        SpecError,
        "after = 1.5: must be a whole number; write 1 or 2",
    ),
    ("symbol a number", order(symbol=5), SpecError, "symbol = 5: must be text; write it in quotes"),
    ("quantity zero", order(quantity=0), SpecError, "quantity = 0: must be above 0; give a positive number"),
    ("quantity negative", order(quantity=-1), SpecError, "quantity = -1: must be above 0; give a positive number"),
    (
        "quantity nan",
        order(quantity=math.nan),
        SpecError,
        "quantity = nan: must be a finite number; write it like 100 or 0.5",
    ),
    (
        "quantity inf",
        order(quantity=math.inf),
        SpecError,
        "quantity = inf: must be a finite number; write it like 100 or 0.5",
    ),
    (
        "quantity with a decimal comma",
        order(quantity="1,5"),
        SpecError,
        "quantity = '1,5': must be a number with a decimal point; write 1.5",
    ),
    (
        "quantity true",
        order(quantity=True),
        SpecError,
        "quantity = True: must be a number, not true or false; write 1 or 0.5",
    ),
    (
        "quantity beyond any market",
        order(quantity="1e400"),
        SpecError,
        "quantity = '1e400': must lie between 1e-18 and 1e18; check the unit",
    ),
    (
        "quantity a word",
        order(quantity="all"),
        SpecError,
        "quantity = 'all': must be a finite number; write it like 100 or 0.5",
    ),
    (
        "quantity and cost",
        order(cost=100),
        SpecError,
        "quantity: exactly one of quantity, cost and risk must be given; keep one of quantity, cost",
    ),
    (
        "no size",
        order(quantity=None),
        SpecError,
        "quantity: exactly one of quantity, cost and risk must be given; add quantity=...",
    ),
    (
        "risk without a stop",
        order(quantity=None, risk=50, stop_loss=None, max_hold="1h"),
        SpecError,
        "risk = 50: needs a stop loss, which says how much a unit can lose; add stop_loss=...",
    ),
    ("entry price zero", call(Entry.limit, 0), SpecError, "price = 0: must be above 0; give a positive number"),
    (
        "entry price nan",
        call(Entry.limit, math.nan),
        SpecError,
        "price = nan: must be a finite number; write it like 100 or 0.5",
    ),
    (
        "entry of an unknown kind",
        order(entry="imit"),
        SpecError,
        "entry.kind = 'imit': must be one of 'market', 'limit', 'stop', 'trailing', 'held' or 'ladder'; write 'limit'",
    ),
    (
        "entry without its price",
        order(entry="limit"),
        SpecError,
        "entry: a limit entry needs price; e.g. Entry.limit(...)",
    ),
    (
        "entry with a field of another kind",
        call(Entry, kind="market", price=100),
        SpecError,
        "Entry: a market entry has no price; leave it out",
    ),
    (
        "stop-limit that would never fill",
        order(entry=Entry.stop(100, limit=99)),
        SpecError,
        "entry.limit_price = 99: must be at or above the stop price 100; a limit short of it would never fill",
    ),
    (
        "rungs that do not sum to 100",
        order(entry=Entry.ladder([(100, 50), (99, 40)])),
        SpecError,
        "entry.rungs: sizes sum to 90; they must sum to 100",
    ),
    (
        "rungs towards the market",
        order(entry=Entry.ladder([(99, 50), (100, 50)])),
        SpecError,
        "entry.rungs[1].price = 100: must be below rung 0 (99); order the rungs from the market outwards",
    ),
    (
        "rungs not a list",
        call(Entry.ladder, "100:50"),
        SpecError,
        "rungs = '100:50': must be a list; write [(105, 40), (110, 60)]",
    ),
    (
        "nothing to manage",
        order(take_profits=None, stop_loss=None),
        SpecError,
        "order: leaves nothing to manage: no take-profit, stop, trailing stop or max_hold; add take_profits=, "
        "stop_loss=, trailing_stop= or max_hold=",
    ),
    (
        "sizes sum to 120",
        order(take_profits=[(105, 60), (110, 60)]),
        SpecError,
        "take_profits: sizes sum to 120, more than 100; make them sum to 100 or less",
    ),
    (
        "a runner that nothing closes",
        order(take_profits=[(105, 40), (110, 59.9)], stop_loss=None),
        SpecError,
        "take_profits: leave a runner of 0.1 % that nothing would ever close; make the sizes sum to 100, or add "
        "stop_loss=, trailing_stop= or max_hold=",
    ),
    (
        "size zero",
        order(take_profits=[(105, 0)]),
        SpecError,
        "take_profits[0].size = 0: must be above 0; give a positive number",
    ),
    (
        "size above 100",
        order(take_profits=[(105, 101)]),
        SpecError,
        "take_profits[0].size = 101: must be at most 100 per cent; sizes are shares of the position",
    ),
    (
        "size negative",
        call(TakeProfit, target=105, size=-5),
        SpecError,
        "size = -5: must be above 0; give a positive number",
    ),
    (
        "two levels at one price",
        order(take_profits=[(105, 50), (105, 50)]),
        SpecError,
        "take_profits[1].target = '105': must be beyond level 0 (105); order the levels from the entry outwards",
    ),
    (
        "levels not ascending",
        order(take_profits=[(110, 50), (105, 50)]),
        SpecError,
        "take_profits[1].target = '105': must be beyond level 0 (110); order the levels from the entry outwards",
    ),
    (
        "level below the entry of a long",
        order(take_profits=[(95, 100)], stop_loss=90),
        SpecError,
        "take_profits[0].target = '95': must be above the entry 100 for a long; check the side and the price",
    ),
    (
        "level above the entry of a short",
        order(side="sell", take_profits=[(105, 100)], stop_loss=110),
        SpecError,
        "take_profits[0].target = '105': must be below the entry 100 for a short; check the side and the price",
    ),
    (
        "level as a distance of the wrong sign",
        order(take_profits=[("-5%", 100)]),
        SpecError,
        "take_profits[0].target = '-5%': must be above the entry for a long; distances are signed price moves: "
        "write +5%",
    ),
    (
        "21 levels",
        order(take_profits=[(101 + i, 4) for i in range(21)]),
        SpecError,
        "take_profits = 21: at most 20 levels (MAX_LEVELS) are kept; merge some",
    ),
    (
        "levels as text",
        order(take_profits="105:40"),
        SpecError,
        "take_profits = '105:40': must be a list; write [(105, 40), (110, 60)]",
    ),
    (
        "a level of one number",
        order(take_profits=[105]),
        SpecError,
        "take_profits[0] = 105: must be a pair or a table; write [(105, 40), (110, 60)]",
    ),
    (
        "a level of the wrong kind",
        order(take_profits=[(105, 100, "stop")]),
        SpecError,
        "take_profits[0].kind = 'stop': must be one of 'market' or 'limit'",
    ),
    (
        "stop above the entry of a long",
        order(stop_loss=101),
        SpecError,
        "stop_loss.target = '101': must be below the entry 100 for a long; check the side and the price",
    ),
    (
        "stop below the entry of a short",
        order(side="sell", take_profits=[(95, 100)], stop_loss=99),
        SpecError,
        "stop_loss.target = '99': must be above the entry 100 for a short; check the side and the price",
    ),
    (
        "stop at the entry",
        order(stop_loss=100),
        SpecError,
        "stop_loss.target = '100': must be below the entry 100 for a long; check the side and the price",
    ),
    (
        "stop true",
        order(stop_loss=True),
        SpecError,
        "stop_loss.target = True: must be a number, not true or false; write 1 or 0.5",
    ),
    (
        "stop limit above the stop",
        order(stop_loss=StopLoss(target=95, limit=96)),
        SpecError,
        "stop_loss.limit = '96': must be at or beyond the stop (95); move it further from the entry",
    ),
    (
        "emergency above the stop",
        order(stop_loss=StopLoss(target=95, timeout="10s", emergency=96)),
        SpecError,
        "stop_loss.emergency = '96': must be beyond the stop (95); move it further from the entry",
    ),
    (
        "distance beyond everything",
        order(stop_loss="-1e30%"),
        SpecError,
        "stop_loss.target = '-1e30%': is not a fraction of anything; write 2% or 0.02",
    ),
    (
        "duration beyond everything",
        order(max_hold="9" * 40 + "h"),
        SpecError,
        "max_hold = '9999999999999999999999999999999999999999h': is longer than 100 years; give a shorter one",
    ),
    (
        "timeout not a duration",
        call(StopLoss, target=95, timeout="10"),
        SpecError,
        "timeout = '10': is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds",
    ),
    (
        "callback zero",
        order(trailing_stop=0),
        SpecError,
        "trailing_stop.callback_rate = 0: must be a fraction above 0 and below 1 (0.02 = 2 %); write 2% or 0.02",
    ),
    (
        "callback negative",
        call(TrailingStop, callback_rate="-2%"),
        SpecError,
        "callback_rate = '-2%': must be a fraction above 0 and below 1 (0.02 = 2 %); write 2% or 0.02",
    ),
    (
        "callback 2 for 2 %",
        call(TrailingStop, callback_rate=2),
        SpecError,
        "callback_rate = 2: must be a fraction above 0 and below 1 (0.02 = 2 %); write 2% or 0.02",
    ),
    (
        "callback of many decimals",
        call(TrailingStop, callback_rate="0.0000000001"),
        SpecError,
        "callback_rate = '0.0000000001': has more than 8 decimals as a fraction; round it",
    ),
    (
        "activation on the wrong side",
        order(trailing_stop=TrailingStop(callback_rate="2%", activation=99)),
        SpecError,
        "trailing_stop.activation = '99': must be on the profit side of the entry for a long; check the side and "
        "the price",
    ),
    (
        "trailing take-profit without levels",
        order(take_profits=None, trailing_take_profit="2%"),
        SpecError,
        "trailing_take_profit: needs a ladder: it makes the last level trail; add take_profits=",
    ),
    (
        "break-even without levels",
        order(take_profits=None, break_even=True),
        SpecError,
        "break_even: needs take-profit levels: it fires when one is filled; add take_profits=",
    ),
    (
        "break-even after more levels than there are",
        order(break_even=BreakEven(after=4)),
        SpecError,
        "break_even.after = 4: is more than the 3 levels there are; use 1 to 3",
    ),
    (
        "break-even beyond the level that fires it",
        order(break_even=BreakEven(offset="6%")),
        SpecError,
        "break_even.offset = 0.06: lies at or beyond level 0, which fires it; make it smaller than the level's "
        "distance",
    ),
    ("break-even after zero", call(BreakEven, after=0), SpecError, "after = 0: must be at least 1; make it larger"),
    (
        "break-even offset a word",
        call(BreakEven, offset="entry"),
        SpecError,
        "offset = 'entry': must be a fraction; write 2% or 0.02",
    ),
    ("unknown field", order(tp_prices=[105]), SpecError, "tp_prices = [105]: is not a field; leave it out"),
    (
        "unknown field, close to one",
        order(take_profit=[(105, 100)]),
        SpecError,
        "take_profit = [(105, 100)]: is not a field; did you mean take_profits?",
    ),
    (
        "max hold negative",
        order(max_hold="-1h"),
        SpecError,
        "max_hold = '-1h': is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds",
    ),
    (
        "max hold zero",
        order(max_hold=0),
        SpecError,
        "max_hold = 0: must be above 0; write 50ms, 2h, a timedelta, or integer nanoseconds",
    ),
    (
        "trigger unknown",
        order(trigger="mid"),
        SpecError,
        "trigger = 'mid': must be one of 'last', 'bid', 'ask' or 'mark'",
    ),
    (
        "note too long",
        order(note="x" * 301),
        SpecError,
        "note = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…: has 301 characters; at most 300 "
        "(MAX_TEXT) are kept; shorten it",
    ),
    (
        "a field changed afterwards",
        lambda folder: setattr(order()(folder), "stop_loss", 96),
        SpecError,
        "stop_loss = 96: a spec cannot be changed; make a new one: order.replace(stop_loss=...)",
    ),
    (
        "everything wrong at once",
        order(side="long", quantity=-1, take_profits=[(105, 60), (110, 60)], stop_loss=True),
        SpecError,
        "side = 'long': must be one of 'buy' or 'sell'; write 'buy'\n"
        "quantity = -1: must be above 0; give a positive number\n"
        "stop_loss.target = True: must be a number, not true or false; write 1 or 0.5",
    ),
    (
        "json with a key twice",
        call(SmartOrder.from_json, '{"side":"buy","side":"sell"}'),
        SpecError,
        "side: stands twice in the JSON; keep one",
    ),
    (
        "json with nan",
        call(SmartOrder.from_json, '{"quantity":NaN}'),
        SpecError,
        "json = 'NaN': is not a number that JSON knows; use a finite number",
    ),
    (
        "json cut short",
        call(SmartOrder.from_json, '{"side":"buy"'),
        SpecError,
        "json = '{\"side\":\"buy\"': is not JSON: Expecting ',' delimiter: line 1 column 14 (char 13); see "
        "SmartOrder.to_json()",
    ),
    (
        "json not an object",
        call(SmartOrder.from_json, "[1]"),
        SpecError,
        "json = '[1]': must be an object; see SmartOrder.to_json()",
    ),
    (
        "toml of another kind",
        call(SmartOrder.from_toml, "side = buy"),
        SpecError,
        "toml: Invalid value (at line 1, column 8); see SmartOrder.to_toml()",
    ),
    (
        "link of another scheme",
        call(SmartOrder.from_link, "https://example.com"),
        LinkError,
        "link = 'https://example.com': is not a share link: it does not start with solab1:; paste the whole link",
    ),
    (
        "link newer than the library",
        call(SmartOrder.from_link, "solab2:abc.def"),
        LinkError,
        "link = 'solab2': has version 2, this library reads 1; update smartorders_lab",
    ),
    (
        "link damaged",
        lambda folder: SmartOrder.from_link(order()(folder).share_link()[:-3] + "000"),
        LinkError,
        "link = 'solab1:eyJlbnRyeSI6eyJraW5kIjoibGltaXQiLCJwcmljZSI6IjEwMCJ…: is damaged: the checksum does not "
        "match; copy the whole link again",
    ),
    (
        "link too long",
        call(SmartOrder.from_link, "solab1:" + "a" * 9000),
        LinkError,
        "link = 'solab1:aaaaaaaaaaaaaaaaa…': has 9007 characters, more than 8192 (MAX_LINK); it is not one of ours",
    ),
    # the market
    (
        "another symbol",
        fits(symbol="ETH/USDT"),
        SpecError,
        "orders[0].symbol = 'ETH/USDT': is not the instrument's BTC/USDT; use its own",
    ),
    (
        "price between two increments",
        fits(entry=Entry.limit("100.005")),
        SpecError,
        "orders[0].entry.price = '100.005': is off the price increment 0.01; use 100 or 100.01",
    ),
    (
        "quantity below the minimum",
        fits(quantity="0.001"),
        SpecError,
        "orders[0].quantity = '0.001': is below the minimum of 0.01; use at least 0.01\n"
        "orders[0].quantity = '0.001': is worth less than the minimum notional of 5; make the order larger",
    ),
    (
        "quantity between two increments",
        fits(quantity="1.0005"),
        SpecError,
        "orders[0].quantity = '1.0005': is not a multiple of 0.001; use 1 or 1.001",
    ),
    (
        "notional below the minimum",
        fits(quantity="0.01"),
        SpecError,
        "orders[0].quantity = '0.01': is worth less than the minimum notional of 5; make the order larger",
    ),
    # fills
    (
        "fee above 10 %",
        call(FillModel, fee_taker=0.5),
        SpecError,
        "fee_taker = 0.5: must be a fraction between -10 % and 10 %; 0.1 % is 0.001",
    ),
    (
        "fee with a decimal comma",
        call(FillModel, fee_maker="0,1%"),
        SpecError,
        "fee_maker = '0,1%': is not a percentage; write 2% or 0.02",
    ),
    (
        "fee true",
        call(FillModel, fee_taker=True),
        SpecError,
        "fee_taker = True: must be a fraction, not true or false; write 2% or 0.02",
    ),
    (
        "slippage negative",
        call(FillModel, slippage="-1%"),
        SpecError,
        "slippage = '-1%': must be a fraction between 0 and 50 %; 0.1 % is 0.001",
    ),
    ("latency negative", call(FillModel, latency=-5), SpecError, "latency = -5: a duration cannot be negative"),
    (
        "latency a number in text",
        call(FillModel, latency="50"),
        SpecError,
        "latency = '50': is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds",
    ),
    (
        "participation zero",
        call(FillModel, participation=0),
        SpecError,
        "participation = 0: must be a fraction above 0 and at most 1; write 10% or 0.1",
    ),
    (
        "fee currency unknown",
        call(FillModel, fee_currency="BNB"),
        SpecError,
        "fee_currency = 'BNB': must be one of 'quote' or 'base'",
    ),
    (
        "fill field unknown",
        call(FillModel, taker_fee=0.1),
        SpecError,
        "taker_fee = 0.1: is not a field; use one of fee_maker, fee_taker, slippage, latency, touch, "
        "fee_currency, participation",
    ),
    # actions
    (
        "edit of nothing",
        call(edit, 0, T0),
        SpecError,
        "Action: an edit needs at least one field to change; edit(0, at, stop_loss=96)",
    ),
    (
        "edit of an unknown field",
        call(edit, 0, T0, stop_lss=96),
        SpecError,
        "Action: stop_lss is not a field of SmartOrder; did you mean stop_loss?",
    ),
    (
        "edit of the side",
        call(edit, 0, T0, side="sell"),
        SpecError,
        "Action: side cannot be edited; place another order",
    ),
    (
        "add without a size",
        call(add_funds, 0, T0),
        SpecError,
        "Action: add_funds needs exactly one of quantity and cost; add_funds(0, at, quantity=0.5)",
    ),
    (
        "add by both sizes",
        call(add_funds, 0, T0, quantity=1, cost=100),
        SpecError,
        "Action: add_funds needs exactly one of quantity and cost; add_funds(0, at, quantity=0.5)",
    ),
    (
        "reduce without a size",
        call(reduce_funds, 0, T0),
        SpecError,
        "Action: reduce_funds needs quantity; reduce_funds(0, at, quantity=0.5)",
    ),
    (
        "action without a time",
        call(cancel, 0),
        SpecError,
        "at: is required; say when the action happens: cancel(0, at=...)",
    ),
    (
        "action without a zone",
        call(close_at_market, 0, "2024-08-08T23:58"),
        SpecError,
        "at = '2024-08-08T23:58': has no time zone; add one, as in 2024-08-08T23:55:00Z or datetime(..., tzinfo=UTC)",
    ),
    (
        "action before its order",
        replayed(actions=[cancel(0, T0 - 1)]),
        ActionError,
        "actions[0].at = 2024-08-08T23:54:15.341999999Z: before the order is created at 2024-08-08T23:54:15.342Z; "
        "use a later time",
    ),
    (
        "action on no order",
        replayed(actions=[cancel(3, T0 + 1)]),
        ActionError,
        "actions[0].order = 3: is not the index of an order; use 0 to 0",
    ),
    (
        "action of another type",
        replayed(actions=["cancel"]),
        ActionError,
        "actions[0] = 'cancel': is not an Action; use cancel(), edit(), add_funds() …",
    ),
    (
        "edit that does not hold together",
        replayed(actions=[edit(0, T0 + 1, take_profits=[(105, 60), (110, 60)])]),
        SpecError,
        "actions[0].take_profits: sizes sum to 120, more than 100; make them sum to 100 or less",
    ),
    # replays
    ("no orders", replayed(orders=[]), SpecError, "orders: is empty; give at least one SmartOrder"),
    (
        "order of another type",
        replayed(orders=[{"side": "buy"}]),
        SpecError,
        "orders[0] = \"{'side': 'buy'}\": is not a SmartOrder; build it with SmartOrder(...)",
    ),
    (
        "start after the ticks",
        replayed(starts=T0 + 10**10),
        DataError,
        "starts[0] = 1723161265342000000: lies outside the ticks; use an index below 3 or a time (ns) up to "
        "2024-08-08T23:54:17.342Z",
    ),
    (
        "start negative",
        replayed(starts=-1),
        DataError,
        "starts[0] = -1: lies outside the ticks; use an index below 3 or a time (ns) up to 2024-08-08T23:54:17.342Z",
    ),
    (
        "start without a zone",
        replayed(starts="2024-08-08T23:58"),
        DataError,
        "starts[0] = '2024-08-08T23:58': has no time zone; add one, as in 2024-08-08T23:55:00Z or datetime(..., "
        "tzinfo=UTC)",
    ),
    (
        "starts of another length",
        replayed(starts=[0, 1]),
        DataError,
        "starts has 2 values for 1 orders; give one for all or one for each",
    ),
    (
        "poll interval a word",
        replayed(poll_interval="fast"),
        SpecError,
        "poll_interval = 'fast': is not a duration; write 50ms, 1.5s, 2h, 1h30m, a timedelta, or integer nanoseconds",
    ),
    (
        "poll interval negative",
        replayed(poll_interval=-1),
        SpecError,
        "poll_interval = -1: a duration cannot be negative",
    ),
    (
        "outlier of 2 for 2 %",
        replayed(outlier=2),
        SpecError,
        "outlier = 2: must be above 0 and below 1; write 2% or 0.02",
    ),
    ("outlier a word", replayed(outlier="big"), SpecError, "outlier = 'big': must be a fraction; write 2% or 0.02"),
    (
        "bounds without bars",
        replayed(bounds=True),
        DataError,
        "bounds = True: these ticks are not bars, there is only one path; leave bounds out",
    ),
    (
        "participation without sizes",
        replayed(fills=FillModel(participation="10%")),
        DataError,
        "participation: these ticks have no sizes; leave participation out",
    ),
    (
        "trigger that the feed lacks",
        replayed(orders=order(trigger="mark")(None)),
        DataError,
        "trigger = 'mark': this feed has trades only; use trigger=\"last\" in the order",
    ),
]
