"""`python -m kodectl`."""

from kodectl.cli.main import main

if __name__ == "__main__":
    main()
