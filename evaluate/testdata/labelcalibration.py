# Writes labelcalibration.json: calibrations of labels. scikit-learn 1.9.1 fits the scaling that all labels share, and SciPy
# 1.17.1 that of each label.
# Run: python3 labelcalibration.py   (only to write the file again; no test needs Python)
import json
import numpy as np, scipy.optimize
from sklearn.calibration import _sigmoid_calibration

rng = np.random.default_rng(11)
cases = []
for n, k, weights in ((200, 4, None), (60, 3, [1.0, 4.0, 30.0])):
    shares = np.array([0.5, 0.25, 0.04, 0.3][:k])
    y = (rng.random((n, k)) < shares).astype(int)
    # too certain, with another offset for each label, and shifted as by positive weights
    z = 2 * (rng.standard_normal((n, k)) + 1.5 * y - 1) + 0.5 * np.arange(k) + (0 if weights is None else np.log(weights))
    z = z.astype(np.float32).astype(np.float64)
    shift = np.zeros(k) if weights is None else np.log(weights)
    a, b = _sigmoid_calibration((z - shift).ravel(), y.ravel())  # 1 / (1 + exp(a z + b))

    def entropy(ab, z, t):
        return np.sum(t * np.logaddexp(0, -(ab[0] * z + ab[1])) + (1 - t) * np.logaddexp(0, ab[0] * z + ab[1]))

    def fit(loss, start):
        return scipy.optimize.minimize(loss, start, method='BFGS', options={'gtol': 1e-9}).x

    yes = y.sum()
    t = np.where(y == 1, (yes + 1) / (yes + 2), 1 / (y.size - yes + 2)).ravel()
    shared = fit(lambda ab: entropy(ab, (z - shift).ravel(), t), [-a, -b])
    assert np.allclose(shared, [-a, -b], atol=2e-3), (shared, a, b)  # scikit-learn stops a little earlier
    each = []
    for c in range(k):
        at = [shared[0], shared[1] - shared[0] * shift[c]]
        loss = lambda ab: entropy(ab, z[:, c], y[:, c]) + ((ab[0] / at[0] - 1) ** 2 + (ab[1] - at[1]) ** 2) / 2 / 0.3 ** 2
        each.append([float(v) for v in fit(loss, at)])
    cases.append({'labels': k, 'weights': weights, 'targets': y.ravel().tolist(), 'logits': z.ravel().tolist(),
                  'shared': [float(v) for v in shared], 'each': each})
    print(shared, each)
json.dump(cases, open('labelcalibration.json', 'w'))
