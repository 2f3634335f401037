"""The command line, the clock and the result of the peers that are compared by accuracy and time.

Each script tunes or probes a backbone for a data set within a number of seconds of wall clock, from
the start of its process to its end, images read from files and test included. It trains on the
training images, chooses on the validation images, tests once, and prints one JSON object:

  python internal/bench/peers/features_sklearn.py DATA --model vit_tiny_….safetensors --seconds 120
  python internal/bench/peers/lora_timm.py DATA --model vit_tiny_….safetensors --seconds 120
  python internal/bench/peers/convert_transformers.py vit_tiny_….safetensors converted   # once
  python internal/bench/peers/lora_transformers.py DATA --model converted --seconds 120

docs/experiments/accuracy_by_time.py runs the scripts in turn with spt and makes the table. DATA is
a data set with training, validation and test images in a layout of layouts.py. The images are
resized to the square of the backbone, without augmentation, and kept as bytes in memory.

The object names the versions of the packages that ran. The scripts were written for Python 3.11 and
these versions, which pip installs from PyPI:

  pip install torch==2.15.0 timm==1.0.31 peft==0.21.2 transformers==5.24.0 scikit-learn==1.9.1 \\
      accelerate==1.15.0 safetensors==0.8.0 pillow==13.0.0 numpy==2.4.6
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import time

# EXIT is the time in seconds that is kept for the end of the process after the test.
EXIT = 0.5
# SLOWER is the factor by which the test may be slower than the forward passes before it.
SLOWER = 1.05
# WARM_UP is the share of the training time in which the learning rate rises.
WARM_UP = 0.1


class Clock:
    """Clock measures the phases of the process and the time that is left to it, in seconds."""

    def __init__(self, seconds):
        self.start = time.perf_counter() - process_age()
        self.deadline = self.start + seconds - EXIT
        self.mark = self.start
        self.phases = {}

    def end(self, phase):
        """end adds the time since the last call to a phase."""
        now = time.perf_counter()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self.mark
        self.mark = now

    def left(self):
        """left returns the seconds until the test must have ended."""
        return self.deadline - time.perf_counter()

    def refuse(self, reason):
        """refuse ends the process because its time is too short."""
        raise SystemExit(f"{self.left() + EXIT:.1f} s are left, too few: {reason}; give more --seconds or a smaller --image-size")


def process_age():
    """process_age returns the seconds since the process started, or 0 without /proc."""
    try:
        with open("/proc/self/stat") as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class Schedule:
    """Schedule spreads the time before the test over steps and validations.

    The learning rate depends on the share of the training time that has passed: it rises linearly,
    then falls to zero as a cosine. So it ends at zero at any speed of the machine, and the number
    of steps need not be known.
    """

    def __init__(self, clock, step_seconds, image_seconds, train, val, test, batch, choose):
        self.clock, self.step_seconds, self.image_seconds = clock, step_seconds, image_seconds
        self.epoch, self.val, self.test = math.ceil(train / batch), val, test
        self.steps, self.spent, self.validates = 0, 0.0, False
        if self.left() < 0:
            clock.refuse(f"the test of {test} images takes {test * image_seconds:.0f} s")
        # Without a second epoch there is nothing to choose from.
        self.validates = choose and self.left() >= 2 * (self.epoch * step_seconds + val * image_seconds)

    def left(self):
        """left returns the seconds for the remaining steps, without validations and test."""
        left = self.clock.left() - SLOWER * self.test * self.image_seconds
        if self.validates:
            one = self.val * self.image_seconds
            steps = max(0.0, (left - one) / (self.step_seconds + one / self.epoch))
            left -= one * math.ceil((self.steps % self.epoch + steps) / self.epoch)
        return left

    def ended(self):
        """ended reports whether the time is too short for another step."""
        return self.left() < self.step_seconds

    def rate(self):
        """rate returns the factor of the learning rate for the next step."""
        share = self.spent / (self.spent + max(0.0, self.left()) + 1e-9)
        if share < WARM_UP:
            return max(share / WARM_UP, 0.05)
        return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))

    def stepped(self, seconds):
        """stepped counts a step of this duration."""
        self.steps += 1
        self.spent += seconds
        self.step_seconds = self.spent / self.steps


def start(description, batch=None):
    """start reads the command line and returns it with the clock of the process.

    Call it before you import PyTorch: it sets the number of threads in the environment. A script
    that trains in mini-batches gives their default size.
    """
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", help="the folder of the data set")
    p.add_argument("--model", required=True, help="the backbone")
    p.add_argument("--seconds", type=float, required=True, help="wall clock from the start of the process to its end")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16 computes with autocast")
    if batch:
        p.add_argument("--batch", type=int, default=batch)
        p.add_argument("--lr", type=float, default=3e-3)
        p.add_argument("--rank", type=int, default=8)
        p.add_argument(
            "--choose", choices=["epoch", "none"], default="epoch",
            help="epoch: train on the training images and keep the epoch that is best on the validation images; "
            "none: train on both and keep the last state",
        )
    args = p.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    return args, Clock(args.seconds)


def finish(args, clock, packages, **fields):
    """finish prints the JSON object and ends the process. Accuracies are from 0 to 1."""
    versions = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}
    print(json.dumps(
        fields | vars(args) | {
            "phases": {name: round(seconds, 2) for name, seconds in clock.phases.items()},
            "used_seconds": round(time.perf_counter() - clock.start, 2),
            "versions": versions,
        }
    ), flush=True)
    os._exit(0)  # without the second that it takes to unload PyTorch
