"""Draw the pictures of `examples.md`: `python docs/draw_examples.py`, or `python docs/draw_examples.py vae gan`."""

import io
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image

ROOT = Path(__file__).parents[1]


def draw(name: str, folder: Path) -> Path:
    """Run an example, write what it shows to a small PNG in the folder, and return that."""
    written = io.BytesIO()
    with plt.rc_context({"figure.constrained_layout.use": True}):
        with patch.object(plt, "show", lambda: plt.savefig(written)):
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        plt.close()
    file = folder / f"{name}.png"
    Image.open(written).convert("RGB").quantize(128).save(file, optimize=True)
    return file


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.path.insert(0, str(ROOT))  # the packages, also where they are not installed
    for name in sys.argv[1:] or sorted(path.stem for path in (ROOT / "examples").glob("*.py")):
        file = draw(name, ROOT / "docs" / "pictures")
        sys.stdout.write(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB\n")
