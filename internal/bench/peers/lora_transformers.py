#!/usr/bin/env python3
"""Tunes a ViT of Hugging Face Transformers with LoRA of PEFT and the Trainer.

LoRA modules are on the four matrices of every attention, with alpha twice the rank and without
dropout. The classifier is trained too. The Trainer has AdamW and a cosine with warm-up that ends
with the time. It validates after each epoch, if two epochs fit, and loads the best checkpoint.
timed.py describes the command and the result. --model is a folder of convert_transformers.py.
"""

import json
import pathlib
import tempfile
import time

import timed

TEST_BATCH = 32


def main():
    args, clock = timed.start(__doc__, batch=16)
    import numpy
    import peft
    import torch
    import transformers

    import layouts

    clock.end("imports")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    classes, splits = layouts.read(args.data)
    if args.choose == "none":
        splits["train"] += splits["val"]
    settings = json.loads((pathlib.Path(args.model) / "preprocessor_config.json").read_text())
    mean, std = (255 * torch.tensor(settings[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))

    class Images(torch.utils.data.Dataset):
        def __init__(self, pairs):
            self.images = torch.from_numpy(layouts.pixels(pairs, args.image_size, args.threads))
            self.labels = [label for _, label in pairs]

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, k):
            return {"pixel_values": (self.images[k].permute(2, 0, 1).float() - mean) / std, "labels": self.labels[k]}

    images = {name: Images(pairs) for name, pairs in splits.items()}
    clock.end("images")
    torch.set_num_threads(args.threads)
    transformers.set_seed(args.seed)
    model = transformers.ViTForImageClassification.from_pretrained(args.model, num_labels=classes, ignore_mismatched_sizes=True)
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], modules_to_save=["classifier"],
    ))
    # With an image size other than the model's, its position embeddings are interpolated.
    other = args.image_size != model.config.image_size
    if other:
        forward = model.base_model.model.vit.forward
        model.base_model.model.vit.forward = lambda *a, **k: forward(*a, **k | {"interpolate_pos_encoding": True})
    tuned = [p for p in model.parameters() if p.requires_grad]
    clock.end("model")

    def batch(count):
        rows = [images["train"][k] for k in range(min(count, len(images["train"])))]
        return {"pixel_values": torch.stack([r["pixel_values"] for r in rows]), "labels": torch.tensor([r["labels"] for r in rows])}

    def seconds(call):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            call()
        return time.perf_counter() - begin

    some, many = batch(args.batch), batch(TEST_BATCH)
    step = [seconds(lambda: model(**some).loss.backward()) for _ in range(2)][1]  # the first is slower
    model.zero_grad()
    model.merge_adapter()
    with torch.inference_mode():
        image = seconds(lambda: model(**many)) / len(many["labels"])
    model.unmerge_adapter()
    schedule = timed.Schedule(
        clock, step, image, len(images["train"]), len(images["val"]), len(images["test"]), args.batch, args.choose == "epoch",
    )
    clock.end("measuring")

    class Timer(transformers.TrainerCallback):
        """Timer stops the training in time and measures its steps and validations."""

        def on_step_begin(self, *_, **__):
            self.begin = time.perf_counter()

        def on_step_end(self, _, state, control, **__):
            schedule.stepped(time.perf_counter() - self.begin)
            control.should_training_stop = schedule.ended()

        def on_epoch_end(self, *_, **__):
            clock.end("training")
            self.begin = time.perf_counter()

        def on_evaluate(self, *_, **__):
            schedule.image_seconds = (time.perf_counter() - self.begin) / len(images["val"])
            clock.end("validation")

    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    with tempfile.TemporaryDirectory() as folder:
        often = "epoch" if schedule.validates else "no"
        arguments = transformers.TrainingArguments(
            folder, use_cpu=True, bf16=args.dtype == "bf16", per_device_train_batch_size=args.batch,
            per_device_eval_batch_size=TEST_BATCH, num_train_epochs=10**6, max_grad_norm=1.0, seed=args.seed,
            eval_strategy=often, save_strategy=often, load_best_model_at_end=schedule.validates, save_total_limit=1,
            metric_for_best_model="accuracy", logging_strategy="no", report_to="none", disable_tqdm=True,
            label_names=["labels"], dataloader_pin_memory=False,
        )
        optimiser = torch.optim.AdamW(tuned, args.lr)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: schedule.rate())
        trainer = transformers.Trainer(
            model, arguments, train_dataset=images["train"], eval_dataset=images["val"], compute_metrics=accuracy,
            callbacks=[Timer()], optimizers=(optimiser, rate),
        )
        trainer.remove_callback(transformers.PrinterCallback)  # standard output holds the result alone
        if not schedule.ended():
            trainer.train()
        clock.end("training")
        merged = transformers.Trainer(model.merge_and_unload(), arguments, eval_dataset=images["val"], compute_metrics=accuracy)
        score = merged.predict(images["test"]).metrics["test_accuracy"]
        clock.end("test")
        best = trainer.state.best_metric
    timed.finish(
        args, clock, ["torch", "transformers", "peft", "accelerate", "numpy", "pillow"],
        tool="Transformers + PEFT", accuracy=score, val_accuracy=best, steps=schedule.steps,
        tuned_params=sum(p.numel() for p in tuned), classes=classes, images={name: len(x) for name, x in images.items()},
    )


main()
