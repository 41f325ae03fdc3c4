"""Which words after `train` are verbs, what may stand after them, and their help. Imports nothing heavy."""

HELP = """\
  train runs [DIR]                        a table of the runs below runs/: what differs, what they came to
    where="val/accuracy>0.9 optimizer.lr<0.1"  sort=val/loss  sort=-steps  --csv  --json
  train compare RUN RUN... [--png FILE]   what differs, results side by side, loss curves over each other
  train compare SWEEP [--png FILE]        its settings, the best first, which key mattered; sweep.metric=val/loss
    --csv: of every number the mean and the standard deviation over the seeds
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

# The verbs that use a finished run: each one's own words, beside those that all of them take.
USING: dict[str, tuple[str, ...]] = {
    "evaluate": ("split", "batch_size", "--json", "--csv", "--png"),
    "predict": ("out", "top", "batch_size", "--json"),
    "export": ("format", "out", "preprocessing", "quantize"),
    "pack": ("out",),
}
SHARED = ("checkpoint", "device", "precision", "threads", "trust")
PLACES = ("model", "run", "ckpt", "ckpt_path", "source", "input", "weights")  # what other tools type before them
# What may be typed of a run's own keys: where it is computed and whose code it is, not what.
OF_A_RUN = ("trust", "device", "threads", "data.path", "data.root")
# What each verb takes beside folders.
KEYS: dict[str, tuple[str, ...]] = {
    "runs": ("where", "sort", "--csv", "--json"),
    "compare": ("--png", "--csv", "sweep.metric"),
    "show": (),
    "board": ("port",),
    **{verb: (*own, *SHARED, *(() if verb == "pack" else ("data",))) for verb, own in USING.items()},
    "reproduce": ("steps", "name", *OF_A_RUN),
    "replay": ("step", "until", "worst", *OF_A_RUN),
    "explain": ("seeds", "yes", "name", "sweep.metric", "--png", *OF_A_RUN),
    "remedy": ("budget", *OF_A_RUN),
}
ASKING = ("reproduce", "replay", "explain", "remedy")
VERBS = tuple(KEYS)
