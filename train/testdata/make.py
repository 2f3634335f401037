"""Writes weighted.json: a training of a head with PyTorch, and class weights of scikit-learn.

Made with Python 3.11, numpy 2.4, torch 2.15.0, scikit-learn 1.9.1: python make.py
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(1)
B, D, C, STEPS = 10, 8, 3, 6
SMOOTHING, LR, DECAY = 0.1, 0.05, 0.02
weights = [0.4, 1.0, 3.0]


def floats(x):
    return [float(v) for v in np.asarray(x, dtype=np.float64).ravel()]


head = torch.nn.Linear(D, C)
with torch.no_grad():
    head.weight.copy_(torch.tensor(rng.standard_normal((C, D)).astype(np.float32)))
    head.bias.copy_(torch.tensor(rng.standard_normal(C).astype(np.float32)))
run = {"smoothing": SMOOTHING, "weights": weights, "lr": LR, "weight_decay": DECAY, "batch": B}
run["weight"], run["bias"] = floats(head.weight.detach()), floats(head.bias.detach())
optimiser = torch.optim.AdamW(
    [{"params": [head.weight], "weight_decay": DECAY}, {"params": [head.bias], "weight_decay": 0}], lr=LR
)
w, steps = torch.tensor(weights), []
for step in range(STEPS):
    x = rng.standard_normal((B, D)).astype(np.float32)
    y, o = rng.integers(0, C, B), rng.integers(0, C, B)
    s = rng.random(B).astype(np.float32)
    mixed = step % 2 == 1
    logits = head(torch.tensor(x, dtype=torch.float64))

    def each(t):
        t = torch.tensor(t)
        return F.cross_entropy(logits, t, reduction="none", label_smoothing=SMOOTHING) * w[t]

    share = torch.tensor(s, dtype=torch.float64)
    loss = (share * each(y) + (1 - share) * each(o) if mixed else each(y)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    steps.append({"features": floats(x), "labels": y.tolist(), "loss": float(loss)})
    if mixed:
        steps[-1] |= {"others": o.tolist(), "shares": floats(s)}
run["steps"], run["trained_weight"], run["trained_bias"] = steps, floats(head.weight.detach()), floats(head.bias.detach())

balanced = []
for counts in ([500, 10], [1, 2, 3, 994], [7], [30] * 5):
    y = np.repeat(np.arange(len(counts)), counts)
    balanced.append({"counts": counts, "weights": floats(compute_class_weight("balanced", classes=np.unique(y), y=y))})

out = pathlib.Path(__file__).with_name("weighted.json")
out.write_text(json.dumps({"run": run, "balanced": balanced}) + "\n")
