"""What goes round the steps; the steps themselves are tested with the command."""

import logging
from pathlib import Path

import pytest

from mtmusic.lab.run import _logged


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_the_step_without_a_traceback_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left"), _logged(Path("/dev/full")):
        logging.getLogger("mtmusic.training").info("a message")
    assert capsys.readouterr() == ("", "")
