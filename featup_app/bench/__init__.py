"""Benches: the costs of operators, upsamplers, training and fits, as ratios or against bounds measured in the same run."""
