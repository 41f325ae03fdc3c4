"""Folders and files that may not be read or written: a line says so, and nothing that is there is lost or hidden."""

import json
import sys
from typing import Any

import pytest

import without_rights

# Each command with a mode taken from something that is there: what the line says.
GO_ON, SHOW, SWEEP = ["max_steps=4", "name=a"], ["show", "a"], ["--multirun", "seed=0,1", "name=s"]
PREDICT = ["predict", "a"]
CASES: dict[str, tuple[str, int, list[str], str]] = {
    "a folder to write to": ("runs/a", 0o555, GO_ON, "runs/a: can't be written: Permission denied"),
    "a folder to read": ("runs/a", 0o000, GO_ON, "runs/a: can't be read: Permission denied"),
    "the folder of runs": ("runs", 0o555, ["name=b"], "runs/b: can't be written: Permission denied. Make it"),
    "checkpoints to write": ("runs/a/checkpoints", 0o555, GO_ON, "00000004.pt: can't be written: Permission denied."),
    # A run that found no checkpoint would begin once more, and cut off what it has written before.
    "checkpoints to read": ("runs/a/checkpoints", 0o000, GO_ON, "runs/a/checkpoints: can't be read: Permission"),
    "a checkpoint": ("runs/a/checkpoints/step_00000002.pt", 0o000, GO_ON, "00000002.pt: can't be read: Permission"),
    "a config": ("runs/a/config.yaml", 0o000, GO_ON, "runs/a/config.yaml: can't be read: Permission denied"),
    "a run to list": ("runs/a", 0o000, ["runs"], "warning: runs/a: can't be read: Permission denied; skipped."),
    "a run to show": ("runs/a", 0o000, SHOW, "runs/a: can't be read: Permission denied."),
    "checkpoints to show": ("runs/a/checkpoints", 0o000, SHOW, "its checkpoints can't be read: Permission denied"),
    "a sweep": ("runs/s", 0o555, SWEEP, "runs/s: can't be written: Permission denied."),
    "pictures": ("runs/pics/more", 0o000, [*PREDICT, "runs/pics"], "runs/pics/more: can't be read: Permission denied."),
    "a picture": ("runs/pics/one.png", 0o000, [*PREDICT, "runs/pics"], "runs/pics/one.png: is no whole image"),
    "a file to write": ("runs/pics", 0o000, [*PREDICT, "x.npy", "out=runs/pics/x.csv"], "runs/pics/x.csv: Permission"),
    "a pack to write": ("runs/pics", 0o000, ["pack", "a", "out=runs/pics/x.zip"], "runs/pics/x.zip: Permission"),
    "a run to use": ("runs/a", 0o000, ["evaluate", "a"], "runs/a/config.yaml: Permission denied. Type another path"),
    "a job": ("runs/s/seed=0", 0o000, SWEEP, "seed=0: can't be read: Permission denied."),
}

CODE = """
import contextlib, io, json, os, sys
from pathlib import Path
from trainer.command.main import main

def train(words):
    verbs = ("runs", "show", "predict", "pack", "evaluate")
    quick = ["model=two_layer", "data.limit=40", "monitor=off"] if words[0] not in verbs else []
    sys.argv = ["train", *words, *quick]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main()
        except SystemExit as ended:
            return ended.code, out.getvalue(), errors.getvalue()

def files():
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path("runs").rglob("*")) if path.is_file()}

if __name__ == "__main__":
    cases = json.loads(sys.argv[1])
    for place in ("runs/a", "runs/s/seed=0"):
        code, _, errors = train(["max_steps=2", f'run_dir="{place}"'])
        assert code == 0, errors
    Path("runs/s/sweep.yaml").write_text("command: []")
    os.makedirs("runs/pics/more")
    for place in ("runs/pics/one.png", "x.npy"):
        Path(place).touch()
    found = {}
    for name, (path, mode, words, _) in cases.items():
        before, was = files(), os.stat(path).st_mode
        os.chmod(path, mode)
        found[name] = train(words)
        os.chmod(path, was)
        if name != "checkpoints to write":  # which is noticed after the training
            assert files() == before, name
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit code, stdout and stderr of each command."""
    folder = tmp_path_factory.mktemp("rights")
    (folder / "script.py").write_text(CODE)
    done = without_rights.python(folder, "script.py", json.dumps(CASES))
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="root's rights are dropped as Linux does it")
@pytest.mark.parametrize("name", CASES)
def test_what_may_not_be_read_or_written_is_named(name: str, found: dict[str, Any]) -> None:
    code, out, errors = found[name]
    assert CASES[name][3] in out + errors
    assert "Traceback" not in errors
    assert code == (0 if name in ("a run to list", "checkpoints to show") else 2)
    assert errors.count("\n") == (0 if name == "checkpoints to show" else 1)
