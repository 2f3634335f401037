"""Compares what TensorBoard and MLflow read with a run folder.

    python compare.py RUN LOGDIR [MLFLOW_URL]

Needs tensorboard (tested with 2.21.0) and, with a URL, mlflow (3.17.2). TestTools runs it. The
expected values come from the JSON files of the run alone.
"""

import io
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

folder, logdir = sys.argv[1:3]
address = sys.argv[3] if len(sys.argv) > 3 else None
name = os.path.basename(folder)
failures = []


def check(ok, text):
    if not ok:
        failures.append(text)
        print("FAIL:", text)


def read(*path):
    with open(os.path.join(folder, *path)) as f:
        return json.load(f)


config, result = read("config.json"), read("result.json")
options = config["tune"]
FIELDS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_second", "wait_share"]


def epochs(*path):
    """The figures of a training: {metric: {step: value}}."""
    out = {}
    with open(os.path.join(folder, *path, "metrics.jsonl")) as f:
        for line in map(json.loads, f):
            for field in FIELDS:
                if line.get(field):
                    out.setdefault(field, {})[line["epoch"]] = line[field]
            out.setdefault("epoch_seconds", {})[line["epoch"]] = line["seconds"]
            if line.get("test_accuracy"):
                out.setdefault("epoch_test_accuracy", {})[line["epoch"]] = line["test_accuracy"]
    return out


counts, last = result["counts"], len(result["epochs"])
final = {
    "val_accuracy": result["val_accuracy"],
    "test_accuracy": result["test"]["accuracy"],
    "test_loss": result["test"]["loss"],
    "test_max": result["test_max"],
    "tuned_parameters": counts["structured"] + counts["whole"] + counts["entries"],
    "head_parameters": counts["head"],
    "training_seconds": result["seconds"],
    "temperature": result["temperature"],
}
metrics, split = result["metrics"], result["metrics_of"]
for metric, value in {
    "top5": metrics["top5"],
    "balanced_accuracy": metrics["balanced_accuracy"],
    "macro_f1": metrics["macro"]["f1"],
    "kappa": metrics["kappa"],
    "log_loss": metrics["log_loss"],
    "ece": metrics["calibration"]["ece"],
    "ece_calibrated": result["calibrated"]["calibration"]["ece"],
}.items():
    final[f"{split}_{metric}"] = value
trainings = {"candidates/" + c: epochs("candidates", c) for c in os.listdir(os.path.join(folder, "candidates"))}
trainings["final"] = epochs()
for metric, value in final.items():
    trainings["final"].setdefault(metric, {})[last] = value
check(len(trainings) == 3, f"{len(trainings)} trainings, want two candidates and the final one")


def tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    images = None
    for title, want in trainings.items():
        path = os.path.join(logdir, name, title)
        check(len(os.listdir(path)) == 1, f"{path} holds {os.listdir(path)}")
        events = EventAccumulator(path, size_guidance={"images": 0, "scalars": 0, "tensors": 0})
        events.Reload()
        found = {}
        for tag in events.Tags()["scalars"]:
            for e in events.Scalars(tag):
                check(e.step not in found.setdefault(tag, {}), f"{title}: {tag} has step {e.step} twice")
                found[tag][e.step] = e.value
        for tag in events.Tags()["tensors"]:
            check(tag.startswith("_hparams_/"), f"{title}: unexpected tensor {tag}")
        check(found.keys() == want.keys(), f"{title}: scalars {sorted(found)}, want {sorted(want)}")
        for metric in want:
            same = found.get(metric, {}).keys() == want[metric].keys() and all(
                found[metric][s] == np.float32(v) for s, v in want[metric].items())
            check(same, f"{title}: {metric} is {found.get(metric)}, want {want[metric]}")
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = {k: v.number_value if v.HasField("number_value") else v.string_value if v.HasField("string_value") else v.bool_value
                   for k, v in metadata.parse_session_start_info_plugin_data(content).hparams.items()}
        budget = result["budget"] if title == "final" else title.split("/")[1]
        for key, value in {"method": options["method"], "budget": budget, "lr": options["train"]["lr"], "epochs": options["train"]["epochs"],
                           "batch_size": options["train"]["batch_size"], "seed": options["train"]["seed"], "model": config["model"]["path"],
                           "data": config["data"]["path"], "dropout": options["train"]["dropout"], "paper_protocol": True}.items():
            check(hparams.get(key) == value, f"{title}: hyper-parameter {key} is {hparams.get(key)!r}, want {value!r}")
        end = metadata.parse_session_end_info_plugin_data(events.summary_metadata["_hparams_/session_end_info"].plugin_data.content)
        check(end.status == 1 and end.end_time_secs > 0, f"{title}: the session ends with {end}")
        for tag in events.Tags()["images"]:
            check(title == "final" and tag == "confusion_matrix", f"{title}: image {tag}")
            images = [i.encoded_image_string for i in events.Images(tag)]
    check(images is not None and len(images) == 1, "there is no image")
    compare_matrix(images[0])
    return images[0]


