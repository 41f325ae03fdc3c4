"""`python -m trainer` is the command `train` (and what torchrun starts)."""

import os
import sys

# Python puts the folder that this is typed in before its own library. `train` has it nowhere, and so has this; but the
# folder is needed where the package itself lies in it.
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

from trainer.command.main import main

if __name__ == "__main__":
    main()
