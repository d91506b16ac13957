"""`python -m inkwash`: the command line, where the script `inkwash` is not on the path."""

from inkwash.cli.main import main

if __name__ == "__main__":
    main()
