"""Benches: what the operators, the upsamplers, training and fits cost, as ratios or against bounds in one run."""
