"""The panel: widgets for a notebook, to shape an order and to watch those that live.

ipywidgets, and small anywidgets of our own where ipywidgets has no part.
"""
