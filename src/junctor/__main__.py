"""`python -m junctor` is `junctor`."""

from junctor.cli import main

main()
