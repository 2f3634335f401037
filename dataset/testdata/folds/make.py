# Writes folds.json: folds that scikit-learn 1.9.1 makes of random labels and groups. Each case has the labels, the
# groups (none: StratifiedKFold, otherwise StratifiedGroupKFold), the number of folds, and the number of images of
# each class in each fold. Of five shuffles, the case holds the one whose folds are the most equal.
# Run: python3 make.py   (only to write the file again; no test needs Python)
import json
import os
import numpy as np
import sklearn
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

def spread(counts, total):  # of scikit-learn: the mean of the standard deviations of the shares of each class
    return float(np.mean(np.std(counts / total, axis=0)))

cases = []
r = np.random.RandomState(0)
for number in range(40):
    classes, folds = r.randint(2, 7), r.randint(2, 8)
    share = r.dirichlet(np.ones(classes) * 3)
    grouped = number % 4 > 0
    if grouped:
        sizes = np.minimum(r.geometric(1 / r.randint(2, 8), r.randint(4 * folds, 60)), 30)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        if number % 4 == 1:  # all images of a group have one class
            y = np.repeat(r.choice(classes, len(sizes), p=share), sizes)
        elif number % 4 == 2:
            y = r.choice(classes, len(groups), p=share)
        else:  # most images of a group have one class
            y = np.where(r.rand(len(groups)) < 0.7, np.repeat(r.choice(classes, len(sizes), p=share), sizes), r.choice(classes, len(groups), p=share))
    else:
        groups, y = None, r.choice(classes, r.randint(folds * classes * 3, 300), p=share)
    names, y = np.unique(y, return_inverse=True)
    total = np.bincount(y)
    if total.min() < folds:
        continue
    best = None
    for seed in range(5):
        how = (StratifiedGroupKFold if grouped else StratifiedKFold)(folds, shuffle=True, random_state=seed)
        counts = np.array([np.bincount(y[test], minlength=len(names)) for _, test in how.split(np.zeros(len(y)), y, groups)])
        if best is None or spread(counts, total) < spread(best, total):
            best = counts
    cases.append({"labels": y.tolist(), "groups": groups.tolist() if grouped else None, "folds": int(folds), "counts": best.tolist(), "spread": spread(best, total)})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "folds.json"), "w") as f:
    json.dump({"sklearn": sklearn.__version__, "numpy": np.__version__, "cases": cases}, f, separators=(",", ":"))
    f.write("\n")
