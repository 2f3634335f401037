"""Writes facts.json: what timm says of the backbones in catalogue.go.

Usage, in the folder backbone/catalogue, with a clone of https://github.com/huggingface/pytorch-image-models:

    python testdata/facts.py CLONE > testdata/facts.json

Made with timm 1.0.31, PyTorch 2.15.0, and results/results-imagenet.csv of commit aa4b585 (2026-08-08). The models are
made without memory for their weights. For each of timm's names:

    licence, input_size  of timm's pretrained_cfg
    top1                 of results/results-imagenet.csv at this input size; null for weights without such a head
    parameters           the number of parameters without the head
    tensors              the shapes of the tensors, without the head; # stands for the number of a block
    config               config.json, as timm writes it for the Hugging Face Hub
"""

import csv
import json
import pathlib
import re
import sys
import tempfile

import timm
import torch
from timm.models._hub import save_config_for_hf


def facts(name, top1):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
    cfg = model.pretrained_cfg
    assert cfg["hf_hub_id"] == "timm/" + name, cfg["hf_hub_id"]
    heads = tuple(h + "." for h in ([cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]))
    tensors = {}
    for key, t in model.state_dict().items():
        pattern = re.sub(r"\bblocks\.\d+\.", "blocks.#.", key)
        if key.startswith(heads):
            continue
        assert tensors.setdefault(pattern, list(t.shape)) == list(t.shape), key
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(model, pathlib.Path(folder) / "config.json")
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    size = cfg["input_size"][1]
    return {
        "licence": cfg["license"], "input_size": size, "top1": top1.get((name, size)),
        "parameters": sum(p.numel() for k, p in model.named_parameters() if not k.startswith(heads)),
        "tensors": tensors, "config": config,
    }


def main():
    with open(pathlib.Path(sys.argv[1]) / "results" / "results-imagenet.csv") as f:
        top1 = {(r["model"], int(r["img_size"])): float(r["top1"]) for r in csv.DictReader(f)}
    names = re.findall(r'\{"\w+", "(\w+\.\w+)"', pathlib.Path("catalogue.go").read_text())
    rows = [f"{json.dumps(n)}: {json.dumps(facts(n, top1))}" for n in names]
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
