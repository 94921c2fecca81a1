"""The command line: ``featup-app [IMAGE]`` and its commands."""
