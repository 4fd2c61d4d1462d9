"""A saved model is opened by programs that have built none: what is ours must be known by mtmusic.models alone."""

import subprocess
import sys

REGISTERED = """
import importlib, pkgutil
import keras
import mtmusic.models
before = {*keras.saving.get_custom_objects()}
for module in pkgutil.iter_modules(mtmusic.models.__path__):
    importlib.import_module(f"mtmusic.models.{module.name}")
assert len(before) > 15, before
print(*sorted({*keras.saving.get_custom_objects()} - before))
"""


def test_every_class_is_registered_by_the_package():
    result = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
