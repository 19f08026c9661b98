"""Every bad input is refused with the error that names it, what is wrong with it and the way out.

A list of cases is `(name, callable of tmp_path, error class, part of its message)`; more lists join `ALL`.
"""

from __future__ import annotations

import pytest
from bad_cli import CASES as CLI
from bad_specs import CASES as SPECS
from bad_ticks import CASES as TICKS
from hypothesis import given
from hypothesis import strategies as st

from smartorders_lab import SmartOrder

LISTS = {"ticks": TICKS, "specs": SPECS, "cli": CLI}
ALL = [(name, *case) for name, cases in LISTS.items() for case in cases]


@pytest.mark.unverified
@pytest.mark.parametrize(("call", "error", "message"), [case[2:] for case in ALL], ids=[f"{c[0]}: {c[1]}" for c in ALL])
def test_bad_input_is_refused(call, error, message, tmp_path):
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert message in str(caught.value)
    assert type(caught.value) is error


@given(st.text(max_size=40).filter(str.strip))
def test_any_note_comes_back(text):
    """Whatever a user writes as a note is the same after TOML, JSON and a link."""
    order = SmartOrder(symbol="A/B", side="buy", quantity=1, stop_loss="-5%", note=text)
    assert SmartOrder.from_toml(order.to_toml()) == order
    assert SmartOrder.from_json(order.to_json()) == order
    assert SmartOrder.from_link(order.share_link()) == order
