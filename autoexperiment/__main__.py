"""`python -m autoexperiment` is the command `mlx`."""

import sys

from autoexperiment.cli import main

if __name__ == "__main__":
    sys.exit(main())
