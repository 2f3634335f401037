"""Makes the adapter folders in peft/ with PEFT, and the logits that it computes with them.

    python delta/testdata/make_peft.py

The backbones and the images are those of internal/fixtures. Made with peft 0.21.2, timm 1.0.31 and
torch 2.15.0, and with transformers 5.24.0, or 4.57.6 for the folders whose names begin with
transformers4. The script also loads every folder again, as users do.
"""

import json
import os
import shutil
import sys

import timm
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

HERE = os.path.dirname(os.path.abspath(__file__))
BACKBONES = os.path.join(HERE, "..", "..", "internal", "fixtures", "testdata", "backbones")
CLASSES = 3


def fixture(name):
    with open(os.path.join(BACKBONES, name, "fixture.json")) as f:
        return json.load(f)


def timm_model(name, classes=CLASSES):
    """Returns the fixture with a new head."""
    f = fixture(name)
    model = timm.create_model(f["timm_architecture"], **f["timm_arguments"])
    model.load_state_dict(load_file(os.path.join(BACKBONES, name, f["weights"])), strict=False)
    if classes:
        model.reset_classifier(classes)
    return model


def transformers_model(name, classes=CLASSES):
    options = {"num_labels": classes, "ignore_mismatched_sizes": True} if classes else {}
    return AutoModelForImageClassification.from_pretrained(os.path.join(BACKBONES, name), **options)


def images(name):
    f = fixture(name)
    pixels = load_file(os.path.join(BACKBONES, f["input"]))["pixels"].permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(f["preprocessing"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    return (pixels - mean) / std


def logits(model, name):
    with torch.no_grad():
        out = model.eval()(images(name))
    return getattr(out, "logits", out)


def make(folder, backbone, build, config, trained=(), classes=CLASSES):
    """Writes peft/FOLDER. trained lists parts of the names of further tensors that get new values."""
    torch.manual_seed(len(folder))
    model = get_peft_model(build(backbone, classes), config)
    for name, p in model.named_parameters():
        if p.requires_grad or any(t in name for t in trained):
            torch.nn.init.normal_(p, std=0.3)
    out = os.path.join(HERE, "peft", folder)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    os.remove(os.path.join(out, "README.md"))
    want = logits(model, backbone)
    with open(os.path.join(out, "adapter_config.json")) as f:
        written = json.load(f)
    written["base_model_name_or_path"] = "" if build is timm_model else "fixture/" + backbone
    with open(os.path.join(out, "adapter_config.json"), "w") as f:
        json.dump(written, f, indent=1, sort_keys=True)
    again(out, backbone, build, want, classes)


def again(out, backbone, build, want, classes=CLASSES):
    """Loads a folder as users do and stores its logits."""
    got = logits(PeftModel.from_pretrained(build(backbone, classes), out), backbone)
    assert (got - want).abs().max() < 1e-5, (out, got, want)
    save_file({"logits": want.contiguous()}, os.path.join(out, "expected.safetensors"), {"backbone": backbone})
    print(os.path.basename(out), os.path.getsize(os.path.join(out, "adapter_model.safetensors")))


if transformers.__version__.startswith("4"):
    make("transformers4", "vit-cls-hf4", transformers_model, LoraConfig(
        r=4, lora_alpha=8, target_modules=["query", "value"], modules_to_save=["classifier"]))
    make("transformers4-all", "vit-cls-hf4", transformers_model, LoraConfig(
        r=2, lora_alpha=8, target_modules="all-linear", bias="all", modules_to_save=["classifier"]), trained=[".bias"])
    sys.exit()

make("timm-qkv", "vit-cls-timm", timm_model, LoraConfig(r=3, lora_alpha=12, target_modules=["qkv"], modules_to_save=["head"]))
make("timm-patterns", "vit-cls-timm", timm_model, LoraConfig(
    r=2, lora_alpha=5, use_rslora=True, lora_bias=True, target_modules=r"blocks\..*\.(qkv|attn\.proj|fc1|fc2)",
    rank_pattern={"fc1": 3, r"blocks\.[0]\..*proj": 1}, alpha_pattern={"blocks.1.mlp.fc2": 7, "fc2": 3}, modules_to_save=["head", "norm", "norm1"]))
make("timm-bias", "vit-cls-timm", timm_model, LoraConfig(
    r=2, target_modules=["qkv", "fc2"], bias="all", modules_to_save=["head"]), trained=[".bias"])
# "proj" is also the convolution of the patch embedding.
make("timm-convolution", "vit-cls-timm", timm_model, LoraConfig(r=2, lora_alpha=4, target_modules=["proj"], modules_to_save=["head"]))
# without modules_to_save, the head of the backbone, itself with LoRA
make("timm-own-head", "vit-cls-timm", timm_model, LoraConfig(r=2, target_modules=["qkv", "head"]), classes=0)
make("timm-swin", "swin-even-timm", timm_model, LoraConfig(r=2, target_modules=["qkv", "fc1", "reduction"], modules_to_save=["head.fc"]))
make("timm-convnext", "convnext-v2-timm", timm_model, LoraConfig(r=2, target_modules=["fc1", "fc2", "downsample.1"], modules_to_save=["head"]))
make("transformers", "vit-cls-hf5", transformers_model, LoraConfig(
    r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]))
make("transformers-more", "vit-cls-hf5", transformers_model, LoraConfig(
    r=2, lora_alpha=8, target_modules=["k_proj", "o_proj", "fc1", "fc2"], modules_to_save=["classifier", "layernorm_after"]))
make("transformers-swin", "swin-even-hf5", transformers_model, LoraConfig(
    r=2, target_modules=["q_proj", "v_proj", "fc1", "reduction"], modules_to_save=["classifier"]))
make("transformers-dinov2", "vit-dinov2-hf5", transformers_model, LoraConfig(
    r=2, target_modules=["q_proj", "v_proj", "fc2"]), classes=0)
