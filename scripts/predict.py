"""The command `mtmusic predict`."""

from mtmusic.cli.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
