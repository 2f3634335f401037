#!/usr/bin/env python3
"""Fits scikit-learn's logistic regression to the features of a frozen timm backbone.

The features are timm's: the class token after the last norm, standardised. C is the value of a grid
with the best accuracy on the validation images. The regression is then
fitted to the training and validation images together, and tested once. If the time is too short
for all images, the script computes the features of a random part of them, split as the data set
is. timed.py describes the command and the result. --model is a safetensors file whose name is
timm's name of the model.
"""

import pathlib
import time

import timed

GRID = [0.1, 0.03, 0.3, 0.01, 1.0, 0.003, 3.0, 0.001, 10.0]  # in the order of the trials
BATCH = 32
# FIT is the share of the time left after the test features that is kept for the regressions, and
# LEAST the least such time in seconds.
FIT, LEAST = 0.15, 1.0


def main():
    args, clock = timed.start(__doc__)
    import numpy
    import timm
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import layouts

    clock.end("imports")
    torch.set_num_threads(args.threads)
    model = timm.create_model(pathlib.Path(args.model).stem, checkpoint_path=args.model)
    model.reset_classifier(0)
    model.set_input_size(img_size=args.image_size)
    model.eval()
    shift = timm.data.resolve_model_data_config(model)
    mean, std = (255 * torch.tensor(shift[name]).view(3, 1, 1) for name in ("mean", "std"))
    clock.end("model")

    def features(pairs, seconds=float("inf")):
        """features returns the features of the images, and stops after this many seconds."""
        end, rows = time.perf_counter() + seconds, []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            for k in range(0, len(pairs), BATCH):
                if rows and time.perf_counter() > end:
                    break
                images = torch.from_numpy(layouts.pixels(pairs[k : k + BATCH], args.image_size, args.threads))
                rows.append(model((images.permute(0, 3, 1, 2).float() - mean) / std).float().numpy())
        return numpy.concatenate(rows)

    # The features of the test images come first, so that the time for the others is known.
    classes, splits = layouts.read(args.data)
    test = features(splits["test"])
    clock.end("test features")
    if clock.left() < 2 * LEAST:
        clock.refuse(f"the features of the test images took {clock.phases['test features']:.0f} s")
    order = numpy.random.default_rng(args.seed)
    images = [(pair, split) for split in ("train", "val") for pair in splits[split]]
    images = [images[k] for k in order.permutation(len(images))]
    x = features([pair for pair, _ in images], clock.left() - max(LEAST, FIT * clock.left()))
    images = images[: len(x)]
    y = numpy.array([label for (_, label), _ in images])
    held = numpy.array([split == "val" for _, split in images])
    clock.end("features")

    def fit(c, rows):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(x[rows], y[rows])

    chosen, best, slowest = 0.0, -1.0, 0.0
    for c in GRID:
        if slowest and clock.left() < 4 * slowest:  # for this regression and the last, which has more images
            break
        begin = time.perf_counter()
        score = float(fit(c, ~held).score(x[held], y[held]))
        slowest = max(slowest, time.perf_counter() - begin)
        if score > best:
            chosen, best = c, score
    regression = fit(chosen, slice(None))
    clock.end("regressions")
    accuracy = float(regression.score(test, [label for _, label in splits["test"]]))
    clock.end("test")
    timed.finish(
        args, clock, ["torch", "timm", "scikit-learn", "numpy", "pillow"],
        tool="scikit-learn", accuracy=accuracy, val_accuracy=best, c=chosen, steps=0, classes=classes,
        images={"train": int((~held).sum()), "val": int(held.sum()), "test": len(test)},
    )


main()
