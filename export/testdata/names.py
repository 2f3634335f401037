"""Writes names.json: the sizes and options of the architectures of timm that export/timm.go names.

    python names.py > names.json

Made with timm 1.0.31 and PyTorch 2.15.0. The models are made without memory for their weights.
"""

import json
import re

import timm
import torch

NAMES = [n for n in timm.list_models() if re.fullmatch(
    r"vit_(tiny|small|base|large|huge)_patch(8|14|16|32)_(224|dinov2|reg4_dinov2|clip_224|clip_quickgelu_224)"
    r"|deit_(tiny|small|base)_distilled_patch16_224|vit_giant_patch14_dinov2"
    r"|swin_(tiny|small|base|large)_patch4_window(7_224|12_384)"
    r"|convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large|xlarge|xxlarge|huge)", n)]


def main():
    out = {}
    for name in NAMES:
        with torch.device("meta"):
            m = timm.create_model(name)
        row = {"eps": sorted({x.eps for x in m.modules() if isinstance(x, torch.nn.LayerNorm)}), "input_size": m.pretrained_cfg["input_size"][1]}
        if name.startswith(("vit", "deit")):
            b = m.blocks[0]
            row |= {
                "family": "vit", "patch_size": m.patch_embed.patch_size[0], "embed_dim": m.embed_dim, "depth": len(m.blocks),
                "num_heads": b.attn.num_heads, "hidden_dim": b.mlp.fc2.in_features, "global_pool": m.global_pool,
                "class_token": m.cls_token is not None, "dist_token": hasattr(m, "dist_token"), "reg_tokens": m.num_reg_tokens,
                "no_embed_class": m.no_embed_class, "pre_norm": not isinstance(m.norm_pre, torch.nn.Identity),
                "patch_bias": m.patch_embed.proj.bias is not None, "qkv_bias": b.attn.qkv.bias is not None,
                "qk_norm": not isinstance(b.attn.q_norm, torch.nn.Identity), "layer_scale": not isinstance(b.ls1, torch.nn.Identity),
                "fc_norm": not isinstance(m.fc_norm, torch.nn.Identity), "swiglu": type(b.mlp).__name__ == "GluMlp",
                "quick_gelu": type(b.mlp.act).__name__ == "QuickGELU",
            }
        elif name.startswith("swin"):
            row |= {
                "family": "swin", "patch_size": m.patch_embed.patch_size[0], "embed_dim": m.patch_embed.proj.out_channels,
                "depths": [len(s.blocks) for s in m.layers], "stage_heads": [s.blocks[0].attn.num_heads for s in m.layers],
                "window_size": m.layers[0].blocks[0].window_size[0], "hidden_dim": m.layers[0].blocks[0].mlp.fc1.out_features,
            }
        else:
            row |= {
                "family": "convnext", "patch_size": m.stem[0].kernel_size[0], "depths": [len(s.blocks) for s in m.stages],
                "dims": [s.blocks[0].conv_dw.out_channels for s in m.stages], "use_grn": hasattr(m.stages[0].blocks[0].mlp, "grn"),
            }
        out[name] = row
    print("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(out[n])}" for n in sorted(out)) + "\n}")


if __name__ == "__main__":
    main()
