#!/usr/bin/env python3
"""Converts a ViT in timm's names into a folder of Transformers, for lora_transformers.py.

The folder has the names of the ViTs that Transformers publishes. --check compares the logits of the
folder in Transformers with those of the file in timm, on random pixels, and prints the largest
absolute difference. The name of the file is timm's name of the model.
"""

import argparse
import json
import pathlib
import re

import timm
import torch
from safetensors.torch import load_file, save_file

NAMES = [
    (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
    (r"^blocks\.(\d+)\.norm1\.", r"vit.encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"vit.encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"vit.encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"vit.encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"vit.encoder.layer.\1.output.dense."),
]


def convert(path, folder):
    tensors = {}
    for name, x in load_file(path).items():
        if m := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
            for part, y in zip(("query", "key", "value"), x.chunk(3)):
                tensors[f"vit.encoder.layer.{m[1]}.attention.attention.{part}.{m[2]}"] = y.float().contiguous()
            continue
        for pattern, new in NAMES:
            if re.search(pattern, name):
                tensors[re.sub(pattern, new, name)] = x.float()
                break
        else:
            raise SystemExit(f"converting {path}: tensor {name} has no place in a ViT of Transformers")
    model = timm.create_model(path.stem)
    settings = timm.data.resolve_model_data_config(model)
    block = model.blocks[0]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks), "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features, "hidden_act": "gelu", "layer_norm_eps": block.norm1.eps,
        "image_size": settings["input_size"][-1], "patch_size": model.patch_embed.patch_size[0], "qkv_bias": True,
        "id2label": {str(k): f"LABEL_{k}" for k in range(model.num_classes)},
        "label2id": {f"LABEL_{k}": k for k in range(model.num_classes)},
    }, indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "size": {"height": settings["input_size"][-2], "width": settings["input_size"][-1]}, "resample": 3,
        "image_mean": settings["mean"], "image_std": settings["std"],
    }, indent=2))


def check(path, folder):
    import transformers

    ours = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    theirs = timm.create_model(path.stem, checkpoint_path=str(path)).eval()
    x = torch.randn(8, 3, *theirs.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = ours(x).logits, theirs(x)
    print(json.dumps({
        "logits": list(a.shape), "largest_difference": float((a - b).abs().max()), "largest_logit": float(b.abs().max()),
        "versions": {m.__name__: m.__version__ for m in (torch, timm, transformers)},
    }))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path, help="the safetensors file")
    p.add_argument("folder", type=pathlib.Path, help="the folder to write")
    p.add_argument("--check", action="store_true")
    args = p.parse_args()
    convert(args.model, args.folder)
    if args.check:
        check(args.model, args.folder)


main()
