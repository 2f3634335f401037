# Writes labelpairs.json: a comparison of two classifiers of images with several labels, by scikit-learn 1.9.1 and SciPy
# 1.17.1.
# Run: python3 labelpairs.py   (takes minutes; only to write the file again; no test needs Python)
import json
import numpy as np, scipy.stats
from sklearn.metrics import average_precision_score

rng = np.random.default_rng(11)
n, k = 90, 4
targets = (rng.random((n, k)) < [0.5, 0.25, 0.2, 0.3]).astype(int)
first = (rng.standard_normal((n, k)) * 1.5 + 1.2 * targets).astype(np.float32)
second = (0.6 * first + rng.standard_normal((n, k)) + 1.4 * targets).astype(np.float32)
second[:, 3] = np.round(second[:, 3] * 2) / 2  # equal logits

def ap(images, label, logits):
    return average_precision_score(targets[images, label], logits[images, label])

def difference(images, labels):
    images = images.astype(int)
    has = [c for c in labels if targets[images, c].any()]
    return np.mean([ap(images, c, second) - ap(images, c, first) for c in has]) if has else np.nan

out = {'labels': k, 'targets': targets.ravel().tolist(), 'first': first.ravel().tolist(), 'second': second.ravel().tolist(), 'differences': []}
for labels in [list(range(k))] + [[c] for c in range(k)]:
    interval = scipy.stats.bootstrap((np.arange(n),), lambda images: difference(images, labels), vectorized=False, n_resamples=5000,
                                     method='percentile', confidence_level=0.95, rng=np.random.default_rng(5)).confidence_interval
    out['differences'].append([float(difference(np.arange(n), labels)), float(interval.low), float(interval.high)])

json.dump(out, open('labelpairs.json', 'w'))
