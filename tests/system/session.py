"""What somebody types in a day, in one process that believes to be on another system; prints what came of it as JSON.

Words come as JSON: a list of commands, each a list of words.
"""

import contextlib
import io
import json
import sys
import traceback
from typing import Any


def typed(words: list[str]) -> tuple[Any, str, str]:
    """Exit code, stdout and stderr of `train <words>`."""
    from trainer.command.main import main

    sys.argv = ["train", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            code = traceback.format_exc()
    return code, out.getvalue(), errors.getvalue()


if __name__ == "__main__":
    print(json.dumps([typed(words) for words in json.loads(sys.argv[1])]))
