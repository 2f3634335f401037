"""Halves of data sets, to choose between methods without test images.

    python3 halves.py DATA OUT

DATA holds the data sets below. For each of them, the training and validation images are split into
two halves, class by class. OUT/dev_NAME trains on the first half and validates on the second one,
OUT/dew_NAME the other way round. The images are links. selection_halves.yaml runs on them.
"""
import json
import os
import random
import sys

source, out = (os.path.abspath(folder) for folder in sys.argv[1:3])


def listed(name):
    """The images of VTAB-1k lists: (path, class)."""
    with open(f"{source}/{name}/train800val200.txt") as lines:
        for path, label in map(str.split, lines):
            yield f"{source}/{name}/{path}", f"{int(label):03d}"


def in_folders(name):
    """The images of class folders."""
    for split in ("train", "val"):
        for label in os.listdir(f"{source}/{name}/{split}"):
            for file in os.listdir(f"{source}/{name}/{split}/{label}"):
                yield f"{source}/{name}/{split}/{label}/{file}", label


def in_json(name):
    """The images of FGVC JSON files."""
    for split in ("train", "val"):
        with open(f"{source}/{name}/{split}.json") as file:
            for path, label in json.load(file).items():
                yield f"{source}/{name}/{path}", f"{int(label):03d}"


sets = {"sign_digits": listed, "fashion_mnist": listed, "caltech101": listed, "clothing": in_folders, "grocery": in_json}
rng = random.Random(1)  # one generator for all sets, in this order
for name, images in sets.items():
    by_class = {}
    for path, label in images(name):
        if not os.path.exists(path):  # lists leave out the folder "images"
            path = path.replace(f"/{name}/", f"/{name}/images/", 1)
        by_class.setdefault(label, []).append(path)
    for label, paths in sorted(by_class.items()):
        paths.sort()
        rng.shuffle(paths)
        half = max(1, (len(paths) + (rng.random() < 0.5)) // 2)
        for i, path in enumerate(paths):
            split = "train" if i < half else "val"
            folder = f"{out}/dev_{name}/{split}/{label}"
            os.makedirs(folder, exist_ok=True)
            os.symlink(path, f"{folder}/{os.path.basename(os.path.dirname(path))}_{os.path.basename(path)}")
    os.makedirs(f"{out}/dew_{name}")
    os.symlink(f"../dev_{name}/val", f"{out}/dew_{name}/train")
    os.symlink(f"../dev_{name}/train", f"{out}/dew_{name}/val")
