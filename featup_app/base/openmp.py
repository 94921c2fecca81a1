"""How OpenMP's threads wait for work. Imported by the package itself, and so before any of its modules imports torch."""

import os

# OpenMP's workers wait for the next loop by spinning, for milliseconds. Where another program wants the same cores that makes
# our many short loops forty times slower (decision 0006); a short spin costs nothing when the machine is ours.
# The library reads this once, when torch loads it: a program that imports torch first keeps its own policy.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
