"""``python -m dksmfs`` is the ``dksmfs`` command."""

import sys

from dksmfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
