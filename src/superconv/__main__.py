"""`python -m superconv`."""

import sys

from superconv.cli import main

sys.exit(main())
