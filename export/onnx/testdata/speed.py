"""Measures onnxruntime on an ONNX model beside the forward pass of spt, in turn.

    go test ./export -run TestONNXSizes -onnx DIR
    python export/onnx/testdata/speed.py SPT DIR tiny base

SPT is the program spt, and the sizes are those of 'spt bench --model'. Both programs compute the
same network on random pixels with all processors. The script prints images per second: the median
of the rounds, and the slowest and the fastest round in brackets.
"""

import json
import statistics
import subprocess
import sys
import time

import numpy
import onnxruntime

ROUNDS = 5


def spt(program, size, batch, steps):
    """Returns images per second: the median of the steps."""
    command = [program, "bench", "--model", size, "--method", "forward", "--batch", str(batch), "--steps", str(steps), "--gemm=false", "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return report["img_per_s"]


def ort(session, images, steps):
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        session.run(["logits"], {"images": images})
        times.append(time.perf_counter() - start)
    return len(images) / statistics.median(times)


def main(program, folder, size):
    session = onnxruntime.InferenceSession(f"{folder}/{size}/model.onnx", providers=["CPUExecutionProvider"])
    for batch in 1, 8:
        images = numpy.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), numpy.uint8)
        steps = max(3, (200 if size == "tiny" else 25) // batch // ROUNDS)
        ort(session, images, 2)
        both = [], []
        for _ in range(ROUNDS):
            both[0].append(spt(program, size, batch, steps))
            both[1].append(ort(session, images, steps))
        for name, v in zip(("spt", f"onnxruntime {onnxruntime.__version__}"), both):
            print(f"{size}, batch {batch}: {name} {statistics.median(v):.2f} images/s ({min(v):.2f}-{max(v):.2f})", flush=True)


if __name__ == "__main__":
    for size in sys.argv[3:]:
        main(*sys.argv[1:3], size)
