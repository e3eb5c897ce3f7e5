"""`python -m eventwagon`: the same as the command `eventwagon`."""

from .cli import main

if __name__ == "__main__":
    main()
