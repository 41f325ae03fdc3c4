"""Which words after `train` are verbs, and what may stand after them. Imports nothing heavy."""

import re
from collections.abc import Sequence
from pathlib import Path

from trainer.command import using
from trainer.errors import UserError, nearest
from trainer.signals import Signals

HELP = """\
  train runs [DIR]                        a table of the runs below runs/: what differs, what they came to
    where="val/accuracy>0.9 optimizer.lr<0.1"  sort=val/loss  sort=-steps  --csv  --json
  train compare RUN RUN... [--png FILE]   what differs, results side by side, loss curves over each other
  train compare SWEEP [--png FILE]        its settings, the best first, which key mattered; sweep.metric=val/loss
  train show RUN                          one run: what was typed, results, diagnosis, files, how to continue
  train board [DIR] [port=6006]           TensorBoard, for this machine alone
  train reproduce RUN [steps=200]         trains it again: same bits, or the first number that differs, and why
  train replay RUN step=200 [until=210]   a step again: its samples, their part in the gradient; worst=20
  train explain A B [seeds=3] [yes=true]  which of the keys that differ made the difference, by runs between them
  train explain SWEEP                     which of the swept keys did, and which pairs, from the sweep's own runs
  train remedy RUN [budget=5m]            tries what may mend it, each for a tenth of its length, and says what helps

Before a run:
  train find-lr [KEY=VALUE ...]           a few steps with each of 16 learning rates, and the best of them"""
USES = """\
  train evaluate RUN                      all metrics and each class, on its own test split or on new data
    split=val  data.path=new.csv  checkpoint=last  --json  --csv  --png DIR
  train predict RUN SOURCE...             pictures, folders, .csv, .npy, .npz, or - for lines on standard input
    out=predictions.csv (.jsonl .npz .parquet)  top=3  --json
  train export RUN                        a file for other programs, proven by a process that runs it alone
    format=onnx (pt2 safetensors)  out=model.onnx  preprocessing=false  quantize=int8
  train pack RUN [out=run.zip]            one file to hand over: weights, config, a model card; nothing in it runs"""

# What may be typed of a run's own keys: where it is computed and whose code it is, not what.
OF_A_RUN = ("trust", "device", "threads", "data.path", "data.root")
# What each verb takes beside folders.
KEYS: dict[str, tuple[str, ...]] = {
    "runs": ("where", "sort", "--csv", "--json"),
    "compare": ("--png", "sweep.metric"),
    "show": (),
    "board": ("port",),
    **{verb: using.known(verb) for verb in using.OPTIONS},
    "reproduce": ("steps", "name", *OF_A_RUN),
    "replay": ("step", "until", "worst", *OF_A_RUN),
    "explain": ("seeds", "yes", "name", "sweep.metric", "--png", *OF_A_RUN),
    "remedy": ("budget", *OF_A_RUN),
}
ASKING = ("reproduce", "replay", "explain", "remedy")
VERBS = tuple(KEYS)
_FLAGS = ("--csv", "--json")


def run_verb(argv: Sequence[str], signals: Signals | None = None) -> int:
    """What `train VERB ...` asks for. Returns the exit code.

    Args:
        argv: the verb, and the words after it.

    Raises:
        UserError: a word is wrong, or names nothing that is there.
    """
    verb = argv[0]
    if verb in using.OPTIONS:
        return using.use(verb, argv[1:])
    folders, options = sorted_words(verb, argv[1:])
    if verb in ASKING:
        from trainer.command.asking import ask

        return ask(verb, folders, options, signals or Signals())
    if verb in ("runs", "board"):
        if len(folders) > 1:
            raise UserError(f"{folders[1]}: train {verb} takes one folder. Type the one that holds all of them.")
        folder = folders[0] if folders else "runs"
        if verb == "board":
            from trainer.finished.board import serve

            return serve(folder, options.get("port", "6006"))
        from trainer.finished.runs import print_runs

        form = "json" if "--json" in options else "csv" if "--csv" in options else "table"
        return print_runs(folder, options.get("where"), options.get("sort"), form)
    if verb == "show":
        if len(folders) != 1:
            raise UserError(f"train show takes one run, not {len(folders)}. train runs lists them.")
        from trainer.finished.show import show

        return show(folders[0])
    if len(folders) == 1:
        from trainer.sweep.compare import compare_sweep, sweep_folder

        sweep = sweep_folder(folders[0])
        if sweep is not None:
            return compare_sweep(sweep, options.get("sweep.metric"), options.get("--png"))
    if "sweep.metric" in options:
        raise UserError("sweep.metric: ranks the settings of a sweep. Type train compare with the folder of one sweep.")
    if len(folders) < 2:
        raise UserError("train compare takes two runs or more, or one sweep. train runs lists them.")
    from trainer.finished.compare import compare

    done = compare(folders, options.get("--png"))
    if len(folders) == 2:
        from trainer.use.better import print_better

        print_better(folders)
    return done


def sorted_words(verb: str, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The folders, and the options with their values.

    Raises:
        UserError: the verb has no such option, or its value is missing.
    """
    folders: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, is_given, value = word.partition("=")
        if name in KEYS[verb] and name not in _FLAGS:
            if not is_given:
                value = next(rest, "") if name.startswith("-") else ""
            if not value:
                raise UserError(f"{name}: has no value. Type train --help for what train {verb} takes.")
            options[name] = value
        elif word in KEYS[verb] and word in _FLAGS:
            options[word] = ""
        elif word.startswith("-") or (re.match(r"[a-z.]+=", word) and not Path(word).exists()):
            hint = nearest(name, KEYS[verb]) or (f" It takes {', '.join(KEYS[verb])}." if KEYS[verb] else "")
            raise UserError(f"{word}: train {verb} has no such word.{hint}")
        else:
            folders.append(word)
    return folders, options
