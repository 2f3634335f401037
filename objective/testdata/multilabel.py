"""Writes multilabel.json: losses and gradients of BCEWithLogitsLoss of PyTorch for the tests.

Made with Python 3.11, numpy 2.4, torch 2.15.0: python multilabel.py
"""

import json
import pathlib

import numpy as np
import torch

rng = np.random.default_rng(1)
B, C = 5, 4
cases = []
for smoothing in (0.0, 0.2):
    for weights in (None, [0.25, 1.0, 8.0, 3.5]):
        for mixed in (False, True):
            logits = (4 * rng.standard_normal((B, C))).astype(np.float32)
            logits[0] = [60, -60, 0, 90]  # exp overflows float32
            labels, others = rng.integers(0, 2, (B, C)), rng.integers(0, 2, (B, C))
            shares = rng.random(B).astype(np.float32)
            x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            t = torch.tensor(labels, dtype=torch.float64)
            if mixed:
                s = torch.tensor(shares, dtype=torch.float64)[:, None]
                t = s * t + (1 - s) * torch.tensor(others, dtype=torch.float64)
            t = t * (1 - smoothing) + smoothing / 2
            w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
            each = torch.nn.BCEWithLogitsLoss(pos_weight=w, reduction="none")(x, t).mean(1)
            each.mean().backward()
            cases.append(
                {
                    "smoothing": smoothing,
                    "weights": weights,
                    "logits": [float(v) for v in logits.ravel()],
                    "labels": labels.ravel().tolist(),
                    "others": others.ravel().tolist() if mixed else None,
                    "shares": [float(v) for v in shares] if mixed else None,
                    "losses": [float(v) for v in each.detach()],
                    "gradient": [float(v) for v in x.grad.ravel()],
                }
            )

pathlib.Path(__file__).with_name("multilabel.json").write_text(json.dumps(cases) + "\n")
