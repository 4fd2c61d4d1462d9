import json
from datetime import UTC, datetime

import numpy as np
import pytest

from mtmusic.data.folder import FolderData
from mtmusic.training.recipes import LAB_LSTM
from mtmusic.training.run_folder import base_card


@pytest.mark.parametrize(
    ("features", "seconds"),
    [
        ({"beat": True, "duration": 12.0}, 12.0),
        ({"beat": True}, None),
        ({"beat": True, "duration": "long"}, None),
        ({"beat": True, "duration": 0}, None),
        (None, None),
    ],
)
def test_the_card_tells_how_long_the_clips_are_where_their_folder_does(tmp_path, features, seconds):
    if features is not None:
        (tmp_path / "features.json").write_text(json.dumps(features))
    data = FolderData(tmp_path, True, False, "", {}, np.array([10, 12, 40]), {}, (), "on", (), False)
    card = base_card(LAB_LSTM, data, "command", 0)
    assert (card["clip_frames"], card["clip_seconds"]) == (12, seconds)
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(card["created"])).total_seconds() < 60
