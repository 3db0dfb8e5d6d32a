"""``python -m mendscan``."""

from mendscan.cli import main

main()
