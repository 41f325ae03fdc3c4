"""What is imported is not looked through for garbage, in a process of the command; all else is, as ever."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc
from trainer.command.imports import Own, importing

Own.process, before = {is_own}, gc.get_freeze_count()
with importing():
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() > before)
"""


@pytest.mark.parametrize(("is_own", "said"), [(True, "False\nTrue True\n"), (False, "True\nTrue False\n")])
def test_the_collector_leaves_imports_alone_in_a_process_of_the_command(is_own: bool, said: str) -> None:
    words = [sys.executable, "-c", PROGRAM.format(is_own=is_own)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == said
