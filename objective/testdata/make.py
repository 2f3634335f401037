"""Writes losses.json: losses, gradients and metrics of PyTorch and scikit-learn for the tests.

Made with Python 3.11, numpy 2.4, torch 2.15.0, scikit-learn 1.9.1: python make.py
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score

rng = np.random.default_rng(0)
B, C = 6, 4
weights = [0.25, 1.0, 2.5, 0.7]


def floats(x):
    return [float(v) for v in np.asarray(x, dtype=np.float64).ravel()]


losses = []
for smoothing in (0.0, 0.1, 0.6):
    for weighted in (False, True):
        for mixed in (False, True):
            logits = (3 * rng.standard_normal((B, C))).astype(np.float32)
            labels, others = rng.integers(0, C, B), rng.integers(0, C, B)
            shares = rng.random(B).astype(np.float32)
            shares[:2] = 0, 1
            x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            w = torch.tensor(weights, dtype=torch.float64) if weighted else None
            y, o = torch.tensor(labels), torch.tensor(others)
            s = torch.tensor(shares, dtype=torch.float64)
            if weighted and smoothing:
                # PyTorch weights each class of the smoothed label; spt weights the whole loss.
                def one(t):
                    return F.cross_entropy(x, t, reduction="none", label_smoothing=smoothing) * w[t]

                each = s * one(y) + (1 - s) * one(o) if mixed else one(y)
            elif mixed:
                t = s[:, None] * F.one_hot(y, C) + (1 - s)[:, None] * F.one_hot(o, C)
                each = F.cross_entropy(x, t, weight=w, reduction="none", label_smoothing=smoothing)
            else:
                each = F.cross_entropy(x, y, weight=w, reduction="none", label_smoothing=smoothing)
            each.mean().backward()
            losses.append(
                {
                    "smoothing": smoothing,
                    "weights": weights if weighted else None,
                    "logits": floats(logits),
                    "labels": labels.tolist(),
                    "others": others.tolist() if mixed else None,
                    "shares": floats(shares) if mixed else None,
                    "losses": floats(each.detach()),
                    "gradient": floats(x.grad),
                }
            )

metrics = []
for n, classes in ((40, 5), (7, 6), (30, 2)):
    logits = rng.standard_normal((n, classes)).astype(np.float32)
    labels = np.minimum(rng.geometric(0.5, n) - 1, classes - 1)
    predicted = logits.argmax(1)
    metrics.append(
        {
            "classes": classes,
            "logits": floats(logits),
            "labels": labels.tolist(),
            "balanced": float(balanced_accuracy_score(labels, predicted)),
            "macro_f1": float(f1_score(labels, predicted, average="macro")),
        }
    )

out = pathlib.Path(__file__).with_name("losses.json")
out.write_text(json.dumps({"losses": losses, "metrics": metrics}, indent=None) + "\n")
