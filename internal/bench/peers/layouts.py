"""Reads data sets for the peers, in three of the layouts of docs/layouts.md.

  imagefolder   train/CLASS/…, val/CLASS/… and test/CLASS/…
  vtab          train800.txt, val200.txt and test.txt with lines "path label"
  fgvc          train.json, val.json and test.json with objects {"path": class id}

The classes are those of spt: the sorted folders of the training images, the numbers of the lists,
or the sorted ids of train.json. Each split must exist.
"""

import concurrent.futures
import json
import pathlib

import numpy
from PIL import Image, ImageOps

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"}


def read(folder):
    """read returns the number of classes, and for each split a list of pairs (path, class id)."""
    folder = pathlib.Path(folder)
    if (folder / "train800.txt").exists():
        splits = read_vtab(folder)
        classes = 1 + max(label for pairs in splits.values() for _, label in pairs)
    else:
        splits = read_fgvc(folder) if (folder / "train.json").exists() else read_imagefolder(folder)
        known = {name: k for k, name in enumerate(sorted({name for _, name in splits["train"]}))}
        for split, pairs in splits.items():
            if unknown := {name for _, name in pairs} - known.keys():
                raise SystemExit(f"reading {folder}: split {split} has classes without a training image: {sorted(unknown)}")
            splits[split] = [(path, known[name]) for path, name in pairs]
        classes = len(known)
    for split, pairs in splits.items():
        if not pairs:
            raise SystemExit(f"reading {folder}: split {split} has no images; give a data set with all splits")
    return classes, splits


def read_vtab(folder):
    def pairs(name):
        lines = (line.rpartition(" ") for line in (folder / name).read_text().splitlines() if line.strip())
        return [(folder / path, int(label)) for path, _, label in lines]

    return {"train": pairs("train800.txt"), "val": pairs("val200.txt"), "test": pairs("test.txt")}


def read_fgvc(folder):
    lists = {split: json.loads((folder / f"{split}.json").read_text()) for split in SPLITS}
    first = next(iter(lists["train"]))
    roots = [root for root in (folder / "images", folder / "Images", folder) if (root / first).exists()]
    if not roots:
        raise SystemExit(f"reading {folder}: {first} is not in images, Images or the folder")
    return {split: [(roots[0] / path, name) for path, name in entries.items()] for split, entries in lists.items()}


def read_imagefolder(folder):
    def images(top):
        found = sorted(p for p in top.rglob("*") if p.suffix.lower() in EXTENSIONS)
        return [p for p in found if not any(part.startswith(".") for part in p.relative_to(top).parts)]

    splits = {}
    for split, names in SPLITS.items():
        folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower() in names]
        if len(folders) != 1:
            raise SystemExit(f"reading {folder}: {len(folders)} folders are named {' or '.join(names)}, expected one")
        splits[split] = [(path, path.relative_to(folders[0]).parts[0]) for path in images(folders[0])]
    return splits


def pixels(pairs, size, threads):
    """pixels returns the images as bytes [n, size, size, 3], resized with Pillow's bicubic filter."""

    def one(pair):
        with Image.open(pair[0]) as image:
            return numpy.asarray(ImageOps.exif_transpose(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return numpy.stack(list(pool.map(one, pairs)))
