"""The command `mtmusic get-pretrained`."""

from mtmusic.cli.get_pretrained import main

if __name__ == "__main__":
    raise SystemExit(main())
