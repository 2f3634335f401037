#!/usr/bin/env python3
"""Measures which learning rates suit short trainings, for the rule of the recipe auto.

  learning_rates.py SPT MODEL DATA OUT.csv

DATA is a folder with the data sets fashion_mnist and grocery, which no table of docs/benchmarks.md
about the recipe uses. Each run trains on the training images and validates; nothing is tested. A run
that has a row in OUT.csv is not repeated.
"""

import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile

COLUMNS = ["set", "size", "steps", "batch", "lr", "drop", "probe_head", "probe_accuracy", "val_accuracy", "val_loss"]


def runs():
    """Returns the runs: set, size, steps, batch, learning rate, drop rates, head of a probe."""
    sets = ["fashion_mnist", "grocery"]
    for s in sets:
        yield from [(s, 96, 250, 16, 3e-3, 0.1, True), (s, 96, 250, 16, 3e-3, 0.0, True), (s, 96, 250, 16, 3e-3, 0.1, False)]
    for steps, batch, lr, s in itertools.product((60, 250), (8, 32), (1e-3, 3e-3, 1e-2), sets):
        yield s, 96, steps, batch, lr, 0.0, True
    for lr, s in itertools.product((1e-3, 3e-3), sets):
        yield s, 96, 1000, 8, lr, 0.0, True
    for steps, lr, s in itertools.product((100, 400), (1.5e-3, 3e-3, 6e-3), sets):
        yield s, 128, steps, 16, lr, 0.1, True


def measure(spt, model, data, run):
    name, size, steps, batch, lr, drop, probe = run
    config = {
        "model": {"path": model, "image_size": size},
        "data": {"path": os.path.join(data, name)},
        "tune": {"recipe": "vtab", "method": "spt-lora", "budgets": ["0.1M"], "probe": probe, "validation_only": True,
                 "train": {"epochs": 100, "warmup_epochs": 10, "steps": steps, "batch_size": batch, "lr": lr,
                           "drop_path": drop, "dropout": drop, "module_drop_path": drop}},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.json")
        with open(path, "w") as f:
            json.dump(config, f)
        out = subprocess.run([spt, "tune", "--config", path, "--out", os.path.join(folder, "run"), "--json", "-q", "--no-report"],
                             capture_output=True, text=True, check=True).stdout
    result = json.loads(out)["result"]
    best = result["candidates"][0]
    head = result["probe"]["val_accuracy"] if probe else ""
    return [*run, head, best["val_accuracy"], best["val_loss"]]


def main():
    spt, model, data, path = sys.argv[1:]
    done = set()
    if os.path.exists(path):
        with open(path) as f:
            done = {tuple(row[:7]) for row in csv.reader(f)}
    else:
        with open(path, "w") as f:
            csv.writer(f, lineterminator="\n").writerow(COLUMNS)
    for run in runs():
        if tuple(str(v) for v in run) not in done:
            row = measure(spt, model, data, run)
            with open(path, "a") as f:
                csv.writer(f, lineterminator="\n").writerow(row)


main()
