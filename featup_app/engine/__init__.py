"""The engine behind window and command line: jobs on worker threads, cached computations, memory limits, settings. No Qt."""

import os

# OpenMP's workers wait for the next loop by spinning, for milliseconds. Where another program wants the same cores that makes
# our many short loops forty times slower (DECISIONS: "Short spinning"); a short spin costs nothing when the machine is ours.
# The library reads this when torch loads it, so it stands before every import of torch by the program.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
