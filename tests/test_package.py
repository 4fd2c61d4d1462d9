"""What importing the package costs."""

import subprocess
import sys


def test_the_package_imports_nothing_heavy():
    code = "import sys, mtmusic; print(sorted({'numpy', 'tensorflow', 'keras', 'librosa'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
