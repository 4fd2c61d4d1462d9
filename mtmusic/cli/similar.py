"""Finds the songs of a library that sound most like a song.

    mtmusic embed music --out embeddings.parquet
    mtmusic similar music/song.mp3 --embeddings embeddings.parquet --top 20
    mtmusic similar other.mp3 --embeddings embeddings.parquet --m3u similar.m3u

SONG is a song of the table, by its path, or any other file, which is embedded by the table's model.
A row is a score and a song. The score is the cosine of the two embeddings, each value standardised by its mean and
deviation over the table: 1 for equal ones, about 0 for two songs at random. The song itself is left out.
The table is read twice, part by part: memory does not grow with it.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("song", type=Path, metavar="SONG", help="a file")
    flags.add_argument("--embeddings", required=True, **common.DIR, help="the table that mtmusic embed wrote")
    flags.add_argument("--top", default=20, **common.NUMBER, help="songs (default: 20)")
    flags.add_argument("--model", **common.RUN, help="the table's model (default: where it was)")
    flags.add_argument("--m3u", **common.FILE, help="write a playlist")
    flags.add_argument("--overwrite", action="store_true", help="replace a playlist that is there")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.files import refuse_taken
    from mtmusic.serving.similar import similar, write_playlist

    refuse_taken([arguments.m3u], arguments.overwrite)
    found = similar(arguments.song, arguments.embeddings, top=arguments.top, model=arguments.model)
    for one in found:
        print(f"{one.score:6.3f}  {one.song}")
    if arguments.m3u:
        write_playlist(arguments.m3u, found)
        print(f"Playlist: {arguments.m3u}")
