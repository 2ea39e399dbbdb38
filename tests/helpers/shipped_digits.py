"""The folder of the embedded model's weights, and what their training noted."""

import json

from gaussreg_fast import digits

FILES = digits.WEIGHTS
RECORD = json.loads((FILES / "training.json").read_text("utf-8"))
