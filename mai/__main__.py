"""`python -m mai`: the same as the console script `mai`."""

from mai.cli import main

main()
