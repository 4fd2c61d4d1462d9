"""Times the original musicnn package: python original_musicnn.py SONG... prints one line of JSON.

It runs in the peer's Python, which has musicnn but not mtmusic, see pretrained.py.
"""

import json
import sys
import time

start = time.perf_counter()

from musicnn.extractor import extractor  # noqa: E402

import_seconds = time.perf_counter() - start
seconds, answers = [], []
for song in sys.argv[1:]:
    start = time.perf_counter()
    scores, tags, _ = extractor(song, model="MSD_musicnn", input_length=3)
    seconds.append(time.perf_counter() - start)
    answers.append(dict(zip(tags, scores.mean(axis=0).tolist(), strict=True)))
told = {"import_seconds": import_seconds, "first_seconds": seconds[0], "later_seconds": sum(seconds[1:])}
print(json.dumps({**told, "tags": answers}))
