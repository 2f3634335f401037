"""Prints the accuracy of a linear probe of a ViT checkpoint on image sets.

Usage: python internal/embedded/probe.py FILE [--size PX] DATA…, with torch 2.15.0, timm 1.0.31, scikit-learn 1.9.1 and
safetensors. Pillow decodes and resizes the images.

FILE is a checkpoint in timm's naming, such as vit_demo.safetensors. DATA is a folder in one of three layouts:
    train800.txt, val200.txt, test.txt    lines "PATH LABEL"
    train.json, val.json, test.json       {"NAME": LABEL}, with the images in images/
    train/, val/, test/                   a folder for each class
The probe is a logistic regression on the standardised class token after the last norm. It is fitted to the training
images. The validation images choose its regularisation. The test images are read once. With --size, the position
embedding is interpolated.
"""

import argparse
import json
import pathlib
import warnings

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer


def splits(folder):
    """Returns the lists of (path, label) of the training, validation and test images."""
    if (folder / "train800.txt").exists():
        lists = [(folder / f).read_text().splitlines() for f in ("train800.txt", "val200.txt", "test.txt")]
        return [[(folder / line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1])) for line in lines] for lines in lists]
    if (folder / "train.json").exists():
        labels = [json.loads((folder / f).read_text()) for f in ("train.json", "val.json", "test.json")]
        return [[(folder / "images" / name, label) for name, label in split.items()] for split in labels]
    classes = sorted(d.name for d in (folder / "train").iterdir())
    return [[(path, label) for label, name in enumerate(classes) for path in sorted((folder / split / name).iterdir())]
            for split in ("train", "val", "test")]


def load(file, size):
    """Returns the model at an image size, or at its own for 0, and the size."""
    weights = {name: tensor.float() for name, tensor in load_file(file).items()}
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    own = round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch
    size = size or own
    if size != own:
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [size // patch, size // patch])
    model = VisionTransformer(img_size=size, patch_size=patch, embed_dim=width, num_heads=width // 32,
                              depth=sum(name.endswith("norm1.weight") for name in weights),
                              num_classes=len(weights["head.bias"]))
    model.load_state_dict(weights)
    return model.eval(), size


@torch.no_grad()
def features(model, size, samples):
    out = []
    for start in range(0, len(samples), 100):
        images = [Image.open(path).convert("RGB").resize((size, size), Image.BICUBIC)
                  for path, _ in samples[start:start + 100]]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        out.append(model.forward_features(pixels.float() / 127.5 - 1)[:, 0])
    return torch.cat(out).numpy()


def main():
    warnings.filterwarnings("ignore")  # of fits that stop before they converge
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("data", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=0)
    options = parser.parse_args()
    model, size = load(options.file, options.size)
    for folder in options.data:
        samples = splits(folder)
        train, val, test = [features(model, size, split) for split in samples]
        y_train, y_val, y_test = [[label for _, label in split] for split in samples]
        mean, std = train.mean(0), train.std(0) + 1e-6
        train, val, test = [(x - mean) / std for x in (train, val, test)]
        probes = [LogisticRegression(C=c, max_iter=150).fit(train, y_train) for c in (0.01, 0.1, 1, 10)]
        best = max(probes, key=lambda probe: probe.score(val, y_val))
        print(f"{folder.name:15s} {size} px: validation {100 * best.score(val, y_val):.1f}, "
              f"test {100 * best.score(test, y_test):.2f}", flush=True)


main()
