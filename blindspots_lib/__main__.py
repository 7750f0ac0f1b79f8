"""python -m blindspots_lib: see `run.command_line`."""

import sys

from blindspots_lib.run.command_line import main

sys.exit(main())
