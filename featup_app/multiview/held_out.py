"""The held-out views that methods, fits and trainings are measured on. Imports no torch."""

HELD_OUT_VIEWS = 16
"""Of each picture."""

HELD_OUT_PADDING = 30
"""Pixels that a view is moved by at the most, where the backbone sees 224 pixels."""

HELD_OUT_ZOOM = 1.8
"""A view is enlarged by at most this factor."""

HELD_OUT_SEED = 8_151_623
"""Of the views of a single picture; the views of a fit are drawn with other seeds."""
