#!/usr/bin/env python3
"""Tunes a timm backbone with LoRA of PEFT in a plain PyTorch loop.

LoRA modules are on qkv and proj of every block, with alpha twice the rank and without dropout. The
head is trained too. AdamW, cosine with warm-up, mini-batches in random order. The script measures a
step and a forward pass, and fits the training to the time that is left before the test. timed.py
describes the command and the result. --model is a safetensors file whose name is timm's name of the
model.
"""

import pathlib
import time

import timed

TEST_BATCH = 32


def main():
    args, clock = timed.start(__doc__, batch=16)
    import peft
    import timm
    import torch
    from torch.nn import functional as F

    import layouts

    clock.end("imports")
    classes, splits = layouts.read(args.data)
    if args.choose == "none":
        splits["train"] += splits["val"]
    images = {name: torch.from_numpy(layouts.pixels(pairs, args.image_size, args.threads)) for name, pairs in splits.items()}
    labels = {name: torch.tensor([label for _, label in pairs]) for name, pairs in splits.items()}
    clock.end("images")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = timm.create_model(pathlib.Path(args.model).stem, checkpoint_path=args.model)
    model.set_input_size(img_size=args.image_size)
    shift = timm.data.resolve_model_data_config(model)
    mean, std = (255 * torch.tensor(shift[name]).view(3, 1, 1) for name in ("mean", "std"))
    model.reset_classifier(classes)
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules=["attn.qkv", "attn.proj"], modules_to_save=["head"],
    ))
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(tuned, args.lr)
    clock.end("model")

    def logits(split, rows):
        x = (images[split][rows].permute(0, 3, 1, 2).float() - mean) / std
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            return model(x).float()

    def gradients(rows):
        optimiser.zero_grad()
        F.cross_entropy(logits("train", rows), labels["train"][rows]).backward()

    def accuracy(split, count):
        """accuracy returns the accuracy on the first images, and the seconds of each."""
        begin, hits = time.perf_counter(), 0
        model.merge_adapter()
        with torch.inference_mode():
            for k in range(0, count, TEST_BATCH):
                rows = slice(k, min(k + TEST_BATCH, count))
                hits += int((logits(split, rows).argmax(1) == labels[split][rows]).sum())
        model.unmerge_adapter()
        return hits / count, (time.perf_counter() - begin) / count

    rows = slice(0, args.batch)
    gradients(rows)  # the first step is slower than the others
    begin = time.perf_counter()
    gradients(rows)
    step = time.perf_counter() - begin
    counts = {name: len(x) for name, x in labels.items()}
    _, image = accuracy("train", min(TEST_BATCH, counts["train"]))
    schedule = timed.Schedule(
        clock, step, image, counts["train"], counts["val"], counts["test"], args.batch, args.choose == "epoch",
    )
    clock.end("measuring")

    best, state = -1.0, None

    def validate():
        nonlocal best, state
        clock.end("training")
        score, schedule.image_seconds = accuracy("val", counts["val"])
        if score >= best:  # of equal epochs, the later one has the smaller learning rate
            best, state = score, {name: x.clone() for name, x in peft.get_peft_model_state_dict(model).items()}
        clock.end("validation")

    while not schedule.ended():
        for rows in torch.randperm(counts["train"]).split(args.batch):
            if schedule.ended():
                break
            begin = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = args.lr * schedule.rate()
            gradients(rows)
            torch.nn.utils.clip_grad_norm_(tuned, 1.0)
            optimiser.step()
            schedule.stepped(time.perf_counter() - begin)
        if schedule.validates:
            validate()
    clock.end("training")
    if state is not None:
        peft.set_peft_model_state_dict(model, state)
    score, _ = accuracy("test", counts["test"])
    clock.end("test")
    timed.finish(
        args, clock, ["torch", "timm", "peft", "numpy", "pillow"],
        tool="timm + PEFT", accuracy=score, val_accuracy=best if state is not None else None, steps=schedule.steps,
        tuned_params=sum(p.numel() for p in tuned), classes=classes, images=counts,
    )


main()
