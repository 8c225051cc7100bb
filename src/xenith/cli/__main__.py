"""``python -m xenith.cli``: the command, for processes that start it anew."""

import sys

from xenith.cli import main

if __name__ == "__main__":
    sys.exit(main())
