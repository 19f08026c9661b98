"""The doctor at the local exchange, all eight venues of it: a healthy account, and each thing that can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from session_process import Exchange, parting
from trading_exchange import DIALECTS, Refusal, TradingExchange, trader
from typer.testing import CliRunner

import smartorders_lab.doctor as doctor
from smartorders_lab.brokers.venues import FACTS
from smartorders_lab.cli import app
from smartorders_lab.doctor import FAILED, OK, SKIPPED, UNSEEN, WARNING, Check, Report, examine, first_run_facts
from smartorders_lab.errors import SpecError

SOL = "SOL/USDT"


class Patient:
    """A venue, and what the doctor finds there."""

    def __init__(self, venue: str, monkeypatch: pytest.MonkeyPatch):
        self.venue, self.patch = venue, monkeypatch
        self.exchange = Exchange()
        self.exchange.server = TradingExchange([venue])
        keys, nobody = DIALECTS[venue].keys, {"apiKey": "", "secret": "", "password": ""}
        monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
        for name, value in (("KEY", keys.key), ("SECRET", keys.secret), ("PASSWORD", keys.password)):
            monkeypatch.setenv(f"SMARTORDERS_{venue.upper()}_{name}", value)
        monkeypatch.setattr(doctor, "anonymous", lambda name: self.farewell(trader(name, self.server, **nobody)))
        monkeypatch.setattr(
            doctor, "connect", lambda name, keys: self.farewell(trader(name, self.server, **keys.for_ccxt()))
        )
        monkeypatch.setattr(doctor, "LISTEN_S", 0.5)

    @property
    def server(self) -> Any:
        return self.exchange.server

    @property
    def dialect(self) -> Any:
        return self.server.venues[self.venue]

    def farewell(self, made: Any) -> Any:
        """The markets of the server, and an end that leaves nothing open."""
        parting(made)
        self.prepared(made)
        return made

    def move(self, price: float) -> None:
        """The market trades there."""
        self.exchange.do(lambda: self.server.move(SOL, price))

    def prepared(self, made: Any) -> None:
        """What one test does to its clients."""
        least = {"amount": {"min": 0.001}, "cost": {"min": float(self.dialect.least_cost)}}
        for market in made.markets.values():
            market["limits"] = least

    def examine(self, **how: Any) -> dict[str, Check]:
        self.report: Report = examine(self.venue, **{"symbol": SOL, **how})
        assert len(self.report.checks) == len({(check.group, check.name) for check in self.report.checks})
        return {check.name: check for check in self.report.checks}

    @property
    def failed(self) -> set[str]:
        return {check.name for check in self.report.checks if check.outcome == FAILED}

    @property
    def created(self) -> int:
        return sum(self.server.executions.values())


@pytest.fixture
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Patient]:
    made = Patient(getattr(request, "param", "binance"), monkeypatch)
    with made.exchange:
        yield made


eight = pytest.mark.parametrize("patient", FACTS, indirect=True)


@eight
def test_a_healthy_account(patient: Patient) -> None:
    found = patient.examine()
    assert patient.failed == set()
    assert patient.report.ok
    assert patient.created == 0
    assert found["versions"].outcome == OK
    assert "ccxt 4.5.90" in found["versions"].found
    assert found["reachable"].outcome == OK
    assert found["clock"].outcome == OK
    assert found["rules"].found.startswith(f"{SOL}: price by 0.01, amount by 0.001, at least 0.001 and ")
    assert "SMARTORDERS_" in found["found"].found
    assert found["may read"].found == "the account has 10000 USDT"
    assert (found["may trade"].outcome, found["may trade"].found) == (OK, "yes")
    assert (found["may withdraw"].outcome, found["may withdraw"].found) == (OK, "no")
    bound = found["bound to addresses"]
    assert bound.outcome == {"kraken": WARNING, "coinbase": WARNING}.get(patient.venue, OK)
    assert bound.found.startswith({"kraken": "no:", "coinbase": "the exchange does not say"}.get(patient.venue, "yes"))
    assert found["kind"].outcome == OK
    assert found["fees"].outcome == OK
    assert found["stream"].outcome == OK
    assert [found[what].outcome for _, what in first_run_facts(patient.venue)] == [UNSEEN] * len(
        first_run_facts(patient.venue)
    )
    text = json.dumps(patient.report.to_dict())
    keys = patient.dialect.keys
    assert not [secret for secret in (keys.key, keys.secret, keys.password) if secret and secret in text]


@eight
def test_the_smallest_order(patient: Patient) -> None:
    patient.move(150)
    found = patient.examine(smallest_order=True)
    facts = {key: found[what] for key, what in first_run_facts(patient.venue)}
    assert patient.failed == set()
    for key in ("create", "lookup", "duplicate", "cancel", "after", "left"):
        assert facts[key].outcome == OK, facts[key]
    assert {key for key, check in facts.items() if check.outcome == UNSEEN} >= {"filled", "again"}
    orders = patient.exchange.do(lambda: [*patient.server.ledger().orders.values()])
    assert len(orders) == (2 if patient.venue == "gate" else 1)
    assert {order.status for order in orders} == {"cancelled"}
    (first, *_) = orders
    assert (first.price, first.tif, first.side) == (Decimal(120), "PO", "buy")
    assert first.amount * 120 >= patient.dialect.least_cost
    assert (first.amount - Decimal("0.002")) * 120 < max(patient.dialect.least_cost * Decimal("1.02"), Decimal("0.12"))
    words = {"gate": "ANOTHER order was made", "coinbase": "the first order was given back"}
    assert facts["duplicate"].found.startswith(words.get(patient.venue, "exists: "))


@eight
def test_a_key_that_may_withdraw(patient: Patient) -> None:
    patient.dialect.withdraw = True
    check = patient.examine()["may withdraw"]
    assert check.outcome == WARNING
    assert check.found.startswith("YES: who has this key can take the money")
    assert patient.report.ok, "it is a warning"


@eight
def test_a_wrong_key(patient: Patient) -> None:
    secret = DIALECTS["kraken"].keys.secret[:-4] + "AAA=" if patient.venue == "kraken" else "wrong-secret"
    name = "KEY" if patient.venue == "coinbase" else "SECRET"  # its secret has to be one
    patient.patch.setenv(f"SMARTORDERS_{patient.venue.upper()}_{name}", secret)
    found = patient.examine(smallest_order=True)
    assert patient.failed == {"may read"}
    assert "is it the key of this exchange" in found["may read"].advice, found["may read"]
    assert secret not in json.dumps(patient.report.to_dict())
    for name in ("may trade", "may withdraw", "kind", "stream", "smallest order"):
        assert found[name].outcome == SKIPPED
    assert found["reachable"].outcome == found["rules"].outcome == OK
    assert patient.created == 0


@eight
def test_a_clock_that_is_wrong(patient: Patient) -> None:
    patient.server.skew_ms = -3_600_000  # so it is ours that is an hour ahead
    found = patient.examine()
    assert found["clock"].outcome == FAILED
    assert re.match(r"3,(600|599),\d+ ms ahead", found["clock"].found)
    assert "NTP" in found["clock"].advice
    assert found["may read"].outcome == OK, "requests are made by the exchange's clock"


@pytest.mark.parametrize("patient", ["okx", "bitget", "kucoin"], indirect=True)
def test_a_missing_password(patient: Patient) -> None:
    patient.patch.delenv(f"SMARTORDERS_{patient.venue.upper()}_PASSWORD")
    found = patient.examine()
    assert patient.failed == {"found"}
    assert "the API password from" in found["found"].found
    assert f"set SMARTORDERS_{patient.venue.upper()}_KEY" in found["found"].advice
    assert found["may read"].outcome == SKIPPED
    assert patient.server.asked == []


@pytest.mark.parametrize("patient", ["binance", "kraken"], indirect=True)
def test_an_exchange_that_is_down(patient: Patient) -> None:
    patient.prepared = lambda made: setattr(made, "markets", None)  # type: ignore[method-assign]
    patient.server.refuse = 503
    found = patient.examine(smallest_order=True)
    assert patient.failed == {"reachable"}
    assert {found[name].outcome for name in ("clock", "rules", "ticks", "may read", "kind", "smallest order")} == {
        SKIPPED
    }
    assert found["found"].outcome == OK


def test_a_market_that_is_not_there(patient: Patient) -> None:
    found = patient.examine(symbol="SOL/EUR", smallest_order=True)
    assert patient.failed == {"rules"}
    assert found["rules"].advice == "there is SOL/USDT"
    assert found["smallest order"].outcome == SKIPPED


@eight
def test_a_key_that_may_only_read(patient: Patient) -> None:
    patient.dialect.denied = "permission"
    patient.move(150)
    what = dict(first_run_facts(patient.venue))["create"]
    assert patient.examine(smallest_order=True)[what].outcome == FAILED
    assert patient.created == 0


@pytest.mark.parametrize(
    ("patient", "change", "name", "outcome", "says"),
    [
        ("binance", {"coin": ("BNB", Decimal(600))}, "fees", WARNING, "fees are paid in BNB while there is any"),
        ("gate", {"coin": ("GT", Decimal(10))}, "fees", WARNING, "fees are paid in GT while there is any"),
    ],
    indirect=["patient"],
)
def test_fees_in_a_third_coin(patient: Patient, change: dict[str, Any], name: str, outcome: str, says: str) -> None:
    for field, value in change.items():
        setattr(patient.dialect.ledger, field, value)
    check = patient.examine()[name]
    assert (check.outcome, check.found) == (outcome, says)


KINDS = [
    ("bybit", {"result": {"unifiedMarginStatus": 1}}, "info", FAILED, "classic account"),
    ("okx", {"data": [{"acctLv": "3", "perm": "trade"}]}, "config", WARNING, "multi-currency margin"),
    ("gate", {"key": {"mode": 2}}, "detail", WARNING, "unified account"),
    ("bitget", {"code": "00000", "data": {"assetMode": "single"}}, "settings", FAILED, "unified account"),
    ("kucoin", {"data": {"selfAccountMode": "UNIFIED"}}, "mode", FAILED, "unified account"),
    ("kucoin", {"data": False}, "opened", FAILED, "no high-frequency trading account"),
]


@pytest.mark.parametrize(("patient", "told", "path", "outcome", "says"), KINDS, indirect=["patient"])
def test_kinds_of_account(patient: Patient, told: Any, path: str, outcome: str, says: str) -> None:
    usual = patient.dialect.on_account
    good = {"code": "200000" if patient.venue == "kucoin" else "0", "retCode": 0, **told}
    patient.dialect.on_account = lambda ask: good if ask.path.endswith(path) else usual(ask)
    check = patient.examine()["kind"]
    assert check.outcome == outcome, check
    assert check.found.startswith(says)
    assert check.advice


def test_an_order_that_cannot_be_taken_back_is_named(patient: Patient) -> None:
    patient.patch.setattr(doctor, "PATIENCE_S", 2.0)
    patient.move(150)

    def never(ask: Any) -> Any:
        raise Refusal("busy")

    patient.dialect.on_cancel = never
    found = patient.examine(smallest_order=True)
    (order,) = patient.exchange.do(lambda: [*patient.server.ledger().orders.values()])
    left = found[dict(first_run_facts("binance"))["left"]]
    assert (left.outcome, left.advice) == (FAILED, "cancel them by hand, now")
    assert order.id in left.found


def test_too_little_money_for_the_smallest_order(patient: Patient) -> None:
    patient.dialect.ledger.total["USDT"] = Decimal(6)
    patient.move(150)
    check = patient.examine(smallest_order=True)["smallest order"]
    assert check.outcome == FAILED
    assert "are needed for a moment, free are 6" in check.found
    assert patient.created == 0


@pytest.mark.parametrize("patient", ["okx"], indirect=True)
def test_a_sandbox_has_keys_of_its_own(patient: Patient) -> None:
    assert patient.examine(sandbox=True)["found"].outcome == FAILED
    keys = DIALECTS["okx"].keys
    for name, value in (("KEY", keys.key), ("SECRET", keys.secret), ("PASSWORD", keys.password)):
        patient.patch.setenv(f"SMARTORDERS_OKX_SANDBOX_{name}", value)
    assert patient.examine(sandbox=True)["found"].outcome == OK
    assert patient.failed <= {"ticks", "stream"}, "whose host is not here"
    assert {ask.headers.get("x-simulated-trading") for ask in patient.server.asked} == {"1"}


# ---------------------------------------------------------------------------------------------------- the command


def run(*args: str) -> Any:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["doctor", *args])


def test_the_command(patient: Patient) -> None:
    result = run("binance", "--symbol", SOL)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Doctor: binance, {SOL}\n")
    assert "may withdraw" in result.stdout
    assert "not yet seen" in result.stdout
    patient.dialect.denied = "ip"
    result = run("binance", "--symbol", SOL, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["ok"], told["exchange"], told["sandbox"]) == (False, "binance", False)
    assert [check["name"] for check in told["checks"] if check["outcome"] == "failed"] == ["may read"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nyse",), "exchange = 'nyse': is not one that can be traded on; take one of binance"),
        (("kraken", "--sandbox"), "sandbox = 'kraken': has no sandbox that ccxt can trade on; leave it out"),
        (("binance", "--away", "x"), "away = 'x': "),
        (("binance", "--away", "100%"), "away = '100%': must be between 0 and 100 %"),
        (("binance", "--smallest-order"), "sends an order, and there is no terminal to ask at; pass --yes"),
    ],
)
def test_what_is_asked_wrongly(args: tuple[str, ...], says: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.stderr
    if args[0] == "nyse":
        with pytest.raises(SpecError):
            examine("nyse")
