# Writes labels.json: metrics of images with several labels that scikit-learn 1.9.1 and PyTorch 2.15.0 compute.
# Run: python3 labels.py   (only to write the file again; no test needs Python)
import json, warnings
import numpy as np, sklearn, torch
from sklearn.metrics import (accuracy_score, average_precision_score, f1_score, hamming_loss,
                             precision_recall_fscore_support)

warnings.simplefilter('ignore')
rng = np.random.default_rng(7)
cases = []
for n, k, steps, empty in ((40, 5, 0, ()), (60, 4, 3, (2,)), (1, 3, 0, (0,)), (30, 1, 6, ())):
    targets = (rng.random((n, k)) < rng.random(k) * 0.7).astype(int)
    targets[:, list(empty)] = 0
    if n == 1:
        targets[0] = [0, 1, 0]
    logits = (rng.standard_normal((n, k)) * 2 + targets).astype(np.float32)
    if steps:  # few values, so that logits are equal
        logits = (np.round(logits * steps) / steps).astype(np.float32)
    thresholds = np.round(rng.random(k) * 0.8 + 0.1, 3)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    case = {'labels': k, 'logits': [float(v) for v in logits.ravel()], 'targets': targets.ravel().tolist(), 'thresholds': thresholds.tolist()}
    has = [int(c) for c in np.flatnonzero(targets.sum(0))]
    case['ap'] = [average_precision_score(targets[:, c], logits[:, c]) if c in has else None for c in range(k)]
    case['map'] = float(average_precision_score(targets[:, has], logits[:, has], average='macro')) if len(has) > 1 else case['ap'][has[0]]
    case['micro_map'] = float(average_precision_score(targets.ravel(), logits.ravel()))
    if len(has) == k > 1:
        assert case['micro_map'] == average_precision_score(targets, logits, average='micro')
    case['loss'] = float(torch.nn.BCEWithLogitsLoss()(torch.tensor(logits, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)))
    for name, limit in (('half', np.full(k, 0.5)), ('given', thresholds)):
        said = (p >= limit).astype(int)
        both = lambda c: (np.pad(targets, ((0, 0), (0, 1))), np.pad(said, ((0, 0), (0, 1))))  # two columns make one label multi-label
        y, q = both(k)
        each = precision_recall_fscore_support(y, q, average=None, zero_division=0)
        case[name] = {
            'macro': [float(v) for v in precision_recall_fscore_support(y, q, average='macro', labels=has, zero_division=0)[:3]],
            'micro': [float(v) for v in precision_recall_fscore_support(y, q, average='micro', labels=list(range(k)), zero_division=0)[:3]],
            'subset_accuracy': float(accuracy_score(y, q)),
            'hamming_loss': float(hamming_loss(targets.ravel(), said.ravel())),
            'each': [[float(each[m][c]) for m in range(3)] + [int(each[3][c])] for c in range(k)],
            'together': (targets.T @ targets).tolist(), 'predicted': (said.T @ said).tolist(), 'right': ((targets * said).T @ (targets * said)).tolist(),
        }
    cases.append(case)
json.dump(cases, open('labels.json', 'w'))
print('scikit-learn', sklearn.__version__, 'torch', torch.__version__)
