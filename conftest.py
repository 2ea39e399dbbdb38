"""Lets tests import bench/, which is no part of the installed package."""

import sys
from pathlib import Path

# Last: the installed package must be found before this checkout's folder of the same name.
sys.path.append(str(Path(__file__).resolve().parent))
