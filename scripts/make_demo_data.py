"""The command `mtmusic make-demo-data`."""

from mtmusic.cli.make_demo_data import main

if __name__ == "__main__":
    raise SystemExit(main())
