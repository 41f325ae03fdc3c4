"""Runs an exported file by itself: `python -I alone.py FORMAT FILE INPUTS.npy OUTPUTS.npz BATCH`. Imports none of us.

Prints a JSON object: seconds that all samples took, and what it ran on.
"""

import json
import sys
import time


def main(form: str, path: str, inputs: str, outputs: str, batch: str) -> None:
    import numpy as np

    raw = np.load(inputs, mmap_mode="r")
    size = int(batch)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        names = [output.name for output in session.get_outputs()]
        runtime = f"onnxruntime {onnxruntime.__version__}"

        def call(part):  # type: ignore[no-untyped-def]
            return session.run(None, {name: part})
    else:
        import torch

        program = torch.export.load(path).module()
        names = ["outputs", "scores"]
        runtime = f"torch {torch.__version__}"

        def call(part):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                return [tensor.numpy() for tensor in program(torch.from_numpy(part))]

    one = call(np.array(raw[:1]))  # the batch size is free
    found, seconds = [], 0.0
    for start in range(0, len(raw), size):
        part = np.array(raw[start : start + size])
        begun = time.perf_counter()
        found.append(call(part))
        seconds += time.perf_counter() - begun
    whole = {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=False)}
    np.savez(outputs, **{**whole, "first": one[0]})
    assert "trainer" not in sys.modules
    print(json.dumps({"seconds": seconds, "runtime": runtime}))


if __name__ == "__main__":
    main(*sys.argv[1:])
