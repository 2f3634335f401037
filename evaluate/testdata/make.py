# Writes metrics.json: metrics of predictions that scikit-learn 1.9.1, SciPy 1.17.1 and NumPy 2.4.6 compute.
# The logits of most cases come from a linear congruential generator, which the test in Go repeats, so that the file stays
# small. Every step of it is exact in float32.
# Run: python3 make.py   (only to write the file again; no test needs Python)
import json, warnings
import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (accuracy_score, balanced_accuracy_score, cohen_kappa_score, confusion_matrix, log_loss,
                             precision_recall_fscore_support, top_k_accuracy_score)

warnings.simplefilter('ignore')

def generate(c):
    """Logits [N, C] and targets of a case. classes_used < classes leaves the last classes without images."""
    state, mask = c['seed'], (1 << 64) - 1
    def draw():  # 24 random bits
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & mask
        return state >> 40
    n, k = c['images'], c['classes']
    logits, targets = np.zeros((n, k), np.float32), np.zeros(n, np.int64)
    for i in range(n):
        targets[i] = draw() % c['classes_used']
        for j in range(k):
            v = draw() - (1 << 23)
            if c['steps']:  # few values, so that logits are equal
                v = v >> (24 - c['steps']) << (24 - c['steps'])
            logits[i, j] = np.float32(v) * np.float32(2.0 ** c['exponent'])
        logits[i, targets[i]] += np.float32(c['bonus'])
        for j in c['never']:  # classes that are never predicted
            logits[i, j] = np.float32(-2.0 ** (23 + c['exponent'])) - np.float32(abs(c['bonus'])) - np.float32(1)
    return logits, targets

def metrics(logits, targets, temperature):
    n, k = logits.shape
    labels = np.arange(k)
    p = softmax(logits.astype(np.float64) / temperature, axis=1)
    predicted = logits.argmax(1)
    confidence, right = p.max(1), predicted == targets
    out = {}
    out['correct'] = int(right.sum())
    out['top1'] = accuracy_score(targets, predicted)
    out['interval'] = list(binomtest(int(right.sum()), n).proportion_ci(0.95, 'wilson'))
    # scikit-learn takes two classes as binary, whose result is 1 for k=5, and refuses one class
    out['top5'] = top_k_accuracy_score(targets, logits, k=5, labels=labels) if k > 2 else 1.0
    out['balanced_accuracy'] = balanced_accuracy_score(targets, predicted)
    kappa = cohen_kappa_score(targets, predicted)
    out['kappa'] = None if np.isnan(kappa) else kappa
    # scikit-learn cannot compute the loss of one class; its formula gives -log(1 - eps)
    out['log_loss'] = log_loss(targets, p, labels=labels) if k > 1 else -np.log(1 - np.finfo(float).eps)
    for mean in 'macro', 'weighted':
        out[mean] = list(precision_recall_fscore_support(targets, predicted, average=mean, zero_division=0)[:3])
    each = precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    confusion = confusion_matrix(targets, predicted, labels=labels)
    # in large cases only every 41st class and every 97th cell
    stride = 1 if k < 20 else 41
    out['classes'] = [[int(j), int(each[3][j]), int(confusion[:, j].sum()), int(confusion[j, j]), *(float(each[m][j]) for m in range(3))]
                      for j in range(0, k, stride)]
    cells = [[int(a), int(b), int(confusion[a, b])] for a, b in zip(*np.nonzero(confusion))]
    out['cells'] = len(cells)
    out['confusion'] = cells[::1 if k < 20 else 97]
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy='uniform')
    edges = np.linspace(0, 1, 16)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=15)
    out['bins'] = counts.tolist()
    out['bin_accuracy'], out['bin_confidence'] = accuracy.tolist(), mean.tolist()  # of the bins that hold images
    gaps = np.abs(accuracy - mean)
    out['ece'], out['mce'] = float((gaps * counts[counts > 0]).sum() / n), float(gaps.max())
    # answered images and accuracy_score among them, at the thresholds 0, 0.01, ... 0.99
    answered = [confidence >= i / 100 for i in range(100)]
    out['coverage'] = [int(a.sum()) for a in answered]
    out['covered_accuracy'] = [float(accuracy_score(targets[a], predicted[a])) if a.any() else 0.0 for a in answered]
    return out

