"""`python -m superconv`."""

import os
import sys

if __name__ == "__main__":
    if sys.path and sys.path[0] in ("", os.getcwd()):  # python -m puts it there, before everything that is installed
        del sys.path[0]
    try:
        from superconv.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        print("superconv: interrupted", file=sys.stderr)
        sys.exit(130)
