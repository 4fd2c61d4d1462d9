"""The command `mtmusic train-affect`."""

from mtmusic.cli.train_affect import main

if __name__ == "__main__":
    raise SystemExit(main())
