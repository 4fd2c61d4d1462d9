"""The command `mtmusic train-genre`."""

from mtmusic.cli.train_genre import main

if __name__ == "__main__":
    raise SystemExit(main())
