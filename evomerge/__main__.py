"""`evomerge`, and `python -m evomerge`, which is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it in a word while it is still being loaded, too."""
    try:
        from evomerge.cli import main as run

        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
