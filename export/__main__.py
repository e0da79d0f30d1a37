"""`python -m longserve.export` is `longserve export`."""

from __future__ import annotations

import sys

from longserve.serving.command import main

if __name__ == "__main__":
    sys.argv[1:1] = ["export"]
    main()
