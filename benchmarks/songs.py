"""Songs to measure on."""

import os
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def some_songs(places: Sequence[Path], real: str, seconds: float, temporary: Path) -> list[Path]:
    """Returns the songs in the given files and folders, or by default real songs, or else synthesised songs.

    real: folder of real songs in MTMUSIC_REAL_DATA (default: ../shared/data). seconds: length of synthesised songs.
    """
    from mtmusic.audio.extraction import find_songs

    folder = Path(os.environ.get("MTMUSIC_REAL_DATA") or PROJECT.parent / "shared" / "data") / real
    if places or folder.is_dir():
        return find_songs(places or [folder])

    import soundfile

    from mtmusic.audio.synthesis import STYLES, synthesise
    from mtmusic.constants import SAMPLE_RATE

    for genre in STYLES:
        soundfile.write(temporary / f"{genre}.wav", synthesise(genre, 0, seconds)[0], SAMPLE_RATE)
    return find_songs([temporary])
