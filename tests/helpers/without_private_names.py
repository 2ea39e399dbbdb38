"""A pytest plugin: the package finds none of torch's private names, so that all fallbacks are used.

python -m pytest -p without_private_names tests/ops/test_ops.py
"""

import importlib.util
import sys
from pathlib import Path


def force():
    """Puts `_torch_internals` in its place before the package is imported, with `FORCED` set."""
    package = importlib.util.find_spec("gaussreg_fast")
    name, path = "gaussreg_fast._torch_internals", Path(package.origin).parent
    spec = importlib.util.spec_from_file_location(name, path / "_torch_internals.py")
    module = importlib.util.module_from_spec(spec)
    module.FORCED = True
    sys.modules[name] = module
    spec.loader.exec_module(module)


force()
