"""Holds exports against their real readers.

    python readers.py images FOLDER/images      # makes 16 images
    SPT_READERS=FOLDER go test ./export         # leaves the exports and what spt computes
    python readers.py check FOLDER              # loads every export with its reader

Each check compares logits from the same pixels to 1e-4, and the probabilities that the reader's own
image processor gives for the images to 2e-3.
"""

import json
import os
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

LOGITS, PROBABILITIES = 1e-4, 2e-3


def images(folder):
    """Makes 16 smooth images with noise, of several sizes: PNG and JPEG, RGB and grey."""
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(1)
    for i in range(16):
        width, height = int(rng.integers(64, 300)), int(rng.integers(64, 300))
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((width, height), Image.BICUBIC), dtype=np.int16)
        pixels = np.clip(pixels + rng.integers(-20, 21, pixels.shape), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).convert("L" if i % 8 == 7 else "RGB")
        image.save(os.path.join(folder, f"{i:02d}.{'png' if i % 2 else 'jpg'}"))


def normalised(expected):
    """Returns the probe images as the input of a model of PyTorch."""
    pixels = expected["pixels"].permute(0, 3, 1, 2).float() / 255
    return (pixels - expected["mean"].view(1, 3, 1, 1)) / expected["std"].view(1, 3, 1, 1)


def hold(folder, logits, probabilities, note=""):
    """Compares logits [n, classes] and the probabilities of each image file with those of spt."""
    expected = load_file(os.path.join(folder, "expected.safetensors"))
    worst = (logits - expected["logits"]).abs().max().item()
    assert worst <= LOGITS, f"{folder}: logits differ by {worst}"
    with open(os.path.join(folder, "predictions.json")) as f:
        predictions = json.load(f)
    assert len(predictions) == 16, f"{folder}: {len(predictions)} predictions"
    apart = 0
    for path, top in predictions.items():
        got = probabilities(path)
        assert max(got, key=got.get) == top[0]["class"], f"{folder}: {path}: {got}, spt {top}"
        assert len(got) == len(top)
        apart = max([apart] + [abs(got[p["class"]] - p["probability"]) for p in top])
    assert apart <= PROBABILITIES, f"{folder}: probabilities differ by {apart}"
    print(f"{os.path.basename(folder)}: logits {worst:.2g}, probabilities {apart:.2g}{note}")


def check_transformers(folder):
    """Loads a folder of the format transformers."""
    from transformers import AutoModelForImageClassification, pipeline

    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    left = {k: v for k, v in info.items() if v}
    assert not left, f"{folder}: {left}"
    with open(os.path.join(folder, "config.json")) as f:
        assert type(model).__name__ == json.load(f)["architectures"][0]
    with torch.no_grad():
        logits = model.eval()(normalised(load_file(os.path.join(folder, "expected.safetensors")))).logits
    classify = pipeline("image-classification", model=folder)

    def probabilities(path):
        return {row["label"]: row["score"] for row in classify(path, top_k=None)}

    hold(folder, logits, probabilities, differences(folder))


def differences(folder):
    """Returns, in words, how far the pixels of the default image processor of Transformers are from
    those of Pillow, whose resize spt computes: the largest difference and the share of values."""
    from transformers import AutoImageProcessor

    default, pillow = (AutoImageProcessor.from_pretrained(folder, backend=b) for b in ("torchvision", "pil"))
    worst, count, of = 0, 0, 0
    folder = os.path.join(os.path.dirname(folder), "images")
    for name in os.listdir(folder):
        image = Image.open(os.path.join(folder, name)).convert("RGB")
        a, b = (p(image, return_tensors="pt")["pixel_values"][0] for p in (default, pillow))
        apart = (a - b).abs() * 255 * torch.tensor(pillow.image_std).view(3, 1, 1)
        worst, count, of = max(worst, apart.max().item()), count + (apart > 0.5).sum().item(), of + apart.numel()
    return f"; pixels of torchvision's resize differ by up to {worst:.0f} of 255, {count / of:.1%} of them"


def check_peft(folder):
    """Runs the code that loads a folder of the format peft. PEFT has no image processor."""
    names = {}
    with open(os.path.join(folder, "load.py")) as f:
        exec(f.read(), names)
    expected = load_file(os.path.join(folder, "expected.safetensors"))
    with torch.no_grad():
        logits = names["model"](normalised(expected))
    worst = (logits - expected["logits"]).abs().max().item()
    assert worst <= LOGITS, f"{folder}: logits differ by {worst}"
    # Every tensor of the folder must be in the model: what PEFT does not know, it leaves out.
    tensors = load_file(os.path.join(folder, "adapter_model.safetensors"))
    state = {k.replace(".default", "").replace(".modules_to_save", ""): v for k, v in names["model"].state_dict().items()}
    lost = [k for k, v in tensors.items() if k not in state or not torch.equal(state[k], v)]
    assert not lost, f"{folder}: PEFT does not restore {lost}"
    print(f"{os.path.basename(folder)}: logits {worst:.2g}")


def check(root):
    """Checks every export below root, whose folders begin with the name of their format."""
    checks = {name.removeprefix("check_"): f for name, f in globals().items() if name.startswith("check_")}
    done = 0
    for name in sorted(os.listdir(root)):
        if os.path.exists(os.path.join(root, name, "expected.safetensors")):
            checks[name.split("-")[0]](os.path.join(root, name))
            done += 1
    assert done > 0, f"{root} has no exports"


if __name__ == "__main__":
    {"images": images, "check": check}[sys.argv[1]](sys.argv[2])
