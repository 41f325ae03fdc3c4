"""Runs an exported file by itself: `python -I alone.py FORMAT FILE OUTPUTS.npz BATCH INPUTS.npy ...`.

Imports none of us. Prints a JSON object: seconds that all samples took, and what it ran on.
"""

import json
import sys
import time


def main(form: str, path: str, outputs: str, batch: str, *inputs: str) -> None:
    import numpy as np

    raw = [np.load(name, mmap_mode="r") for name in inputs]
    size = int(batch)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        taken = [given.name for given in session.get_inputs()]
        names = [output.name for output in session.get_outputs()]
        runtime = f"onnxruntime {onnxruntime.__version__}"

        def call(parts):  # type: ignore[no-untyped-def]
            return session.run(None, dict(zip(taken, parts, strict=True)))
    else:
        import torch

        program = torch.export.load(path).module()
        names = ["outputs", "scores"]
        runtime = f"torch {torch.__version__}"

        def call(parts):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                return [tensor.numpy() for tensor in program(*map(torch.from_numpy, parts))]

    one = call([np.array(array[:1]) for array in raw])  # the batch size is free
    found, seconds = [], 0.0
    for start in range(0, len(raw[0]), size):
        parts = [np.array(array[start : start + size]) for array in raw]
        begun = time.perf_counter()
        found.append(call(parts))
        seconds += time.perf_counter() - begun
    whole = {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=False)}
    np.savez(outputs, **{**whole, "first": one[0]})
    assert "trainer" not in sys.modules
    print(json.dumps({"seconds": seconds, "runtime": runtime}))


if __name__ == "__main__":
    main(*sys.argv[1:])
