#!/usr/bin/env python3
"""Draws the curves of a CSV file, whose first column is the step, as an SVG: each column's running
mean over its raw line.

    python3 xtask/plots/curves.py docs/precision.csv docs/precision.svg --mean 20

Needs matplotlib.
"""

import argparse
import csv

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bellows"
import matplotlib.pyplot as plt


def running_mean(values, width):
    sums, total = [], 0.0
    for i, value in enumerate(values):
        total += value
        if i >= width:
            total -= values[i - width]
        sums.append(total / min(i + 1, width))
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv")
    parser.add_argument("svg")
    parser.add_argument("--mean", type=int, default=20, help="steps of the running mean")
    parser.add_argument("--ylabel", default="loss, nat/token")
    arguments = parser.parse_args()
    with open(arguments.csv, newline="") as file:
        header, *rows = csv.reader(file)
    steps = [float(row[0]) for row in rows]
    figure, axes = plt.subplots(figsize=(8, 4))
    for column, name in enumerate(header[1:], 1):
        values = [float(row[column]) for row in rows]
        (line,) = axes.plot(steps, running_mean(values, arguments.mean), label=name, linewidth=1.5)
        axes.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.7)
    axes.set_xlabel(header[0])
    axes.set_ylabel(arguments.ylabel)
    axes.grid(alpha=0.25)
    if len(header) > 2:
        axes.legend()
    figure.tight_layout()
    figure.savefig(arguments.svg, metadata={"Date": None})


if __name__ == "__main__":
    main()
