#!/usr/bin/env python3
"""Measures how well `spt tune --time` keeps its limit while other programs use the processor.

  time_limits.py run --data DATA --model FILE --spt SPT --out DIR --csv FILE
  time_limits.py table FILE

run tunes the data sets in DATA with each limit of --seconds and each image size of --sizes ("auto"
lets spt choose). Beside each run, --others processes compute on the same processors. Each run adds
a row to the CSV file at once; runs that have a row are not repeated. run needs Linux.

The columns of the CSV file: set, seconds (the limit), size, others (computing processes), load
(average of a minute before the run), wall (seconds from the start of the process to its end), exit
(exit status), result ("tuning", or "probe" if the time was too short for a training), accuracy
(test accuracy in percent) and tested (number of tested images).
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

COLUMNS = ["set", "seconds", "size", "others", "load", "wall", "exit", "result", "accuracy", "tested"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    r = commands.add_parser("run")
    for name in ("data", "model", "spt", "out", "csv"):
        r.add_argument("--" + name, type=pathlib.Path, required=True)
    r.add_argument("--seconds", default="30,60,90")
    r.add_argument("--sizes", default="auto,224")
    r.add_argument("--sets", default="", help="default: all folders in DATA")
    r.add_argument("--others", type=int, default=2)
    t = commands.add_parser("table")
    t.add_argument("csv", type=pathlib.Path)
    args = parser.parse_args()
    (run if args.command == "run" else table)(args)


def run(args):
    sets = args.sets.split(",") if args.sets else sorted(p.name for p in args.data.iterdir() if p.is_dir())
    done = set()
    if args.csv.exists():
        with open(args.csv) as f:
            done = {(row["set"], row["seconds"], row["size"]) for row in csv.DictReader(f)}
    else:
        append(args.csv, COLUMNS)
    args.out.mkdir(parents=True, exist_ok=True)
    for seconds, size, name in itertools.product(args.seconds.split(","), args.sizes.split(","), sets):
        if (name, seconds, size) in done:
            continue
        row = {"set": name, "seconds": seconds, "size": size, "others": args.others} | measure(args, name, seconds, size)
        append(args.csv, [row[c] for c in COLUMNS])
        print(row, file=sys.stderr)


def measure(args, name, seconds, size):
    folder = args.out / f"{name}-{seconds}-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [args.spt, "tune", "--model", args.model, "--data", args.data / name, "--time", seconds + "s", "--out", folder, "--json"]
    if size != "auto":
        command += ["--image-size", size]
    load = os.getloadavg()[0]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.others)]
    try:
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        wall = time.perf_counter() - begin
    finally:
        for p in others:
            p.kill()
            p.wait()
    row = {"load": f"{load:.2f}", "wall": f"{wall:.2f}", "exit": done.returncode, "result": "", "accuracy": "", "tested": ""}
    if done.returncode == 0:
        result = json.loads(done.stdout)["result"]
        row["result"] = "probe" if result["method"] == "linear" else "tuning"
        if "test" in result:
            row["accuracy"], row["tested"] = f"{100 * result['test']['accuracy']:.2f}", result["test"].get("images", "")
    return row


def append(path, values):
    with open(path, "a", newline="") as f:
        csv.writer(f, lineterminator="\n").writerow(values)


def table(args):
    with open(args.csv) as f:
        rows = list(csv.DictReader(f))
    print("| limit, s | runs | refused | result of a training | time, share of the limit | longest | mean accuracy |\n|---|---|---|---|---|---|---|")
    for seconds in sorted({row["seconds"] for row in rows}, key=float):
        of = [row for row in rows if row["seconds"] == seconds]
        ended = [row for row in of if row["exit"] == "0"]
        shares = [float(row["wall"]) / float(seconds) for row in ended]
        accuracies = [float(row["accuracy"]) for row in ended if row["accuracy"]]
        mean = f"{sum(accuracies) / len(accuracies):.1f}" if accuracies else "–"
        print(f"| {seconds} | {len(of)} | {len(of) - len(ended)} | {sum(row['result'] == 'tuning' for row in ended)} | "
              f"{min(shares):.2f} to {max(shares):.3f} | {max(float(row['wall']) for row in ended):.1f} s | {mean} |")


if __name__ == "__main__":
    main()
