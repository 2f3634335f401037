# Writes logistic.json and labels.json: logistic regressions that scikit-learn 1.9.1 (with NumPy 2.4.6 and SciPy 1.17.1)
# fits to generated features. Each case has the features, the labels, the strength of L2 in the meaning of package probe,
# and the weights, biases and losses of scikit-learn for raw features. In labels.json, an image has any number of labels;
# PyTorch 2.15.0 computes the losses.
# Run: python3 make.py   (only to write the file again; no test needs Python)
import json
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def case(name, seed, n, width, classes, spread, l2s, class_weights=None, share=None):
    r = np.random.RandomState(seed)
    centres = r.randn(classes, width) * spread
    y = r.choice(classes, n, p=share)
    y[:classes] = np.arange(classes)
    mix = r.randn(width, width)  # correlated features of different scales and offsets
    x = ((centres[y] + r.randn(n, width)) @ mix * 10.0 ** r.uniform(-2, 2, width) + 5 * r.randn(width)).astype(np.float32)
    weights = np.ones(n) if class_weights is None else np.array(class_weights)[y]
    fits = []
    for l2 in l2s:
        # The binary form has one vector w = w1 - w0 and the penalty |w|²/2. The softmax of two classes has the penalty
        # (|w0|² + |w1|²)/2 = |w|²/4.
        c = (2 if classes == 2 else 1) / (l2 * weights.sum())
        scaler, model = StandardScaler(), LogisticRegression(C=c, solver='newton-cg', tol=1e-9, max_iter=10000)
        fitted = make_pipeline(scaler, model).fit(x.astype(np.float64), y, logisticregression__sample_weight=weights)
        w, b = model.coef_ / scaler.scale_, model.intercept_
        b = b - w @ scaler.mean_
        if classes == 2:
            w, b = np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2
        p = fitted.predict_proba(x.astype(np.float64))
        fits.append(dict(l2=l2, weight=[float('%.8g' % v) for v in w.ravel()], bias=[float('%.8g' % v) for v in b],
                         loss=log_loss(y, p, labels=np.arange(classes)), weighted_loss=log_loss(y, p, labels=np.arange(classes), sample_weight=weights),
                         accuracy=float((p.argmax(1) == y).mean())))
    return dict(name=name, width=width, classes=classes, class_weights=class_weights,
                values=[float('%.9g' % v) for v in x.ravel()], labels=y.tolist(), fits=fits)

cases = [
    case('five classes', 1, 120, 6, 5, 0.9, [1, 0.03, 1e-3]),
    case('two classes', 2, 80, 5, 2, 0.4, [0.3, 1e-2]),
    case('separable, wider than its images', 3, 15, 24, 5, 1.0, [0.1, 1e-4]),
    case('class weights', 4, 90, 4, 3, 0.7, [0.1, 1e-3], [0.5, 1, 4], [0.7, 0.2, 0.1]),
]
with open('logistic.json', 'w') as f:
    json.dump(cases, f, separators=(',', ':'))

def labels_case(name, seed, n, width, labels, spread, shares, l2s, positive=None):
    r = np.random.RandomState(seed)
    y = (r.rand(n, labels) < np.array(shares)).astype(int)
    y[:2] = [[0] * labels, [1] * labels]  # each label has images of both kinds
    mix = r.randn(width, width)
    x = ((y @ r.randn(labels, width) * spread + r.randn(n, width)) @ mix * 10.0 ** r.uniform(-2, 2, width) + 5 * r.randn(width)).astype(np.float32)
    weights = np.where(y == 1, np.ones(labels) if positive is None else np.array(positive), 1.0)
    fits = []
    for l2 in l2s:
        def model():
            return LogisticRegression(C=1 / (l2 * n), solver='newton-cg', tol=1e-9, max_iter=10000)
        scaler = StandardScaler().fit(x.astype(np.float64))
        z = scaler.transform(x.astype(np.float64))
        if positive is None:
            fitted = OneVsRestClassifier(model()).fit(z, y).estimators_
        else:  # OneVsRestClassifier has no weights for each label
            fitted = [model().fit(z, y[:, k], sample_weight=weights[:, k]) for k in range(labels)]
        w = np.concatenate([m.coef_ for m in fitted]) / scaler.scale_
        b = np.concatenate([m.intercept_ for m in fitted]) - w @ scaler.mean_
        logits, targets = torch.tensor(x.astype(np.float64) @ w.T + b), torch.tensor(y, dtype=torch.float64)
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=None if positive is None else torch.tensor(positive, dtype=torch.float64))
        fits.append(dict(l2=l2, weight=[float('%.8g' % v) for v in w.ravel()], bias=[float('%.8g' % v) for v in b],
                         loss=float(torch.nn.BCEWithLogitsLoss()(logits, targets)), weighted_loss=float(loss(logits, targets)),
                         accuracy=float(((logits > 0) == (targets == 1)).double().mean())))
    return dict(name=name, width=width, classes=labels, class_weights=positive,
                values=[float('%.9g' % v) for v in x.ravel()], labels=y.ravel().tolist(), fits=fits)

cases = [
    labels_case('four labels', 5, 120, 6, 4, 0.9, [0.5, 0.3, 0.1, 0.7], [1, 0.03, 1e-3]),
    labels_case('separable, wider than its images', 6, 15, 24, 3, 1.0, [0.5, 0.3, 0.2], [0.1, 1e-4]),
    labels_case('positive weights', 7, 90, 4, 3, 0.7, [0.5, 0.1, 0.2], [0.1, 1e-3], [1, 9, 4]),
]
with open('labels.json', 'w') as f:
    json.dump(cases, f, separators=(',', ':'))
