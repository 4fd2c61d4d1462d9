"""What the tests share: the real data where it is present."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder MTMUSIC_REAL_DATA, default ../shared/data beside the project; skips where it is absent."""
    folder = Path(os.environ.get("MTMUSIC_REAL_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return folder
