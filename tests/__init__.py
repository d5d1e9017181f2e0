"""The suite."""

import os
import sys

# Its processes are many and short; where no bytecode is kept, most of their time would go into compiling.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
