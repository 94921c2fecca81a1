"""Comparing methods and other settings in the window: side by side, under a divider, in turn, and as a difference."""
