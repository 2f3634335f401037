#!/usr/bin/env python3
"""Compares spt tune with its linear probe on folders of few images, and makes the table.

  small_folders.py run --data DATA --model FILE --spt SPT --out DIR --csv FILE [-- FLAGS…]
  small_folders.py table FILE

run draws five classes of each data set in DATA, and 20 or 3 training images of each class. All
other images of these classes, at most 100 each, are test images. Then it runs `spt tune` with the
recipe auto and the flags after --. The probe and the result are tested on the same images. Runs
that have a row in the CSV file are not repeated. Python 3.9 or newer; a data set is a folder that
`spt data info` reads.

The columns of the CSV file: probe and test are test accuracies in percent, kept is the method of the
delta: linear if the probe was kept.
"""

import argparse
import csv
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys

COLUMNS = ["set", "images", "seed", "probe", "test", "kept", "seconds"]
CLASSES, TESTS = 5, 100


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    r = commands.add_parser("run", help="measure")
    r.add_argument("--data", type=pathlib.Path, required=True)
    r.add_argument("--model", required=True)
    r.add_argument("--spt", default="spt")
    r.add_argument("--out", type=pathlib.Path, required=True)
    r.add_argument("--csv", type=pathlib.Path, required=True)
    r.add_argument("--sets", default="clothing,sign_digits,fashion_mnist")
    r.add_argument("--images", default="20,3", help="training images of each class")
    r.add_argument("--seeds", default="0,1")
    r.add_argument("flags", nargs="*")
    t = commands.add_parser("table", help="make the table in Markdown")
    t.add_argument("csv", type=pathlib.Path)
    args = p.parse_args()
    if args.command == "run":
        run(args)
    else:
        print_table(args.csv)


def run(args):
    done = set()
    if args.csv.exists():
        done = {(row["set"], row["images"], row["seed"]) for row in read(args.csv)}
    else:
        append(args.csv, COLUMNS)
    for seed in args.seeds.split(","):
        for name in args.sets.split(","):
            for images in args.images.split(","):
                if (name, images, seed) in done:
                    continue
                folder = args.out / f"{name}-{images}-{seed}"
                shutil.rmtree(folder, ignore_errors=True)
                draw(args.data / name, folder / "data", int(images), int(seed))
                command = [args.spt, "tune", "--model", args.model, "--data", str(folder / "data"), "--seed", seed, "--out", str(folder / "run"), "--json", "-q", "--no-report", *args.flags]
                text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                result = json.loads(text)["result"]
                kept = result["method"]
                test = result["test"]["accuracy"]
                probe = test if kept == "linear" else result["probe_test"]["accuracy"]
                append(args.csv, [name, images, seed, f"{100 * probe:.2f}", f"{100 * test:.2f}", kept, f"{result['seconds']:.0f}"])
                print(name, images, seed, probe, test, kept, file=sys.stderr)


def draw(source, target, images, seed):
    """draw links the images of a small data set into train and test folders of classes."""
    by_class = {}
    for path, label in labelled(source):
        by_class.setdefault(label, []).append(path)
    rng = random.Random(seed)
    for label in rng.sample(sorted(by_class), CLASSES):
        paths = sorted(by_class[label])
        rng.shuffle(paths)
        for split, chosen in (("train", paths[:images]), ("test", paths[images : images + TESTS])):
            folder = target / split / label
            folder.mkdir(parents=True)
            for k, path in enumerate(chosen):  # images of two folders can have the same name
                (folder / f"{k:03d}-{path.name}").symlink_to(path.resolve())


def labelled(source):
    """labelled yields the paths and classes of a data set: class folders, or lists of "path label"."""
    lists = sorted(set(source.glob("*.txt")) - {source / "classes.txt", source / "SOURCE.txt"})
    seen = set()
    for file in lists:
        for line in file.read_text().splitlines():
            path, label = line.rsplit(" ", 1)
            if path not in seen:
                seen.add(path)
                yield source / path, label
    if not lists:
        for path in sorted(source.glob("*/*/*")):
            yield path, path.parent.name


def read(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def append(path, values):
    with open(path, "a", newline="") as f:
        csv.writer(f, lineterminator="\n").writerow(values)


def print_table(path):
    """print_table prints the means over sets and seeds, in percent."""
    print("| images of each class | runs | probe | result | difference, mean (least) | probe kept |")
    print("|---|---|---|---|---|---|")
    rows = read(path)
    for images in sorted({row["images"] for row in rows}, key=int, reverse=True):
        group = [row for row in rows if row["images"] == images]
        probe, test = ([float(row[name]) for row in group] for name in ("probe", "test"))
        gains = [b - a for a, b in zip(probe, test)]
        kept = sum(row["kept"] == "linear" for row in group)
        print(f"| {images} | {len(group)} | {statistics.mean(probe):.1f} | {statistics.mean(test):.1f} | {statistics.mean(gains):+.1f} ({min(gains):+.1f}) | {kept} |")


main()
