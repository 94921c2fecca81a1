"""Marks in the window: drawing them, showing them on the pictures, and the list of what is asked."""
