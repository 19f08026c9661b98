"""Doctor: whether an exchange can be traded on from here, with these keys: one row for each thing that can be wrong.

    report = examine("binance", "SOL/USDT", smallest_order=False)
    for check in report.checks: print(check.name, check.outcome, check.found, check.advice)

What needs no keys is asked by a client that has none, so that a wrong key is not taken for an exchange that is down. Nothing is
created unless `smallest_order` is given: then one order to buy the least that the market takes, far below it and post-only, is created,
looked up, created once more under its client id, cancelled and looked up again, and each answer is held against what `brokers/venues`
reckons with.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from importlib.metadata import version
from typing import Any

from . import __version__
from .brokers.dry import anonymous
from .brokers.venues import ALIASES, FACTS, Failed, Fate, Truth, Venue, Wanted, connect
from .errors import ExchangeError, SmartOrdersError, SpecError, short
from .fields import fraction, plain
from .instrument import Instrument
from .keys import Keys, scrub

OK, WARNING, FAILED, SKIPPED, UNSEEN = "ok", "warning", "failed", "not looked at", "not yet seen"
CCXT = "4.5.90"
"""The version of ccxt that everything was tried with."""
SANDBOXES = ("binance", "bybit", "okx", "gate", "bitget")
"""Exchanges that ccxt can trade on without money."""
IN_TIME_MS = 250
"""A clock that is wrong by more deserves a word."""
TIME_LIMITS_MS = {
    "binance": 1_000,
    "bybit": 1_000,
    "okx": 30_000,
    "gate": 60_000,
    "bitget": 30_000,
    "kucoin": 5_000,
    "coinbase": 60_000,
}
"""From where on an exchange refuses requests for their time, if nobody corrects it. Kraken looks at the order of its numbers only."""
PATIENCE_S = 30.0
LISTEN_S = 5.0
_AGAIN_S = 0.2


@dataclass(frozen=True)
class Check:
    """One row: `outcome` is ok, warning, failed, not looked at, or of what only an order can show, not yet seen."""

    group: str
    name: str
    outcome: str
    found: str
    advice: str = ""


@dataclass
class Report:
    """What was found."""

    exchange: str
    symbol: str
    sandbox: bool
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return not any(check.outcome == FAILED for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "ok": self.ok}


@dataclass
class Rights:
    """What an exchange says of a key; None: it does not say. `ips`: the addresses that it is bound to, empty if to none."""

    read: bool | None = None
    trade: bool | None = None
    withdraw: bool | None = None
    ips: str | None = None


# ---------------------------------------------------------------------------------------------------- what each exchange says


def _many(value: Any) -> str:
    """Addresses as text: a list, or text with commas."""
    found = value if isinstance(value, list) else str(value or "").split(",")
    return ", ".join(str(one).strip() for one in found if str(one).strip() not in ("", "*", "0.0.0.0"))


async def _binance(client: Any) -> Rights:
    told = await client.sapi_get_account_apirestrictions()
    ips = None if "ipRestrict" not in told else "some" if told["ipRestrict"] else ""
    return Rights(told.get("enableReading"), told.get("enableSpotAndMarginTrading"), told.get("enableWithdrawals"), ips)


async def _bybit(client: Any) -> Rights:
    told = (await client.private_get_v5_user_query_api())["result"]
    allowed = told.get("permissions") or {}
    wallet = [str(one).lower() for one in allowed.get("Wallet") or ()]
    trade = "SpotTrade" in (allowed.get("Spot") or ()) and str(told.get("readOnly")) == "0"
    return Rights(True, trade, any("withdraw" in one for one in wallet), _many(told.get("ips")))


async def _okx(client: Any) -> Rights:
    told = (await client.private_get_account_config())["data"][0]
    allowed = str(told.get("perm", "")).split(",")
    return Rights(
        "read_only" in allowed or "trade" in allowed, "trade" in allowed, "withdraw" in allowed, _many(told.get("ip"))
    )


async def _gate(client: Any) -> Rights:
    told = await client.private_account_get_detail()
    rights = Rights(read=True, ips=_many(told.get("ip_whitelist")))
    try:
        keys = await client.private_account_get_main_keys()  # where the key may read the account
    except Exception:
        return rights
    for one in keys if isinstance(keys, list) else [keys]:
        begins, stars, _ = str(one.get("key", "")).partition("*")
        if begins and (client.apiKey.startswith(begins) if stars else client.apiKey == begins):
            allowed = {str(each.get("name")) for each in one.get("perms") or () if not each.get("read_only")}
            rights.trade = "spot" in allowed
            rights.withdraw = any(name in ("wallet", "withdraw", "withdrawal") for name in allowed)
    return rights


async def _bitget(client: Any) -> Rights:
    told = (await client.private_spot_get_v2_spot_account_info())["data"]
    allowed = [str(one) for one in told.get("authorities") or ()]
    trade = any(one in ("spot_trade", "stow", "trade") for one in allowed)
    withdraw = any(one in ("withdraw", "wow", "wwow") for one in allowed)
    return Rights(True, trade, withdraw, _many(told.get("ips")))


async def _kucoin(client: Any) -> Rights:
    told = (await client.private_get_user_api_key())["data"]
    allowed = [one.strip() for one in str(told.get("permission", "")).split(",")]
    withdraw = any("withdraw" in one.lower() for one in allowed)
    return Rights("General" in allowed, "Spot" in allowed, withdraw, _many(told.get("ipWhitelist")))


async def _kraken(client: Any) -> Rights:
    told = (await client.private_post_getapikeyinfo())["result"]
    allowed = [str(one) for one in told.get("permissions") or ()]
    withdraw = any(one.startswith("withdraw") for one in allowed)
    return Rights("query-funds" in allowed, "modify-trades" in allowed, withdraw, _many(told.get("ip_allowlist")))


async def _coinbase(client: Any) -> Rights:
    told = await client.v3_private_get_brokerage_key_permissions()
    return Rights(told.get("can_view"), told.get("can_trade"), told.get("can_transfer"))


RIGHTS: dict[str, Callable[[Any], Awaitable[Rights]]] = {
    "binance": _binance,
    "bybit": _bybit,
    "okx": _okx,
    "gate": _gate,
    "bitget": _bitget,
    "kucoin": _kucoin,
    "kraken": _kraken,
    "coinbase": _coinbase,
}


async def _account_kind(name: str, client: Any) -> tuple[str, str, str]:
    """(outcome, found, advice): whether the account is one that orders can be sent to."""
    if name == "bybit":
        status = int((await client.private_get_v5_account_info())["result"].get("unifiedMarginStatus") or 0)
        if status in (1, 2):
            return FAILED, f"classic account (unifiedMarginStatus {status})", "upgrade it to a unified trading account"
        return OK, f"unified trading account (unifiedMarginStatus {status})", ""
    if name == "okx":
        level = str((await client.private_get_account_config())["data"][0].get("acctLv"))
        words = {"1": "spot mode", "2": "futures mode", "3": "multi-currency margin", "4": "portfolio margin"}
        found = f"{words.get(level, 'account level')} (acctLv {level})"
        return (
            (OK, found, "")
            if level in ("1", "2")
            else (WARNING, found, "use spot mode: there cash orders are what they seem")
        )
    if name == "gate":
        mode = str(((await client.private_account_get_detail()).get("key") or {}).get("mode"))
        if mode == "2":
            return WARNING, "unified account (key mode 2)", "use a classic spot account, or watch what its balance says"
        return OK, f"classic account (key mode {mode})", ""
    if name == "bitget":
        try:
            await client.private_uta_get_v3_account_settings()
        except Exception as error:
            if "40084" in str(error) or "Classic Account" in str(error):
                return OK, "classic account", ""
            raise
        return (
            FAILED,
            "unified account",
            "use a classic account: a unified one has other requests, which are not sent here",
        )
    if name == "kucoin":
        kind = str((((await client.utaprivate_get_account_mode()).get("data")) or {}).get("selfAccountMode"))
        if kind not in ("CLASSIC", "None"):
            return (
                FAILED,
                f"{kind.lower()} account",
                "use a classic account: orders are sent to its high-frequency trading account",
            )
        opened = (await client.private_get_hf_accounts_opened()).get("data")
        if not opened:
            return (
                FAILED,
                "no high-frequency trading account",
                "open it, and transfer the funds there: orders are sent to it",
            )
        return OK, "classic account with high-frequency trading", ""
    if name == "binance":
        told = await client.private_get_account()
        kind = f"{str(told.get('accountType', '?')).lower()} account"
        if told.get("canTrade") is False:
            return FAILED, f"{kind} that may not trade", "look at the account's messages at the exchange"
        return OK, kind, ""
    if name == "coinbase":
        told = await client.v3_private_get_brokerage_key_permissions()
        return OK, f"portfolio {str(told.get('portfolio_type', '?')).lower()}: the one of the key, its funds count", ""
    return OK, "spot; this exchange has one kind", ""


async def _fee_settings(name: str, client: Any) -> tuple[str, str, str]:
    """(outcome, found, advice): in which coin fees are paid."""
    if name == "binance":
        burns = (await client.sapi_get_bnbburn()).get("spotBNBBurn")
        if burns:
            return (
                WARNING,
                "fees are paid in BNB while there is any",
                "what is bought arrives whole then, and once BNB is gone less of it",
            )
        return OK, "fees are taken out of what is bought (BNB burn is off)", ""
    if name == "gate" and (await client.private_account_get_debit_fee()).get("enabled"):
        return (
            WARNING,
            "fees are paid in GT while there is any",
            "what is bought arrives whole then, and once GT is gone less of it",
        )
    if name in ("bybit", "okx", "gate", "bitget"):
        coin = {"bitget": "BGB"}.get(name)
        also = f"; where deduction in {coin} is on, in {coin}, which the exchange does not say here" if coin else ""
        return OK, f"fees are taken out of what is bought{also}", ""
    if name == "kraken":
        return OK, "fees are asked to be taken in quote currency (oflags fciq, in each order)", ""
    also = "; where KCS fees are on, in KCS, which the exchange does not say here" if name == "kucoin" else ""
    return OK, f"fees are paid in quote currency{also}", ""


# ---------------------------------------------------------------------------------------------------- what only an order shows

SEEN_BY_ORDER = (
    ("create", "an order is created under our client id, and the answer names it"),
    ("lookup", "an order that works is found by client id"),
    ("duplicate", "the same client id again while its order works"),
    ("cancel", "an order is cancelled, and is over then"),
    ("after", "an order that was cancelled is found by client id"),
    ("left", "nothing is left open"),
)
"""First-run facts that the smallest order shows, in their order."""
_NEEDS_FILL = (
    ("filled", "an order that was filled is found by client id"),
    ("again", "the same client id again after its order was filled"),
)
_OWN: dict[str, tuple[tuple[str, str], ...]] = {
    "gate": (("keeps", "whether a client id that was used is refused at all (not documented)"),),
    "bitget": (("keeps", "for how long a client id that was used is refused"),),
    "coinbase": (
        (
            "keeps",
            "for how long the first order is given back for its client id, and when DUPLICATE_CLIENT_ORDER_ID is said",
        ),
    ),
    "kraken": (("at once", "whether an order that was filled at once is among the closed ones by client id"),),
}
EXPECTED = {
    "gate": "another order, or a refusal: it is not documented",
    "coinbase": "the first order given back",
}
"""What a second create under a living client id comes to, where that is not a refusal."""


def first_run_facts(name: str) -> list[tuple[str, str]]:
    """(key, what is to be seen) of an exchange before it is trusted."""
    return [*SEEN_BY_ORDER, *_NEEDS_FILL, *_OWN.get(name, ())]


# ---------------------------------------------------------------------------------------------------- the examination


def examine(
    exchange: str,
    symbol: str = "",
    *,
    sandbox: bool = False,
    smallest_order: bool = False,
    away: Any = "20%",
    profile: str = "",
    told: Callable[[Check], None] | None = None,
) -> Report:
    """Look at everything, one check after another; each is `told` as it is known. Raises SpecError for what is asked wrongly.

    `symbol`: the market that is looked at (BTC/USDT, or BTC/USD at an exchange without it, if left out). `sandbox`: the exchange's own, for
    trading without money; its keys are those of the profile "sandbox" unless another is given. `smallest_order`: also an order, `away`
    below the market.
    """
    name = ALIASES.get(exchange, exchange)
    if name not in FACTS:
        raise SpecError.one("exchange", exchange, "is not one that can be traded on", f"take one of {', '.join(FACTS)}")
    if sandbox and name not in SANDBOXES:
        fix = f"leave it out; {', '.join(SANDBOXES)} have one"
        raise SpecError.one("sandbox", name, "has no sandbox that ccxt can trade on", fix)
    try:
        far = fraction(away)
    except ValueError as error:
        raise SpecError.one("away", away, str(error), 'write "20%"') from None
    if not 0 < far < 1:
        raise SpecError.one("away", away, "must be between 0 and 100 %", 'write "20%"')
    doctor = _Doctor(name, symbol, sandbox, smallest_order, far, profile or ("sandbox" if sandbox else ""), told)
    asyncio.run(doctor.examine())
    return doctor.report


class _Doctor:
    def __init__(
        self,
        name: str,
        symbol: str,
        sandbox: bool,
        smallest_order: bool,
        away: Decimal,
        profile: str,
        told: Callable[[Check], None] | None,
    ):
        self.name, self.sandbox, self.smallest, self.away, self.profile = name, sandbox, smallest_order, away, profile
        self.report = Report(name, symbol, sandbox)
        self.told = told or (lambda _: None)
        self.keys: Keys | None = None
        self.instrument: Instrument | None = None
        self.last = Decimal(0)
        self.facts: dict[str, tuple[str, str, str]] = {}

    def say(self, group: str, name: str, outcome: str, found: str, advice: str = "") -> None:
        """One row."""
        check = Check(group, name, outcome, found, advice)
        self.report.checks.append(check)
        self.told(check)

    async def tried(self, group: str, name: str, work: Awaitable[tuple[str, str, str]], advice: str) -> bool:
        """A row from what `work` finds; failed if it raises. Returns whether it has not failed."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                row = await work
        except TimeoutError:
            row = FAILED, f"no answer within {PATIENCE_S:g} s", advice
        except Exception as error:
            row = FAILED, _words(error), advice
        self.say(group, name, *row)
        return row[0] != FAILED

    async def examine(self) -> None:
        """Everything."""
        self.versions()
        public = Venue(self.name, lambda: self._made(anonymous(self.name)))
        keyed: Venue | None = None
        try:
            if await self.tried(
                "exchange", "reachable", self.reached(public), "look at its status page, the network and proxies"
            ):
                await self.tried("exchange", "clock", self.clock(public), "have the clock of this machine set (NTP)")
                await self.tried("market", "rules", self.rules(public), "look at how the exchange writes it")
                await self.tried(
                    "market", "ticks", self.ticks(public), "a firewall or proxy may not let WebSockets through"
                )
            else:
                for group, what in (("exchange", "clock"), ("market", "rules"), ("market", "ticks")):
                    self.say(group, what, SKIPPED, "the exchange cannot be reached")
            self.find_keys()
            reachable = bool(getattr(public.client, "markets", None))
            if self.keys is not None and reachable:
                keys = self.keys
                keyed = Venue(self.name, lambda: self._made(connect(self.name, keys), public.client))
            await self.account(keyed)
            await self.first_run(keyed)
        finally:
            for venue in (public, keyed):
                if venue is not None:
                    await venue.close()

    def _made(self, client: Any, markets: Any = None) -> Any:
        if self.sandbox:
            client.set_sandbox_mode(True)
        if markets is not None:
            client.set_markets_from_exchange(markets)
        return client

    # ------------------------------------------------------------------------------------------------ without keys

    def versions(self) -> None:
        """Of the programs."""
        has = version("ccxt")
        found = f"smartorders_lab {__version__}, ccxt {has}, Python {platform.python_version()}"
        if has == CCXT:
            self.say("here", "versions", OK, found)
        else:
            fix = f"ccxt {CCXT} is what was tried: pip install ccxt=={CCXT}; or try all with --smallest-order"
            self.say("here", "versions", WARNING, found, fix)

    async def reached(self, venue: Venue) -> tuple[str, str, str]:
        """Whether it answers, and has markets."""
        await venue.open()
        many = sum(bool(market.get("spot")) for market in venue.client.markets.values())
        return OK, f"it answers, and has {many:,} spot markets", ""

    async def clock(self, venue: Venue) -> tuple[str, str, str]:
        """How far the clocks are apart, by the quickest of three answers."""
        best, skew, grain = float("inf"), 0.0, 1000
        for _ in range(3):
            begin, wall = time.monotonic(), time.time()
            told = await venue.client.fetch_time()
            took = time.monotonic() - begin
            grain = grain if int(told) % 1000 == 0 else 1  # two exchanges tell seconds
            if took < best:
                best, skew = took, (wall + took / 2) * 1000 - told
        limit = TIME_LIMITS_MS.get(self.name)
        skew, unsure = skew - grain / 2, best * 500 + grain / 2
        found = f"{abs(skew):,.0f} ms {'ahead' if skew > 0 else 'behind'} (±{unsure:.0f} ms)"
        found += (
            f"; the exchange takes up to {limit:,} ms"
            if limit
            else "; the exchange looks at the order of requests only"
        )
        advice = (
            "have the clock of this machine set (NTP); sessions reckon with the difference, days and time limits do not"
        )
        if abs(skew) - unsure > (limit or 60_000):
            return FAILED, found, advice
        return (WARNING, found, advice) if abs(skew) - unsure > IN_TIME_MS else (OK, found, "")

    async def rules(self, venue: Venue) -> tuple[str, str, str]:
        """Of the symbol."""
        markets = venue.client.markets
        if not self.report.symbol:
            named = [symbol for symbol in ("BTC/USDT", "BTC/USD") if symbol in markets]
            self.report.symbol = (named or [next(s for s, market in markets.items() if market.get("spot"))])[0]
        symbol = self.report.symbol
        if symbol not in markets:
            base = symbol.split("/")[0]
            near = [other for other in markets if other.split("/")[0] == base and ":" not in other]
            return (
                FAILED,
                f"{short(symbol)}: no such market",
                f"there is {', '.join(near[:5])}" if near else "write it as BTC/USDT",
            )
        market = markets[symbol]
        instrument = self.instrument = venue.instrument(symbol)
        rates = [market.get(name) for name in ("maker", "taker")]
        fees = " and ".join("?" if rate is None else f"{plain(Decimal(str(rate)) * 100)}%" for rate in rates)
        found = (
            f"{symbol}: price by {plain(instrument.price_increment)}, amount by {plain(instrument.quantity_increment)}, at least "
            f"{plain(instrument.min_quantity)} and {plain(instrument.min_notional)} {symbol.split('/')[-1]}; fees of maker and taker "
            f"{fees} unless the account has others"
        )
        if market.get("active") is False:
            return FAILED, f"{found}; it is not traded at the moment", "take another market"
        return OK, found, ""

    async def ticks(self, venue: Venue) -> tuple[str, str, str]:
        """A price by REST, and the stream of trades."""
        if self.instrument is None:
            return SKIPPED, "there is no market to listen to", ""
        client, symbol = venue.client, self.instrument.symbol
        traded = await client.fetch_trades(symbol, None, 5)
        if traded:
            self.last = Decimal(str(traded[-1]["price"]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                trades = await client.watch_trades(symbol)
                self.last = Decimal(str(trades[-1]["price"]))
                return OK, f"the stream of {symbol} speaks; last price {plain(self.last)}", ""
        streams = [one for one in client.clients.values() if getattr(one, "connection", None) is not None]
        if streams:
            return (
                WARNING,
                f"the stream is connected; no trade of {symbol} in {LISTEN_S:g} s",
                "a quiet market, or try again",
            )
        return FAILED, f"no stream within {LISTEN_S:g} s", "a firewall or proxy may not let WebSockets through"

    # ------------------------------------------------------------------------------------------------ with keys

    def find_keys(self) -> None:
        """Where they are from."""
        try:
            self.keys = Keys.find(self.name, self.profile)
        except ExchangeError as error:
            self.say("keys", "found", FAILED, *_split(str(error)))
            return
        self.say("keys", "found", OK, f"from {self.keys.source}")

    async def account(self, venue: Venue | None) -> None:
        """Rights of the key, kind of the account, fees, private stream."""
        rows = [("keys", "may read"), ("keys", "may trade"), ("keys", "may withdraw"), ("keys", "bound to addresses")]
        if venue is not None:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await venue.open()
                    balances = await venue.balances()
            except (TimeoutError, Failed) as error:
                self.say("keys", "may read", FAILED, _words(error), _why_not(error))
                venue = None
                rows = rows[1:]
        if venue is None:
            why = (
                "there are no keys that work"
                if self.instrument is not None or self.keys is None
                else "the exchange cannot be reached"
            )
            for group, name in (*rows, ("account", "kind"), ("account", "fees"), ("account", "stream")):
                self.say(group, name, SKIPPED, why)
            return
        held = ", ".join(f"{plain(total)} {coin}" for coin, (_, total) in balances.items() if total)
        self.say("keys", "may read", OK, f"the account has {held}" if held else "the account has nothing")
        await self.rights(venue)
        client, advice = venue.client, "it could not be asked; look at the account's settings"
        await self.tried("account", "kind", _account_kind(self.name, client), advice)
        try:
            async with asyncio.timeout(PATIENCE_S):
                self.say("account", "fees", *await _fee_settings(self.name, client))
        except Exception as error:
            self.say("account", "fees", WARNING, _words(error), "it could not be asked; look at the account's settings")
        await self.tried("account", "stream", self.heard(venue), "without it every order is looked up again and again")

    async def rights(self, venue: Venue) -> None:
        """What the key may do."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                rights = await RIGHTS[self.name](venue.client)
        except Exception as error:
            for name in ("may trade", "may withdraw", "bound to addresses"):
                self.say(
                    "keys",
                    name,
                    WARNING,
                    f"the exchange was asked and did not say: {_words(error)}",
                    "look at the key's settings",
                )
            return
        silent = "the exchange does not say"
        if rights.trade is None:
            self.say("keys", "may trade", WARNING, silent, "only an order shows it: --smallest-order")
        elif rights.trade:
            self.say("keys", "may trade", OK, "yes")
        else:
            self.say("keys", "may trade", FAILED, "no", "let the key trade on spot, at the exchange")
        if rights.withdraw is None:
            self.say("keys", "may withdraw", WARNING, silent, "make sure that it may not, at the exchange")
        elif rights.withdraw:
            self.say(
                "keys",
                "may withdraw",
                WARNING,
                "YES: who has this key can take the money",
                "make one that may trade and nothing else",
            )
        else:
            self.say("keys", "may withdraw", OK, "no")
        if rights.ips is None:
            self.say(
                "keys",
                "bound to addresses",
                WARNING,
                silent,
                "bind it to the address of this machine, where that can be done",
            )
        elif rights.ips:
            self.say("keys", "bound to addresses", OK, "yes" if rights.ips == "some" else f"yes: {rights.ips}")
        else:
            self.say(
                "keys",
                "bound to addresses",
                WARNING,
                "no: it works from anywhere",
                "bind it to the address of this machine",
            )

    async def heard(self, venue: Venue) -> tuple[str, str, str]:
        """Whether the private stream lets us in. Silence after that is what it is for."""
        if self.instrument is None:
            return SKIPPED, "there is no market to listen to", ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                await venue.client.watch_orders(self.instrument.symbol)
        streams = [one for one in venue.client.clients.values() if getattr(one, "connection", None) is not None]
        if not streams:
            return (
                FAILED,
                f"no private stream within {LISTEN_S:g} s",
                "a firewall or proxy may not let WebSockets through",
            )
        return OK, f"it has let us in, and nothing was wrong for {LISTEN_S:g} s", ""

    # ------------------------------------------------------------------------------------------------ the smallest order

    async def first_run(self, venue: Venue | None) -> None:
        """The facts that want to be seen before an exchange is trusted."""
        if self.smallest:
            if venue is None or venue.client is None or self.instrument is None or self._failed("may read", "rules"):
                self.say("order", "smallest order", SKIPPED, "what comes before it has to be right first")
            else:
                try:
                    async with asyncio.timeout(10 * PATIENCE_S):
                        await self.order(venue, self.instrument)
                except Exception as error:
                    fix = f"look at the exchange whether an order of {self.instrument.symbol} is open, and cancel it"
                    self.say("order", "smallest order", FAILED, _words(error), fix)
        for key, what in first_run_facts(self.name):
            if key in self.facts:
                self.say("first run", what, *self.facts[key])
            else:
                how = (
                    "--smallest-order"
                    if key in dict(SEEN_BY_ORDER)
                    else "needs an order that is filled; docs/live.md says how"
                )
                self.say("first run", what, UNSEEN, "", how)

    def _failed(self, *names: str) -> bool:
        return any(check.name in names and check.outcome in (FAILED, SKIPPED) for check in self.report.checks)

    def sized(self, instrument: Instrument, last: Decimal) -> tuple[Decimal, Decimal]:
        """Price and amount of the smallest order."""
        price = instrument.price(instrument.price_units(last * (1 - self.away), ROUND_FLOOR))
        least = max(
            instrument.min_quantity, instrument.min_notional * Decimal("1.02") / price, instrument.quantity_increment
        )
        return price, instrument.quantity(instrument.quantity_units(least, ROUND_CEILING))

    async def order(self, venue: Venue, instrument: Instrument) -> None:
        """Create, look up, create again, cancel, look up. Raises Failed, ExchangeError."""
        symbol = instrument.symbol
        if not self.last:
            self.say(
                "order",
                "smallest order",
                SKIPPED,
                "no price is known that it could be far from",
                "try again when it trades",
            )
            return
        price, amount = self.sized(instrument, self.last)
        quote = symbol.split("/")[1]
        free, _ = (await venue.balances()).get(quote, (Decimal(0), Decimal(0)))
        needed = 2 * price * amount
        if free < needed:
            found = f"{plain(needed)} {quote} are needed for a moment, free are {plain(free)}"
            self.say("order", "smallest order", FAILED, found, f"have {plain(needed)} {quote} in the account")
            return
        client_id, since = f"so{secrets.token_hex(8)}", venue.now_ms()
        wanted = Wanted(client_id, symbol, "buy", amount, price, since, post_only=True)
        self.say(
            "order",
            "smallest order",
            OK,
            f"buy {plain(amount)} {symbol} at {plain(price)}, post-only, client id {client_id}",
        )
        ids: list[str] = []
        wait_s = 0.0
        try:
            ids.append(await venue.create(wanted))
            self.facts["create"] = OK, f"id {ids[0]}", ""
            await self.look(venue, "lookup", client_id, since, lambda truth: truth.open and truth.id == ids[0])
            await self.twice(venue, wanted, ids)
        except Failed as failed:
            if not ids:
                self.facts["create"] = FAILED, f"{failed.fate}: {scrub(failed.reason)}", _why_not(failed)
                if failed.fate is Fate.REFUSED:
                    return
                wait_s = venue.facts.expiry_s + venue.facts.lag_s  # it may still arrive
            else:
                raise
        finally:
            await self.clear(venue, symbol, client_id, ids, wait_s)
        await self.look(venue, "after", client_id, since, lambda truth: not truth.open and not truth.filled)

    async def look(
        self, venue: Venue, key: str, client_id: str, since: int, right: Callable[[Truth], bool], id: str = ""
    ) -> Truth | None:
        """Look an order up by client id until it is as it should be, for as long as the exchange may take to show it."""
        assert self.instrument is not None
        begin, truth, why = time.monotonic(), None, "not found"
        while True:
            with contextlib.suppress(Failed):
                truth = await venue.find(self.instrument.symbol, client_id, id, since)
            took = time.monotonic() - begin
            if truth is not None and right(truth):
                self.facts[key] = OK, f"found after {took:.1f} s", ""
                return truth
            if took > venue.facts.lag_s:
                break
            await asyncio.sleep(_AGAIN_S)
        if truth is not None:
            why = f"found, {'open' if truth.open else 'over'}, {plain(truth.filled)} filled"
        gone = key == "after" and self.name == "gate"  # by client id it finds what is pending; the closed are listed
        self.facts[key] = (
            WARNING if gone else FAILED,
            f"{why} within {took:.0f} s",
            "report it: brokers/venues reckons with it",
        )
        return truth

    async def twice(self, venue: Venue, wanted: Wanted, ids: list[str]) -> None:
        """The same client id again while its order works."""
        expected = EXPECTED.get(self.name, "a refusal that says so")
        try:
            second = await venue.create(wanted)
        except Failed as failed:
            found = f"{failed.fate}: {scrub(failed.reason)}"
            good = failed.fate is Fate.EXISTS
            self.facts["duplicate"] = (
                (OK if good else FAILED),
                found,
                "" if good else f"report it: expected is {expected}",
            )
            return
        if second == ids[0]:
            good, found = self.name == "coinbase", "the first order was given back"
        else:
            ids.append(second)
            good, found = self.name == "gate", f"ANOTHER order was made ({second})"
        self.facts["duplicate"] = (OK if good else FAILED), found, "" if good else f"report it: expected is {expected}"

    async def clear(self, venue: Venue, symbol: str, client_id: str, ids: list[str], wait_s: float) -> None:
        """Cancel whatever was created, and make sure of it."""
        begin, left = time.monotonic(), [""]
        while time.monotonic() < begin + PATIENCE_S + wait_s:
            with contextlib.suppress(Failed):
                left = [id for name, id in await venue.open_orders(symbol) if name == client_id or id in ids]
                if not left and time.monotonic() > begin + wait_s:
                    break
                for id in left:
                    with contextlib.suppress(Failed):
                        await venue.cancel(symbol, client_id, id)
            await asyncio.sleep(_AGAIN_S)
        if left:
            named = ", ".join(filter(None, left)) or f"client id {client_id}"
            self.facts["left"] = FAILED, f"open orders may be left: {named}", "cancel them by hand, now"
            return
        self.facts["left"] = OK, f"no order of client id {client_id} is open", ""
        if ids:
            self.facts["cancel"] = OK, f"over within {time.monotonic() - begin:.1f} s", ""


def _words(error: BaseException) -> str:
    """What an error says, without secrets."""
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S:g} s"
    said = error.reason if isinstance(error, Failed) else str(error) if isinstance(error, SmartOrdersError) else ""
    return scrub(" ".join((said or f"{type(error).__name__}: {short(str(error))}").split()))


def _why_not(error: BaseException) -> str:
    """What to do about a key that is not let in."""
    text = str(error)
    for words, advice in (
        (("Nonce", "imestamp", "-1021", "recv_window"), "have the clock of this machine set (NTP)"),
        (("IP", "whitelist"), "add the address of this machine to the key's, at the exchange"),
        (("nsufficient",), "have a little more than the least amount in the account"),
        (("Authentication", "ermission", "Unauthorized", "nvalid key", "nvalid signature", "-2015", "-2014"),
         "is it the key of this exchange, whole, not expired, and not one of its sandbox? its addresses and rights are set there"),
    ):  # fmt: skip
        if any(word in text for word in words):
            return advice
    return "try again; if it stays so, look at the exchange's status page and at the key"


def _split(text: str) -> tuple[str, str]:
    """What was found, and the way out that follows it."""
    found, _, advice = text.partition("; ")
    return found, advice