def temperature(logits, targets):
    z = logits.astype(np.float64)
    def loss(u):
        x = np.exp(u) * z
        return float((logsumexp(x, axis=1) - x[np.arange(len(x)), targets]).mean())
    def slope(u):
        p = softmax(np.exp(u) * z, axis=1)
        return float(((p * z).sum(1) - z[np.arange(len(z)), targets]).mean())
    low, high = np.log(1 / 20), np.log(1 / 0.05)  # of the logarithm of 1/temperature
    found = minimize_scalar(loss, bounds=(low, high), method='bounded', options={'xatol': 1e-12}).x
    if slope(low) < 0 < slope(high):
        # A loss is too flat for seven digits of its minimum. The root of its slope is exact.
        root = brentq(slope, low, high, xtol=1e-14, rtol=1e-14)
        assert abs(root - found) < 1e-5, (root, found)
        return float(np.exp(-root))
    if (z.max(1) == z.min(1)).all():
        return 1.0
    bound = high if slope(high) <= 0 else low
    assert loss(bound) <= loss(found) + 1e-12
    return float(np.exp(-bound))

default = dict(seed=1, images=100, classes=5, classes_used=5, steps=0, exponent=-21, bonus=2, never=[], temperature=1)
cases = [dict(default, name=name, **change) for name, change in {
    'random': dict(images=400, classes=10, classes_used=10),
    'cold': dict(images=400, classes=10, classes_used=10, seed=2, temperature=0.5),
    'hot': dict(images=400, classes=10, classes_used=10, seed=3, temperature=2.75),
    'two classes': dict(images=150, classes=2, classes_used=2, seed=4),
    'three classes': dict(images=150, classes=3, classes_used=3, seed=5),
    'one class': dict(images=7, classes=1, classes_used=1, seed=6),
    'one image': dict(images=1, classes=10, classes_used=10, seed=7),
    'one target': dict(images=30, classes=6, classes_used=1, seed=8),
    'one target, all right': dict(images=30, classes=6, classes_used=1, seed=8, bonus=100),
    'classes without images': dict(images=120, classes=8, classes_used=5, seed=9),
    'classes never predicted': dict(images=120, classes=8, classes_used=8, seed=10, never=[2, 7]),
    'classes neither': dict(images=120, classes=8, classes_used=6, seed=11, never=[6, 7]),
    'equal logits': dict(images=200, classes=8, classes_used=8, seed=12, steps=1, bonus=0),
    'few logits': dict(images=300, classes=12, classes_used=12, seed=13, steps=2, bonus=1),
    'flat': dict(images=60, classes=15, classes_used=15, seed=14, exponent=-200, bonus=0),
    'all right': dict(images=50, classes=7, classes_used=7, seed=15, bonus=16),
    'all wrong': dict(images=50, classes=7, classes_used=7, seed=16, bonus=-16),
    'extreme': dict(images=80, classes=6, classes_used=6, seed=17, exponent=-10, bonus=2048),
    'extreme, wrong': dict(images=80, classes=6, classes_used=6, seed=18, exponent=-10, bonus=-8192),
    'thousand': dict(images=3000, classes=1000, classes_used=1000, seed=19, bonus=3.5),
    'hundred': dict(images=2000, classes=100, classes_used=97, seed=20, bonus=3, steps=6, temperature=1.5),
}.items()]
for c in cases:
    logits, targets = generate(c)
    c['expected'] = metrics(logits, targets, c['temperature'])
    c['expected']['temperature'] = temperature(logits, targets)

wilson = [[k, n, level, *binomtest(k, n).proportion_ci(level, 'wilson')]
          for k, n in [(0, 1), (1, 1), (0, 50), (50, 50), (1, 50), (7, 9), (4321, 50000), (49999, 50000)] for level in (0.9, 0.95, 0.99)]
mcnemar = [[b, c, binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0]
           for b, c in [(0, 0), (0, 1), (1, 0), (3, 3), (0, 10), (2, 12), (12, 2), (40, 60), (300, 390), (5000, 5150), (24000, 24700),
                        (100, 1100), (1000, 60000)]]
json.dump({'cases': cases, 'wilson': wilson, 'mcnemar': mcnemar}, open('metrics.json', 'w'), indent=None, separators=(',', ':'))