def compare_matrix(encoded):
    """Compares the centres of the cells with the confusion matrix of the result."""
    n = len(result["classes"])
    matrix = np.zeros((n, n))
    for cell in metrics["confusion"]:
        matrix[cell["target"], cell["predicted"]] = cell["images"]
    check(matrix.sum() == result["test"]["images"] and np.trace(matrix) < matrix.sum(), f"the matrix {matrix} says nothing")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    want = np.floor(255 + (np.array([8, 48, 107]) - 255) * shares[..., None] + 0.5)
    side = 48
    drawn = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    cells = drawn[drawn.shape[0] - n * side:, drawn.shape[1] - n * side:]
    got = cells[side // 2::side, side // 2::side]
    check(np.array_equal(got, want), f"the image shows {got.tolist()}, want {want.tolist()}")


def tensorboard_server():
    """Asks a running TensorBoard with its fast loader, as the page does."""
    port = 20000 + os.getpid() % 10000
    server = subprocess.Popen([sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", str(port), "--load_fast", "true"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/data/{path}", data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=10))

    try:
        runs = {f"{name}/{title}" for title in trainings}
        for _ in range(300):
            try:
                tags = ask("plugin/scalars/tags")
                if runs <= tags.keys() and "test_loss" in tags[f"{name}/final"]:
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        else:
            check(False, "TensorBoard does not show the runs within 30 s")
            return
        for title, want in trainings.items():
            for metric, points in want.items():
                got = {step: value for _, step, value in ask(f"plugin/scalars/scalars?run={name}/{title.replace('%', '%25')}&tag={metric}")}
                check(got == {s: float(np.float32(v)) for s, v in points.items()}, f"TensorBoard shows {title}: {metric} as {got}")
        experiment = ask("plugin/hparams/experiment", {})
        infos = {i["name"] for i in experiment["hparamInfos"]}
        check({"method", "budget", "lr", "seed"} <= infos, f"TensorBoard lists the hyper-parameters {infos}")
        groups = ask("plugin/hparams/session_groups", {
            "startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_SUCCESS"],
            "colParams": [{"metric": {"group": "", "tag": "test_accuracy"}}]})["sessionGroups"]
        check(len(groups) == 3, f"the tab HPARAMS has {len(groups)} rows, want 3")
        best = [m["value"] for g in groups for m in g.get("metricValues", []) if m["name"]["tag"] == "test_accuracy"]
        check(best == [float(np.float32(final["test_accuracy"]))], f"the tab HPARAMS shows test_accuracy {best}")
        check(len(ask(f"plugin/images/tags")[f"{name}/final"]) == 1, "TensorBoard shows no image")
    finally:
        server.terminate()
        server.wait()


def mlflow(image):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("spt")
    runs = client.search_runs([experiment.experiment_id])
    check(len(runs) == 1, f"MLflow has {len(runs)} runs, want 1")
    run = runs[0]
    check(run.info.status == "FINISHED" and run.info.run_name == name, f"run {run.info.run_name} is {run.info.status}")
    budgets = ", ".join(options["budgets"]) if isinstance(options["budgets"], list) else None
    for key, value in {"method": options["method"], "budget": budgets, "chosen_budget": result["budget"], "lr": options["train"]["lr"],
                       "epochs": options["train"]["epochs"], "batch_size": options["train"]["batch_size"], "seed": options["train"]["seed"],
                       "weight_decay": options["train"]["weight_decay"], "rank": result["rank"], "model": config["model"]["path"],
                       "data": config["data"]["path"], "classes": config["data"]["classes"], "image_size": config["model"]["image_size"]}.items():
        got = run.data.params.get(key)
        same = float(got) == value if isinstance(value, (int, float)) and got is not None else got == value
        check(same, f"param {key} is {got!r}, want {value!r}")
    check(run.data.tags["spt_version"] == config["spt"], f"tags {run.data.tags}")
    check(run.data.tags["spt_model_fingerprint"] == config["model"]["fingerprint"], f"tags {run.data.tags}")
    want = {}
    for title, metrics in trainings.items():
        group = "" if title == "final" else title.replace("%", "pct") + "/"
        for metric, points in metrics.items():
            want[group + metric] = points
    check(run.data.metrics.keys() == want.keys(), f"metrics {sorted(run.data.metrics)}, want {sorted(want)}")
    for key, points in want.items():
        history = client.get_metric_history(run.info.run_id, key)
        check(len(history) == len(points), f"{key} has {len(history)} values, want {len(points)}")
        got = {m.step: m.value for m in history}
        check(got.keys() == points.keys() and all(math.isclose(got[s], v, rel_tol=1e-12) for s, v in points.items()), f"{key} is {got}, want {points}")
        check([m.step for m in sorted(history, key=lambda m: m.timestamp)] == sorted(points), f"the times of {key} are not in order")
    files = {"config.json", "result.json", "metrics.jsonl", "plan.json", "predictions.jsonl", "report.html", "spt_delta.json", "spt_delta.safetensors"}
    stored = {a.path for a in client.list_artifacts(run.info.run_id)}
    check(stored == files | {"confusion_matrix.png"}, f"artefacts {stored}")
    for path in stored:
        with open(client.download_artifacts(run.info.run_id, path), "rb") as f:
            content = f.read()
        if path == "confusion_matrix.png":
            check(content == image, "the image differs between TensorBoard and MLflow")
        else:
            with open(os.path.join(folder, path), "rb") as f:
                check(content == f.read(), f"the artefact {path} differs")


image = tensorboard()
tensorboard_server()
if address:
    mlflow(image)
print(f"{len(trainings)} trainings, {sum(len(p) for t in trainings.values() for p in t.values())} values compared, {len(failures)} differences")
sys.exit(bool(failures))
