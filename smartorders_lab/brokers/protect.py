"""Moved to resting.py."""

import sys

from . import resting

sys.modules[__name__] = resting
