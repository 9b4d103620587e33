"""``python -m ser``: the same as the command ``ser``."""

from ser.cli.app import main

if __name__ == "__main__":
    main()
