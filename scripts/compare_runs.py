"""The command `mtmusic compare-runs`."""

from mtmusic.cli.compare_runs import main

if __name__ == "__main__":
    raise SystemExit(main())
