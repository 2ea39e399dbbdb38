"""Puts the table of docs/demo/demo.json between the README's marks.

python bench/readme.py           rewrite README.md
python bench/readme.py --check   exit 1 if README.md or docs/demo/demo.md disagree with it
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from gaussreg_fast.latent import report
from gaussreg_fast.latent.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- demo table -->\n).*?(<!-- /demo table -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    demo = ROOT / "docs" / "demo"
    table = report.markdown(json.loads((demo / "demo.json").read_text(encoding="utf-8")))
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after, marks = MARKED.subn(lambda match: match[1] + table + match[2], before)
    if marks != 1:
        sys.exit("README.md: the marks of the demo table are missing")
    if not check:
        with atomic_path(readme) as temporary:
            temporary.write_text(after, encoding="utf-8")
    elif after != before or (demo / "demo.md").read_text(encoding="utf-8") != table:
        sys.exit("README.md or docs/demo/demo.md does not show docs/demo/demo.json")


if __name__ == "__main__":
    main()
