"""`python -m napari_bloodcell` does what the command `napari-bloodcell` does."""

import sys

from napari_bloodcell.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
