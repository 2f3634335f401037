#!/usr/bin/env python3
"""Measures the test accuracy that tools reach within a time, and makes the table.

  accuracy_by_time.py run --data DATA --model FILE --spt SPT --out DIR --csv FILE
  accuracy_by_time.py table FILE

run tunes every data set in DATA with every tool, time and seed, one after the other, and the tools
in turn. A run has the time of --seconds on --threads processors, from the start of its process to
its end. Its images are files. Each run adds a row to the CSV file at once; runs that have a row are
not repeated, so the command continues after a stop. Delete a row to repeat its run. The output of a
run is in DIR. Use an idle machine: the column load is the load average (1 minute) before a run.

run needs Linux (taskset, timeout) and Python 3.9 or newer. The peers need the packages that
internal/bench/peers/timed.py lists, in the Python of --python. The list of tools is TOOLS below;
--tool NAME=COMMAND replaces or adds one. A command prints a JSON object with the accuracy on its
last line, or as a whole, in the field "accuracy" or "result.test.accuracy".

The columns of the CSV file:

  accuracy   test accuracy in percent; empty without a result
  steps      training steps of a peer
  wall       seconds from the start of the process to its end
  cpu        core-seconds: user and system time of the process and all its children
  exit       exit status: 0; 124 or -9 if the run was stopped at its limit; others if the tool
             failed or refused its time (see DIR)
"""

import argparse
import collections
import csv
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import time

PEERS = pathlib.Path(__file__).resolve().parents[2] / "internal" / "bench" / "peers"
PEER = "--seconds {seconds} --seed {seed} --threads {threads}"
TOOLS = {
    "spt": "{spt} tune --model {model} --data {set} --time {seconds}s --seed {seed} --out {dir}/run --json",
    "scikit-learn": "{python} {peers}/features_sklearn.py {set} --model {model} " + PEER,
    "timm + PEFT": "{python} {peers}/lora_timm.py {set} --model {model} " + PEER,
    "Transformers + PEFT": "{python} {peers}/lora_transformers.py {set} --model {converted} " + PEER,
    # The same with smaller images, and with bfloat16.
    "scikit-learn 128px": "{python} {peers}/features_sklearn.py {set} --model {model} --image-size 128 " + PEER,
    "timm + PEFT 128px": "{python} {peers}/lora_timm.py {set} --model {model} --image-size 128 " + PEER,
    "Transformers + PEFT 128px": "{python} {peers}/lora_transformers.py {set} --model {converted} --image-size 128 " + PEER,
    "scikit-learn bf16": "{python} {peers}/features_sklearn.py {set} --model {model} --dtype bf16 " + PEER,
    "timm + PEFT bf16": "{python} {peers}/lora_timm.py {set} --model {model} --dtype bf16 " + PEER,
    "Transformers + PEFT bf16": "{python} {peers}/lora_transformers.py {set} --model {converted} --dtype bf16 " + PEER,
}
DEFAULT_TOOLS = ["spt", "scikit-learn", "timm + PEFT", "Transformers + PEFT"]
COLUMNS = ["tool", "set", "seconds", "threads", "seed", "accuracy", "steps", "wall", "cpu", "load", "exit"]
# LATE is the factor of the time after which a run is stopped. The table marks runs beyond their time.
LATE = 1.05


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    r = commands.add_parser("run", help="measure")
    r.add_argument("--data", type=pathlib.Path, required=True, help="the folder of the data sets")
    r.add_argument("--model", type=pathlib.Path, required=True, help="a safetensors file whose name is timm's name of the model")
    r.add_argument("--out", type=pathlib.Path, required=True, help="the folder for the output of the runs")
    r.add_argument("--csv", type=pathlib.Path, required=True, help="the file for the results")
    r.add_argument("--spt", default="spt", help="the program spt")
    r.add_argument("--python", default=sys.executable, help="the Python of the peers")
    r.add_argument("--tools", help="names, separated by commas (default: %s)" % ",".join(DEFAULT_TOOLS))
    r.add_argument("--tool", action="append", default=[], metavar="NAME=COMMAND", help="another tool; it is run too")
    r.add_argument("--sets", help="names, separated by commas (default: all folders of --data)")
    r.add_argument("--seconds", default="30,120,360")
    r.add_argument("--seeds", default="0,1,2")
    r.add_argument("--threads", type=int, default=2)
    t = commands.add_parser("table", help="make the table in Markdown")
    t.add_argument("csv", type=pathlib.Path)
    args = p.parse_args()
    if args.command == "run":
        run(args)
    else:
        print_table(args.csv)


