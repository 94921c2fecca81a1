"""``python -m featup_app``: the same as the command ``featup-app``."""

from featup_app.cli.main import run

if __name__ == "__main__":
    run()
