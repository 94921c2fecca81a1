"""The engine behind window and command line: jobs on worker threads, cached computations, memory limits, settings. No Qt."""
