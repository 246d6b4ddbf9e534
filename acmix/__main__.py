"""`python -m acmix` is `acmix`."""

from acmix.cli import main

main()
