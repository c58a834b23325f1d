"""Run the command line: `python -m nutgraf`."""

import sys

from nutgraf.cli.main import main

sys.exit(main())
