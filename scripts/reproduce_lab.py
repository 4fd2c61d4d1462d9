"""The command `mtmusic reproduce-lab`."""

from mtmusic.cli.reproduce_lab import main

if __name__ == "__main__":
    raise SystemExit(main())
