#!/usr/bin/env python3
"""Times fine-tuning steps or forward passes of a plain PyTorch ViT, for comparison with spt.

The images are random noise, and the mini-batch is on the device. The time is the median of
the steps. The variants are:

  lora       LoRA on every matrix of every block, autocast, scaled_dot_product_attention
             and torch.compile, as a careful user of PyTorch would write it. --eager leaves
             torch.compile out, which is faster on some processors.
  reference  the arithmetic of the reference release of SPT, with autocast and without
             torch.compile: separate q, k and v, attention by its formula, weights with
             single entries cloned in every step, and their gradient taken from the
             diagonal of an nnz x nnz product. It tunes the selection in --plan, a
             plan.json of spt.

The script prints one JSON object. It needs only PyTorch.
"""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
DEPTH, TOKENS, PATCH, CLASSES = 12, 197, 16, 100


class SparseLinear(torch.autograd.Function):
    """Computes x·(W + scatter(values))ᵀ + b. The gradient of values is the diagonal of a product."""

    @staticmethod
    def forward(ctx, x, weight, bias, values, rows, cols):
        weight = weight.clone()
        weight[rows, cols] += values
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x[..., cols], rows, weight)
        return F.linear(x, weight, bias.to(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        x, rows, weight = ctx.saved_tensors
        full = grad.flatten(0, 1).t()[rows] @ x.flatten(0, 1)
        return grad @ weight, None, grad.flatten(0, 1).float().sum(0), torch.diagonal(full, 0).float(), None, None


class Layer(nn.Module):
    """A linear layer that is frozen except for the requested parts."""

    def __init__(self, i, o, rank=0, entries=None, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i) * 0.02, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(o), requires_grad=bias)
        self.rank, self.entries = rank, entries is not None
        if rank:
            self.a = nn.Parameter(torch.randn(rank, i) * i**-0.5)
            self.b = nn.Parameter(torch.zeros(o, rank))
        if self.entries:
            at = torch.tensor(entries)
            self.register_buffer("rows", at // i)
            self.register_buffer("cols", at % i)
            self.values = nn.Parameter(torch.zeros(len(entries)))

    def forward(self, x):
        if self.entries:
            x = x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x
            y = SparseLinear.apply(x, self.weight, self.bias, self.values, self.rows, self.cols)
        else:
            y = F.linear(x, self.weight, self.bias)
        if self.rank:
            y = y + F.linear(F.linear(F.dropout(x, 0.1), self.a), self.b)
        return y


class Block(nn.Module):
    def __init__(self, n, d, h, args, plan):
        super().__init__()
        self.heads, self.formula = h, args.variant == "reference"

        def layer(name, i, o):
            if plan is None:
                return Layer(i, o, args.rank)
            name = f"blocks.{n}.{name}"
            rank = plan["rank"] if name + ".weight" in plan["matrices"] else 0
            return Layer(i, o, rank, plan["entries"].get(name + ".weight"), name + ".bias" in plan["vectors"])

        self.q, self.k, self.v, self.proj = (layer("attn." + x, d, d) for x in ("q", "k", "v", "proj"))
        self.fc1, self.fc2 = layer("mlp.fc1", d, 4 * d), layer("mlp.fc2", 4 * d, d)
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        for name, norm in (("norm1", self.norm1), ("norm2", self.norm2)):
            for part, p in norm.named_parameters():
                p.requires_grad_(plan is not None and f"blocks.{n}.{name}.{part}" in plan["vectors"])

    def forward(self, x):
        b, n, d = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).reshape(b, n, self.heads, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.formula:
            y = ((q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, args, plan):
        super().__init__()
        d, h = WIDTH[args.model]
        self.patch = nn.Conv2d(3, d, PATCH, PATCH).requires_grad_(False)
        self.cls = nn.Parameter(torch.zeros(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, TOKENS, d) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(*[Block(n, d, h, args, plan) for n in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--variant", choices=["lora", "reference"], required=True)
    p.add_argument("--plan", help="plan.json, for reference")
    p.add_argument("--model", default="base", choices=WIDTH)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--rank", type=int, default=8, help="of lora")
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--device", default="cuda")
    p.add_argument("--dtype", default="bf16", choices=["bf16", "f16", "f32"])
    p.add_argument("--eager", action="store_true", help="lora without torch.compile")
    p.add_argument("--forward", action="store_true", help="time forward passes instead of steps")
    args = p.parse_args()
    plan = None
    if args.variant == "reference":
        if not args.plan:
            p.error("reference needs --plan")
        with open(args.plan) as f:
            plan = json.load(f)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    net = ViT(args, plan).to(args.device)
    net.train(not args.forward)
    tuned = [q for q in net.parameters() if q.requires_grad]
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[args.dtype]
    scaler = torch.amp.GradScaler(args.device, enabled=dtype == torch.float16)
    opt = torch.optim.AdamW(tuned, 1e-3)
    x = torch.randn(args.batch, 3, 224, 224, device=args.device)
    y = torch.randint(0, CLASSES, (args.batch,), device=args.device)
    forward = torch.compile(net) if args.variant == "lora" and not args.eager else net

    def step():
        if args.forward:
            with torch.inference_mode(), torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
                forward(x)
            return
        opt.zero_grad(set_to_none=True)
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(forward(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()

    def sync():
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    start = time.perf_counter()
    for _ in range(3):
        step()
    sync()
    warm = time.perf_counter() - start
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        sync()
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    memory = torch.cuda.max_memory_allocated() if args.device.startswith("cuda") else 0
    print(json.dumps({
        "torch": torch.__version__, "variant": args.variant, "model": args.model, "batch": args.batch, "dtype": args.dtype,
        "img_per_s": args.batch / seconds, "seconds_per_step": seconds, "warm_up_seconds": warm,
        "peak_memory_mb": memory / 1e6, "tuned_params": sum(q.numel() for q in tuned) - net.head.weight.numel() - CLASSES,
    }))


main()
