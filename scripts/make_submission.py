"""The command `mtmusic make-submission`."""

from mtmusic.cli.make_submission import main

if __name__ == "__main__":
    raise SystemExit(main())
