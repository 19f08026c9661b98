"""The picture of the odds: what a ladder would have done from thousands of entries, beside what it did before the last change."""

from __future__ import annotations

import traitlets

from .parts import Part, script


class OddsView(Part):
    """Shares of levels and exits, the distribution of returns and what they come to, for `now` and faintly for `before`."""

    _esm = script("common.js", "odds.js")
    now = traitlets.Dict().tag(sync=True)
    """The odds as plain data (`Odds.to_dict()`), empty if there are none."""
    before = traitlets.Dict().tag(sync=True)
    """The odds before the last change, empty if there are none."""
    state = traitlets.Enum(("empty", "working", "ready", "stale", "failed"), "empty").tag(sync=True)
    """`working`: the first are being reckoned; `stale`: those shown are of the last valid order; `failed`: `note` says why."""
    note = traitlets.Unicode("").tag(sync=True)
    """What is said in the place of how many entries were tried."""


class Keys(Part):
    """Undo and redo by keyboard, and the style sheet of the editor, for the box `.sol-panel` that this is in.

    Sends `{"undo": true}` or `{"redo": true}`.
    """

    _esm = script("common.js", "odds_keys.js")
    sheet = traitlets.Unicode("").tag(sync=True)
    groups = traitlets.Dict().tag(sync=True)
    """By CSS class of ToggleButtons: the name of the group. Which button is pressed is told beside it."""
