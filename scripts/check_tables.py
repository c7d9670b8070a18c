#!/usr/bin/env python3
"""Typesets every table of some results folders with LaTeX, and reports those that do not fit.

    scripts/check_tables.py results/quickstart results/deep-vs-wide [--png DIR]

Needs pdflatex (for Chinese, xelatex with ctex) and pdftotext; and pdftoppm for --png, which saves an image of every page.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LEFT = 72.0  # left edge of the text, in PDF points
SPARE = 0.5  # tolerance for words beyond the edge, in points

DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[a4paper,left=1in,top=1in,bottom=1in,textwidth=%scm]{geometry}
%s
\usepackage{%s}
\begin{document}
\input{table.tex}
\end{document}
"""


def check(path, pictures):
    """Returns the problems of a table; none if it fits."""
    tex = path.read_text(encoding="utf-8")
    head = tex.split("\\begin{", 1)[0]
    packages = re.search(r"\\usepackage\{([\w,]+)\}; made for ([\d.]+) cm", head)
    if not packages:
        return ["says nothing of its packages and width"]
    is_chinese = "ctex" in head
    width = float(packages[2])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "table.tex").write_text(tex, encoding="utf-8")
        language = "\\usepackage[UTF8]{ctex}" if is_chinese else "\\usepackage[utf8]{inputenc}"
        (folder / "page.tex").write_text(DOCUMENT % (packages[2], language, packages[1]), encoding="utf-8")
        program = "xelatex" if is_chinese else "pdflatex"
        for _ in range(2):  # longtable needs two passes
            done = subprocess.run(
                [program, "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
                cwd=folder, capture_output=True, text=True, errors="replace",
            )
            if done.returncode:
                return [f"{program}: {line}" for line in done.stdout.splitlines() if line.startswith("!")] or [program]
        log = (folder / "page.log").read_text(encoding="utf-8", errors="replace")
        wrong = [line.strip() for line in log.splitlines() if line.startswith("Overfull \\hbox")]
        wrong += [line.strip() for line in log.splitlines() if line.startswith("Missing character")]
        words = subprocess.run(
            ["pdftotext", "-bbox", "page.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
        right = LEFT + width * 72 / 2.54
        for low, high, word in re.findall(r'xMin="([\d.-]+)".*?xMax="([\d.-]+)".*?>(.*?)</word>', words):
            if float(high) > right + SPARE or float(low) < LEFT - SPARE:
                wrong.append(f"{word!r} stands {float(high) - right:.1f} points beyond the text")
        if pictures:
            name = "-".join([path.parent.parent.name, path.stem])
            subprocess.run(["pdftoppm", "-png", "-r", "80", "page.pdf", str(pictures / name)], cwd=folder, check=True)
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="folders that a report wrote")
    parser.add_argument("--png", type=Path, help="folder for a picture of every page")
    args = parser.parse_args()
    if args.png:
        args.png.mkdir(parents=True, exist_ok=True)
    tables = [table for folder in args.results for table in sorted(folder.glob("tables/*.tex"))]
    if not tables:
        sys.exit("no tables in " + ", ".join(map(str, args.results)))
    if any("ctex" in table.read_text(encoding="utf-8") for table in tables) and not shutil.which("xelatex"):
        sys.exit("some tables hold Chinese, and there is no xelatex")
    png = args.png.resolve() if args.png else None
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda table: check(table, png), tables))
    for table, wrong in zip(tables, found):
        for line in wrong:
            print(f"{table}: {line}")
    bad = sum(map(bool, found))
    print(f"{len(tables)} tables, {bad} do not fit" if bad else f"{len(tables)} tables, all fit")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
