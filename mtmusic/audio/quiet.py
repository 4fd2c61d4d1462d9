"""Silences C libraries that write to the terminal."""

import ctypes
import os
import platform
import threading
from functools import cache


class _QuietC:
    """Within the context, discards what C code writes to its `stderr`. What Python writes is still shown.

    libmpg123 writes a line for each damaged frame, and libsndfile has no option against it. Does nothing if the C
    library is not glibc.
    """

    def __init__(self) -> None:
        self.lock, self.within = threading.Lock(), 0
        self.before: int | None = None

    def __enter__(self) -> None:
        with self.lock:  # several threads may decode at once
            self.within += 1
            if self.within == 1 and (streams := _streams()):
                stderr, nowhere = streams
                self.before, stderr.value = stderr.value, nowhere

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.within -= 1
            if self.within == 0 and (streams := _streams()):
                streams[0].value = self.before


@cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """C's variable `stderr`, and a stream to /dev/null."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    return ctypes.c_void_p.in_dll(libc, "stderr"), libc.fopen(os.fsencode(os.devnull), b"w")


quiet_c = _QuietC()
