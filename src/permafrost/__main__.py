"""Run the command line with `python -m permafrost`."""

from permafrost.cli import main

if __name__ == "__main__":
    main()
