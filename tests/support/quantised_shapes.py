"""Makes the int8 files of the shapes models anew, in a folder with the others: run in .venv-diffusers."""

import sys
from pathlib import Path

from cascade_models.shapes.training import quantise

quantise.write(Path(sys.argv[1]))
quantise.record(Path(sys.argv[1]))
