"""`python -m permafrost` is `permafrost`."""

from permafrost.cli import main

if __name__ == "__main__":
    main()
