"""Checks what 'spt export' writes with the programs that read it. .ci/export calls

    python export/testdata/check.py SPT [--only TEXT]

with SPT the program spt. The script tunes the tiny random backbones of internal/fixtures for three
epochs, with every method that a backbone of each family can have, and exports the results in every
format. Each program that reads a format opens image files with its own image processor:

  photos  16 PNG and JPEG files: the class of 'spt predict --json', and its probabilities to 2e-3,
          or to 1e-2 where torchvision resizes
  pixels  PNG files that no step of the transform changes: the logits of 'spt eval' to 1e-4

A format is a row of FORMATS: a function that opens an exported folder and returns readers. A reader
is a name and a function from paths of image files to logits [images, classes]. --only runs the
cases whose name contains TEXT.

Versions are in .ci/export-requirements.txt.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
warnings.filterwarnings("ignore")

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "internal/fixtures/testdata/backbones"
# Hostile names: characters of Markdown, HTML, JSON and YAML, and letters beyond ASCII.
CLASSES = ["bleu é 青", "gr|e`en_*", "red & <b>"]
PROBABILITY, LOGIT = 2e-3, 1e-4
SPREAD = 1e-2  # least standard deviation of a probability over the images
TORCHVISION = 1e-2  # of a probability: its resize gives other pixels than Pillow's, which spt computes
HALF = 5e-2  # of a logit or a probability with weights in float16


class Case:
    """One tuned backbone: the fixture, the method, and the transform of its images."""

    def __init__(self, fixture, method="spt-lora", resize="direct", scale=1.0, size=None, half=False):
        self.fixture, self.method, self.resize, self.scale, self.half = fixture, method, resize, scale, half
        self.info = json.loads((FIXTURES / fixture / "fixture.json").read_text())
        self.size = size or self.info["image_size"]
        self.before = round(self.size * scale)  # side of the image before the crop
        self.name = f"{fixture} {method} {resize}" + (f" {size} px" if size else "") + (" half" if half else "")

    def flags(self, model):
        flags = ["--model", str(model), "--method", self.method, "--resize", self.resize]
        if self.resize != "direct":
            flags += ["--resize-to", str(self.before)]
        if self.size != self.info["image_size"]:
            flags += ["--image-size", str(self.size)]
        if self.info["family"] == "vit":
            flags += ["--num-heads", str(self.info["num_heads"][0])]
        if self.method.startswith("spt"):
            flags += ["--budget", "20%"]
        if self.method in ("lora", "adapter"):
            flags += ["--rank", "2"]
        if self.method.startswith("vpt"):
            flags += ["--prompts", "2"]
        # The layers of an MLP head are new, so three epochs teach it nothing.
        flags += ["--epochs", "10" if self.method.startswith("mlp") else "3"]
        return flags

    def merges(self):
        if self.method == "ssf" and self.info["family"] == "swin":
            return False  # a Swin has a linear layer without a bias
        return self.method not in ("spt-adapter", "spt-adapter-structured", "adapter", "adaptformer", "vpt-shallow", "vpt-deep", "mlp-3")


def cases():
    methods = ["spt-lora", "spt-lora-structured", "spt-unstructured", "lora", "ssf", "bitfit", "partial-1", "linear", "full",
               "spt-adapter", "adaptformer", "vpt-deep", "mlp-3"]
    for fixture in ("vit-cls-timm", "swin-even-timm", "convnext-v1-timm"):
        for method in methods:
            if fixture.startswith("vit") or method not in ("vpt-deep", "adaptformer"):
                yield Case(fixture, method)
    # Every variant once, and the namings of other libraries, whose eps and shapes differ.
    for fixture in ("vit-avg-timm", "vit-distilled-timm", "vit-distilled-hf5", "vit-dinov2-timm", "vit-dinov2-hf5",
                    "vit-dinov2reg-timm", "vit-dinov2reg-hf5", "vit-dinov2swiglu-timm", "vit-nocls-timm", "vit-noqkvbias-timm",
                    "vit-patchpos-timm", "vit-prenorm-timm", "vit-qknorm-timm", "vit-quickgelu-timm", "vit-cls-hf5",
                    "swin-padded-timm", "swin-padded-hf5", "swin-even-hf5", "convnext-v2-timm", "convnext-v2-timmconv", "convnext-v1-hf",
                    "convnext-v2-hf", "convnext-mlp-timm"):
        yield Case(fixture)
    for fixture in ("vit-cls-timm", "swin-even-timm", "convnext-v1-timm"):
        # 1.3 and 8/7 do not divide the sizes evenly, and size/before is no number of float64.
        yield Case(fixture, "lora", "crop", 1.3)
        yield Case(fixture, "lora", "direct-crop", 8 / 7)
    yield Case("vit-cls-timm", "lora", size=40)
    yield Case("convnext-v1-timm", "lora", size=75)
    # Where timm cannot read the checkpoint, a folder of PEFT holds the backbone.
    for fixture in ("swin-even-hf5", "convnext-v2-timmconv", "vit-dinov2-timm"):
        yield Case(fixture, "lora")
    yield Case("vit-cls-timm", half=True)


# ---- formats: a function opens a folder and returns {name of the reader: files -> logits}. ----


def timm_folder(case, folder, exported):
    """The three lines that spt prints, and the pipeline of Transformers."""
    import torch
    import transformers

    scope = {}
    exec(exported["load"], scope)
    model, transform = scope["model"], scope["transform"]

    def timm_reader(files):
        images = torch.stack([transform(Image.open(f).convert("RGB")) for f in files])
        with torch.inference_mode():
            return model(images).numpy()

    assert model.pretrained_cfg["label_names"] == CLASSES, model.pretrained_cfg
    pipeline = transformers.pipeline("image-classification", model=str(folder))
    assert [pipeline.model.config.id2label[i] for i in range(len(CLASSES))] == CLASSES

    def transformers_reader(files):
        rows = []
        for scored in pipeline([str(f) for f in files], top_k=len(CLASSES), function_to_apply="none"):
            by_class = {s["label"]: s["score"] for s in scored}
            rows.append([by_class[c] for c in CLASSES])
        return np.array(rows)

    check_card(folder)
    return {"timm": timm_reader, "transformers": transformers_reader}


def timm_refuses(case):
    # Hugging Face's DINOv2 has a head that timm does not have, and its Swin pads in another order.
    return 0 if case.merges() and case.fixture not in ("vit-dinov2-hf5", "vit-dinov2reg-hf5", "swin-padded-hf5") else 3


def onnx_folder(case, folder, exported):
    """The lines that spt prints, for each file."""
    import onnx

    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    lines = exported["load"].splitlines()
    each = next(i for i, line in enumerate(lines) if "IMAGE.jpg" in line)  # the lines before load the model
    scope = {}
    exec("\n".join(lines[:each]), scope)
    assert scope["classes"] == CLASSES, scope["classes"]

    def reader(files):
        rows = []
        for f in files:
            exec("\n".join(lines[each:-1]).replace("IMAGE.jpg", str(f)), scope)
            rows.append(scope["logits"][0])
        return np.array(rows)

    return {"onnxruntime": reader}


def transformers_folder(case, folder, exported):
    """The pipeline that spt prints. Its image processor resizes with torchvision."""
    import transformers

    scope = {}
    lines = exported["load"].splitlines()
    exec("\n".join(lines[:-1]), scope)  # without the last line, which opens a photo
    pipeline = scope["classify"]
    model, loading = type(pipeline.model).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    assert [model.config.__class__.__name__, model.__class__.__name__] != ["TimmWrapperConfig", "TimmWrapperForImageClassification"]
    assert [pipeline.model.config.id2label[i] for i in range(len(CLASSES))] == CLASSES
    pillow = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def reader(processor):
        pipeline = transformers.pipeline("image-classification", model=model, image_processor=processor)

        def logits(files):
            rows = []
            for scored in pipeline([str(f) for f in files], top_k=len(CLASSES), function_to_apply="none"):
                by_class = {s["label"]: s["score"] for s in scored}
                rows.append([by_class[c] for c in CLASSES])
            return np.array(rows)

        return logits

    check_card(folder)
    return {"torchvision": reader(pipeline.image_processor), "Pillow": reader(pillow)}


def transformers_refuses(case):
    without = ("vit-avg", "vit-nocls", "vit-prenorm", "vit-qknorm", "vit-quickgelu", "swin-padded-timm", "convnext-mlp")
    if not case.merges() or case.fixture.startswith(without) or case.resize == "crop" or (case.before - case.size) % 4 == 3:
        return 3
    return 0


def peft_folder(case, folder, exported):
    """The code that spt prints. PEFT has no image processor, so Pillow resizes."""
    import safetensors.torch
    import torch

    scope = {}
    exec(exported["load"], scope)
    model = scope["model"]
    with safetensors.safe_open(folder / "adapter_model.safetensors", "pt") as f:
        delta = json.loads(f.metadata()["spt_delta"])
    size, p = delta["config"]["image_size"], delta["preprocessing"]
    before = delta["transform"].get("resize_to", size)
    # PEFT silently leaves out the tensors that it does not know.
    state = {k.replace(".default", "").replace(".modules_to_save", ""): v for k, v in model.state_dict().items()}
    for name, x in safetensors.torch.load_file(folder / "adapter_model.safetensors").items():
        assert torch.equal(state[name], x), name

    def logits(files):
        images = []
        for f in files:
            image = Image.open(f).convert("RGB")
            if case.resize == "crop":
                w, h = image.size
                short = min(w, h)
                image = image.resize((before * w // short, before * h // short), Image.BICUBIC)
            else:
                image = image.resize((before, before), Image.BICUBIC)
            left, top = (round((side - size) / 2) for side in image.size)
            image = image.crop((left, top, left + size, top + size))
            images.append((np.asarray(image) / 255 - p["mean"]) / p["std"])
        with torch.inference_mode():
            return model(torch.tensor(np.stack(images), dtype=torch.float32).permute(0, 3, 1, 2)).numpy()

    check_card(folder)
    return {"PEFT": logits}


def peft_refuses(case):
    if case.method in ("lora", "bitfit"):
        return 0
    # With a class token, SPT tunes it. In a ConvNeXt it can select a layer scale, as here.
    return 0 if case.method == "spt-lora-structured" and case.fixture.startswith("swin") else 3


# name: (function that opens a folder, function that returns the exit code of the export of a case: 0,
# 3 if the format cannot hold it, 1 if the logits would move)
FORMATS = {
    "timm": (timm_folder, timm_refuses),
    "onnx": (onnx_folder, lambda case: 0),
    "transformers": (transformers_folder, transformers_refuses),
    "peft": (peft_folder, peft_refuses),
}

# ---- the check ----


def check_card(folder):
    """Parses a model card as the Hub does, and renders it as Markdown."""
    from huggingface_hub import ModelCard
    from markdown_it import MarkdownIt

    text = (folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name and card.data.pipeline_tag == "image-classification" and "image-classification" in card.data.tags, card.data
    assert card.data.license is None and "\n# license: " in text, "the licence is left to the user"
    tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
    kinds = [t.type for t in tokens]
    assert kinds.count("table_open") == 4, f"{kinds.count('table_open')} tables: data, results, method, training"
    # Each class is one item of a list, and is shown as its plain name.
    shown = []
    for at, t in enumerate(tokens):
        if t.type == "list_item_open" and t.info:
            line = tokens[at + 2]
            assert {c.type for c in line.children} <= {"text", "text_special"}, line.children
            shown.append("".join(c.content for c in line.children))
    assert shown == CLASSES, shown


def lively(fixture, folder):
    """Copies a fixture with a larger gain, and returns the path of its weights.

    The logits of the fixtures hardly depend on the image, so a wrong transform would not show.
    """
    from safetensors.numpy import load_file, save_file

    shutil.copytree(FIXTURES / fixture, folder, ignore=shutil.ignore_patterns("expected*", "fixture*"))
    weights = load_file(folder / "model.safetensors")
    for name, w in weights.items():
        if w.ndim in (2, 4) and w.dtype == np.float32 and "bias" not in name:
            gain = 4 if w.ndim == 4 and w.shape[-1] > 1 else 1.5
            weights[name] = w * np.float32(gain / (w.std() * math.sqrt(w[0].size) + 1e-12))
        elif "pos_embed" in name or "position_embeddings" in name:
            weights[name] = w * np.float32(0.3 / (w.std() + 1e-12))
        elif w.ndim == 1 and ("gamma" in name or "lambda" in name or "layer_scale" in name):
            weights[name] = w * np.float32(0.5 / (np.abs(w).mean() + 1e-12))  # layer scale
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"


def run(*words, code=0):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(map(str, words))}\nexited with {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done


def photo(rng, width, height, kind):
    """A smooth image with edges: decoders differ most at edges."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = np.stack([60 + 50 * np.sin(3 * x * (i + 1) + rng.uniform(0, 6)) * np.cos(4 * y) for i in range(3)], -1)
    image[..., kind] += 90
    for _ in range(4):
        left, top = rng.uniform(0, 0.8, 2)
        image[(x > left) & (x < left + 0.2) & (y > top) & (y < top + 0.2)] += rng.uniform(-60, 60, 3)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def write_images(folder):
    """Writes a data set of 24 photos. Files of both formats, all larger than the models' images."""
    rng = np.random.default_rng(7)
    files = []
    for kind, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(8):
            path = folder / name / f"{n}.{'png' if n % 2 else 'jpg'}"
            image = photo(rng, int(rng.integers(100, 200)), int(rng.integers(100, 200)), kind)
            image.save(path, **({} if n % 2 else {"quality": 90}))
            files.append(path)
    return files[:6] + files[8:13] + files[16:21]


