"""integration/warm_point with a thousand orders of initialization."""
import os
import runpy
from pathlib import Path

os.environ["WARM_SEEDS"] = os.environ.get("WARM_SEEDS", "1000")
runpy.run_path(str(Path(__file__).parent.parent / "warm_point" / "test.py"))
