"""Fits of the implicit method: settings, progress, records."""
