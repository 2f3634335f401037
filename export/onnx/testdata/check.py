"""Checks ONNX models of spt with the ONNX checker and onnxruntime.

    go test ./export -run TestONNX -onnx DIR              # writes a folder for each model
    go test ./export/onnx -run 'TestTranslate$' -onnx DIR # and for each operation
    python export/onnx/testdata/check.py DIR              # with onnx, onnxruntime and numpy

Each folder holds model.onnx, the pixels of images in images.bin, and in expected.json their logits
and, for a classifier, their probabilities, as spt computes them. check(folder) returns the largest difference
of a logit in onnxruntime, for one, two, three and all images at once.
"""

import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime

BOUND = 1e-4
HALF_BOUND = 0.05


def check(folder):
    folder = pathlib.Path(folder)
    bound = HALF_BOUND if folder.name.endswith("half-true") else BOUND
    path = str(folder / "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    expected = json.loads((folder / "expected.json").read_text())
    size = expected["size"]
    images = numpy.fromfile(folder / "images.bin", numpy.uint8).reshape(-1, size, size, 3)
    logits = numpy.array(expected["logits"]).reshape(len(images), -1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = session.get_inputs()
    assert (name.name, name.type, name.shape) == ("images", "tensor(uint8)", ["batch", size, size, 3]), name
    outputs = [o.name for o in session.get_outputs()]
    assert outputs == [name for name in ("logits", "probabilities") if name in expected], outputs
    if len(outputs) > 1:
        classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
        assert len(classes) == logits.shape[1], classes
    worst = 0.0
    for n in sorted({1, 2, 3, len(images)}):
        got = session.run(outputs, {"images": images[:n]})
        assert got[0].shape == (n, logits.shape[1]), got[0].shape
        # The logits of single operations may be large.
        worst = max(worst, float((abs(got[0] - logits[:n]) / numpy.maximum(1, abs(logits[:n]))).max()))
        if len(outputs) > 1:
            probabilities = numpy.array(expected["probabilities"]).reshape(logits.shape)[:n]
            assert abs(got[1] - probabilities).max() <= bound, folder
    assert worst <= bound, f"{folder}: a logit differs by {worst}"
    return worst


def main(folder):
    folders = sorted(p.parent for p in pathlib.Path(folder).glob("*/model.onnx"))
    assert folders, f"{folder} holds no models"
    all = [(check(f), f.name) for f in folders if (f / "expected.json").exists()]
    for kind, some in ("float32", [d for d in all if not d[1].endswith("half-true")]), ("float16", [d for d in all if d[1].endswith("half-true")]):
        if some:
            print(f"onnxruntime {onnxruntime.__version__}: {len(some)} models with {kind} weights; the largest difference of a logit is {max(some)[0]:.2g} ({max(some)[1]})")


if __name__ == "__main__":
    main(sys.argv[1])
