#!/usr/bin/env python3
"""Predicts the classes of images with timm and PyTorch, as people do it.

  predict_timm.py --model FILE --classes N [--workers 2] [--batch 32] [--threads 2] IMAGE...

FILE is a safetensors file whose name is timm's name of the model. The head has N classes and random
weights: only the time counts. The images are resized to a square as spt does by default. The script
prints a line for each image, as `spt predict` does, with the most probable class. Time the whole
process: it begins with the imports.
"""

import argparse
import pathlib

import timm
import torch
from PIL import Image, ImageOps
from torchvision import transforms


class Images(torch.utils.data.Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            return self.transform(ImageOps.exif_transpose(image).convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = timm.create_model(pathlib.Path(args.model).stem, checkpoint_path=args.model)
    model.reset_classifier(args.classes)
    model.eval()
    config = timm.data.resolve_model_data_config(model)
    transform = transforms.Compose([
        transforms.Resize(config["input_size"][1:], transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(config["mean"], config["std"]),
    ])
    loader = torch.utils.data.DataLoader(Images(args.images, transform), batch_size=args.batch, num_workers=args.workers)
    paths = iter(args.images)
    with torch.inference_mode():
        for batch in loader:
            best = model(batch).softmax(1).max(1)
            for p, k in zip(best.values.tolist(), best.indices.tolist()):
                print(f"{next(paths)}\t{k} {p:.2%}")


if __name__ == "__main__":
    main()
