"""Finds the songs of a library that sound most like a song.

    mtmusic embed music --out embeddings.parquet
    mtmusic similar music/song.mp3 --embeddings embeddings.parquet --top 20
    mtmusic similar other.mp3 --embeddings embeddings.parquet --m3u similar.m3u

SONG is the path of a song in the table, or any other file. The table's model embeds a file that is not in the table.
A row is a score and a song. The score is the cosine of the two embeddings, after each value is standardised by its mean
and standard deviation over the table. It is about 0 for two random songs, and 1 for equal embeddings. In a table of two
songs it is always -1, and 0 if all embeddings of the table are equal. The song itself is left out, and so are songs
whose embeddings are missing or not finite.
The table is read twice, part by part. Memory use does not grow with the table.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("song", type=Path, metavar="SONG", help="file of the song")
    flags.add_argument("--embeddings", required=True, **common.DIR, help="the table that mtmusic embed wrote")
    flags.add_argument("--top", default=20, **common.NUMBER, help="number of songs to list (default: 20)")
    text = "path of the table's model, if it has moved (default: as the table says)"
    flags.add_argument("--model", **common.RUN, help=text)
    flags.add_argument("--m3u", **common.FILE, help="write the songs as a playlist to this file")
    flags.add_argument("--overwrite", action="store_true", help="replace an existing playlist")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.files import refuse_taken
    from mtmusic.serving.similar import similar, write_playlist
    from mtmusic.serving.table import text

    refuse_taken([arguments.m3u], arguments.overwrite)
    found = similar(arguments.song, arguments.embeddings, top=arguments.top, model=arguments.model)
    for one in found:
        print(f"{one.score:6.3f}  {text(one.song)}")
    if arguments.m3u:
        write_playlist(arguments.m3u, found)
        print(f"Playlist: {arguments.m3u}")
