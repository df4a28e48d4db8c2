"""python3 -m harness census save FILE | compare FILE: exit 1 and a list when something is left."""

import sys

from . import census


def main(words):
    if len(words) == 3 and words[:2] == ["census", "save"]:
        census.save(words[2])
        return 0
    if len(words) == 3 and words[:2] == ["census", "compare"]:
        left = census.compare(words[2])
        for entry in left:
            print(f"left behind: {entry}")
        return 1 if left else 0
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main(sys.argv[1:]))
