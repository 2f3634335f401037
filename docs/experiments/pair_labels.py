"""Makes a data set with several labels for each image from one with a single label.

    python3 pair_labels.py DATA OUT [--size 224] [--limit N] [--seed 0]

An image of OUT is two images of DATA side by side, of different classes and of the same split; its labels are the two
classes. One of ten images has a grey right half and one label. DATA has class folders, at the top or in train, val and
test; VTAB lists (train800.txt, val200.txt, test.txt); or FGVC lists (train.json, val.json, test.json). OUT gets the
folder images and the tables train.csv, val.csv and test.csv, with the labels separated by "|":

    spt tune --model CHECKPOINT --data OUT --label-delimiter "|"

Each image of a split is the left half once, so OUT has as many images. --limit takes only N images of each split. Made
with Python 3.11 and Pillow 13.0.0. several_labels.yaml compares methods on the result.
"""

import argparse, csv, json, pathlib, random

from PIL import Image, ImageOps

SPLITS = "train", "val", "test"
LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
EXTENSIONS = ".jpg", ".jpeg", ".png", ".bmp", ".webp"


def folders(top):
    for folder in sorted(p for p in top.iterdir() if p.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in EXTENSIONS:
                yield path, folder.name


def read(data):
    """Returns the images and classes of each split, as lists of (path, name)."""
    names = data / "classes.txt"
    names = names.read_text().split("\n") if names.exists() else []

    def name(label):
        label = int(label)
        return names[label].strip() if label < len(names) and names[label].strip() else str(label)

    if (data / LISTS["train"]).exists():
        lines = {s: [l.rsplit(" ", 1) for l in (data / f).read_text().splitlines() if l] for s, f in LISTS.items()}
        return {s: [(data / p, name(label)) for p, label in all] for s, all in lines.items()}
    if (data / "train.json").exists():
        found = {s: json.loads((data / f"{s}.json").read_text()) for s in SPLITS if (data / f"{s}.json").exists()}
        places = data / "images"
        return {s: [(next(q for q in (data / p, places / p) if q.exists()), name(l)) for p, l in all.items()] for s, all in found.items()}
    if (data / "train").is_dir():
        return {s: list(folders(data / s)) for s in SPLITS if (data / s).is_dir()}
    return {"train": list(folders(data))}  # spt makes the other splits


def half(path, size):
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((size, size), Image.BICUBIC)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("data", type=pathlib.Path)
    a.add_argument("out", type=pathlib.Path)
    a.add_argument("--size", type=int, default=224, help="the side of each half in pixels")
    a.add_argument("--limit", type=int, help="the largest number of images of each split")
    a.add_argument("--seed", type=int, default=0)
    a = a.parse_args()
    for split, images in read(a.data).items():
        rng = random.Random(f"{a.seed} {split}")
        rng.shuffle(images)
        images = images[: a.limit]
        if len({label for _, label in images}) < 2:
            raise SystemExit(f"the split {split} of {a.data} needs images of at least two classes")
        rows = []
        for i, (path, label) in enumerate(images):
            whole, labels = Image.new("RGB", (2 * a.size, a.size), (128, 128, 128)), [label]
            whole.paste(half(path, a.size), (0, 0))
            if i % 10 != 9:
                other, second = rng.choice(images)
                while second == label:
                    other, second = rng.choice(images)
                whole.paste(half(other, a.size), (a.size, 0))
                labels.append(second)
            name = f"images/{split}/{i:05d}.jpg"
            (a.out / name).parent.mkdir(parents=True, exist_ok=True)
            whole.save(a.out / name, quality=92)
            rows.append((name, "|".join(labels)))
        with open(a.out / f"{split}.csv", "w", newline="") as f:
            csv.writer(f).writerows([("path", "label"), *rows])
        print(f"{split}: {len(rows)} images")


if __name__ == "__main__":
    main()
