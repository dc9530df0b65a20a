"""`python -m m2f_helpers` is the same as `m2f`; torchrun needs this form."""

from m2f_helpers.cli import main

main()