def write_exact(folder, side):
    """Writes images that the resize leaves as they are."""
    rng = np.random.default_rng(side)
    for kind, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(4):
            photo(rng, side, side, kind).save(folder / name / f"{n}.png")
    return folder


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("spt")
    arguments.add_argument("--only", default="")
    arguments = arguments.parse_args()
    spt = pathlib.Path(arguments.spt).resolve()
    work = pathlib.Path(tempfile.mkdtemp(prefix="export."))
    began = time.monotonic()
    worst = {}  # (format, reader, kind of check) -> largest difference
    refusals, exports = {name: 0 for name in FORMATS}, {name: 0 for name in FORMATS}
    try:
        photos = write_images(work / "data")
        exact, models = {}, {}
        for n, case in enumerate(c for c in cases() if arguments.only in c.name):
            delta = work / f"run{n}"
            if case.fixture not in models:
                models[case.fixture] = lively(case.fixture, work / case.fixture)
            # without a probe, which could become the result
            run(spt, "tune", *case.flags(models[case.fixture]), "--probe-head=false", "--data", work / "data", "--lr", 0.05, "--batch-size", 8, "--no-report", "-q", "--out", delta)
            lines = run(spt, "predict", "--delta", delta, "--json", "--top-k", len(CLASSES), *photos).stdout.splitlines()
            want = np.zeros([len(photos), len(CLASSES)])
            for row, line in enumerate(lines):
                for top in json.loads(line)["top"]:
                    want[row, top["index"]] = top["probability"]
            if not want.std(0).max() > SPREAD:
                sys.exit(f"{case.name}: the probabilities of all images are alike, so the case shows nothing")
            if case.before not in exact:
                exact[case.before] = write_exact(work / f"exact{case.before}", case.before)
            data = exact[case.before]
            run(spt, "eval", "--delta", delta, "--data", data, "--split", "all", "--predictions", work / "p.jsonl", "--logits", "--no-report", "-q")
            rows = [json.loads(line) for line in (work / "p.jsonl").read_text().splitlines()]
            pixels = [data / r["path"] for r in rows]
            want_logits = np.array([[r["logit_" + c] for c in CLASSES] for r in rows])

            for name, (opens, refuses) in FORMATS.items():
                out = work / "out"
                command = [spt, "export", "--delta", delta, "--format", name, "--out", out, "--json", *(["--half"] if case.half else [])]
                if code := refuses(case):
                    error = run(*command, code=code).stderr
                    assert f"exporting to {name}: " in error and not out.exists(), error
                    refusals[name] += 1
                    continue
                exported = json.loads(run(*command).stdout)["exports"][0]
                exports[name] += 1
                for reader, logits in opens(case, out, exported).items():
                    got = logits(pixels)
                    differences = {"pixels, logit": np.abs(got - want_logits).max()}
                    got = softmax(logits(photos))
                    for suffix in (".png", ".jpg"):
                        of = [i for i, f in enumerate(photos) if f.suffix == suffix]
                        differences[suffix[1:] + ", probability"] = np.abs(got[of] - want[of]).max()
                    probability = HALF if case.half else TORCHVISION if reader == "torchvision" else PROBABILITY
                    for kind, difference in differences.items():
                        bound = LOGIT if "logit" in kind and not case.half else probability
                        if not difference <= bound:
                            sys.exit(f"{case.name}: {name} read by {reader}: {kind}: difference {difference:.3g}, bound {bound}")
                        if not case.half:
                            worst[name, reader, kind] = max(worst.get((name, reader, kind), 0), difference)
                    # Where two classes are equally probable, the decoder may decide.
                    ranked = np.sort(want, 1)
                    clear = ranked[:, -1] - ranked[:, -2] > 2 * probability
                    if (got.argmax(1) != want.argmax(1))[clear].any():
                        sys.exit(f"{case.name}: {name} read by {reader}: another class")
                shutil.rmtree(out)
            shutil.rmtree(delta)
    finally:
        shutil.rmtree(work)
    for name in FORMATS:
        print(f"{name}: {exports[name]} exports agree, {refusals[name]} are refused")
    for (name, reader, kind), difference in sorted(worst.items()):
        print(f"  {name}, {reader}: {kind}: largest difference {difference:.2g}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
