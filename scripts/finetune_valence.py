"""The command `mtmusic finetune-valence`."""

from mtmusic.cli.finetune_valence import main

if __name__ == "__main__":
    raise SystemExit(main())
