"""The tab with label-free scores of all methods."""