def run(args):
    added = dict(tool.split("=", 1) for tool in args.tool)
    tools = TOOLS | added
    names = (args.tools.split(",") if args.tools else DEFAULT_TOOLS) + list(added)
    names = list(dict.fromkeys(names))
    if unknown := [name for name in names if name not in tools]:
        raise SystemExit(f"unknown tools {unknown}; the tools are {list(tools)}")
    sets = args.sets.split(",") if args.sets else sorted(p.name for p in args.data.iterdir() if p.is_dir())
    args.out.mkdir(parents=True, exist_ok=True)
    converted = args.out / "converted"
    if any("{converted}" in tools[name] for name in names) and not (converted / "preprocessor_config.json").exists():
        subprocess.run([args.python, PEERS / "convert_transformers.py", args.model, converted, "--check"], check=True)
    done = set()
    if args.csv.exists():
        done = {key(row) for row in read(args.csv)}
    else:
        append(args.csv, COLUMNS)
    for seed in args.seeds.split(","):
        for seconds in args.seconds.split(","):
            for name in sets:
                for tool in names:
                    row = {"tool": tool, "set": name, "seconds": seconds, "threads": args.threads, "seed": seed}
                    if key(row) in done:
                        continue
                    folder = args.out / "-".join([tool, name, seconds, str(args.threads), seed]).replace(" ", "_")
                    words = {
                        "spt": args.spt, "python": args.python, "peers": PEERS, "model": args.model, "converted": converted,
                        "set": args.data / name, "seconds": seconds, "seed": seed, "threads": args.threads, "dir": folder,
                    }
                    row |= measure([part.format(**words) for part in shlex.split(tools[tool])], folder, float(seconds), args.threads)
                    append(args.csv, [row[c] for c in COLUMNS])
                    print(row, file=sys.stderr)


def key(row):
    return tuple(str(row[c]) for c in ("tool", "set", "seconds", "threads", "seed"))


def measure(command, folder, seconds, threads):
    """measure runs the command with its limit, and returns the columns from accuracy on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {name: str(threads) for name in ("GOMAXPROCS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    processors = ",".join(str(k) for k in sorted(os.sched_getaffinity(0))[:threads])
    command = ["taskset", "-c", processors, "timeout", "--kill-after=5", str(LATE * seconds), *command]
    load = os.getloadavg()[0]
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.terminate()  # timeout passes the signal on to its group, which Ctrl-C does not reach
            raise
        wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode < 0 and wall < LATE * seconds:
        raise SystemExit(f"signal {-process.returncode} from outside stopped the run in {folder}; it has no row. Run the command again")
    accuracy, steps = "", ""
    if process.returncode == 0:
        try:
            result = last_json((folder / "stdout").read_text())
            value = result["accuracy"] if "accuracy" in result else result["result"]["test"]["accuracy"]
        except (ValueError, LookupError) as e:
            raise SystemExit(f"reading {folder}/stdout: no JSON object with an accuracy: {e!r}") from e
        accuracy, steps = f"{100 * value:.2f}", result.get("steps", "")
    return {
        "accuracy": accuracy, "steps": steps, "wall": f"{wall:.2f}", "cpu": f"{usage.ru_utime + usage.ru_stime:.2f}",
        "load": f"{load:.2f}", "exit": process.returncode,
    }


def last_json(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(text.strip().splitlines()[-1])


def read(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def append(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as f:
        csv.writer(f, lineterminator="\n").writerow(values)
        f.flush()
        os.fsync(f.fileno())


def print_table(path):
    """print_table prints a row for each time and tool: mean ± deviation over seeds, in percent."""
    rows = read(path)
    sets = list(dict.fromkeys(row["set"] for row in rows))
    groups = collections.defaultdict(list)
    for row in rows:
        groups[float(row["seconds"]), int(row["threads"]), row["tool"]].append(row)
    print("| core-minutes | tool | " + " | ".join(sets) + " | mean | core-seconds | longest, s | runs |")
    print("|" + "---|" * (len(sets) + 6))
    notes = {"†": False, "–": False}
    order = {tool: k for k, tool in enumerate(dict.fromkeys(row["tool"] for row in rows))}
    for (seconds, threads, tool), group in sorted(groups.items(), key=lambda item: (item[0][:2], order[item[0][2]])):
        cells, means = [], collections.defaultdict(list)
        for name in sets:
            runs = [row for row in group if row["set"] == name]
            values = [float(row["accuracy"]) for row in runs if row["accuracy"]]
            for row in runs:
                if row["accuracy"]:
                    means[row["seed"]].append(float(row["accuracy"]))
            mark = "†" if any(float(row["wall"]) > seconds for row in runs if row["accuracy"]) else ""
            lost = len(runs) - len(values)
            cells.append(spread(values) + mark + (f" ({lost} –)" if lost and values else ""))
            notes["†"] |= bool(mark)
            notes["–"] |= lost > 0
        # The mean is over all data sets, of the seeds that have a result on each.
        full = [statistics.mean(values) for values in means.values() if len(values) == len(sets)]
        cpu = statistics.mean(float(row["cpu"]) for row in group)
        wall = max(float(row["wall"]) for row in group)
        print(f"| {seconds * threads / 60:g} | {tool} | " + " | ".join(cells) + f" | {spread(full)} | {cpu:.0f} | {wall:.1f} | {len(group)} |")
    if notes["†"]:
        print("\n† A run ended after its time.")
    if notes["–"]:
        print("\n– Without a result: the run was stopped at its limit, or the tool refused its time or failed. The number of such runs is in brackets.")


def spread(values):
    """spread returns the mean, and the sample standard deviation of two or more values."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


main()
