#!/usr/bin/env bash
# Executes the notebooks on a results folder, and writes them as HTML pages.
#
#     scripts/run_notebooks.sh [RESULTS] [OUT]      # default: results/quickstart and a temporary folder
#
# Jupyter, pandas and matplotlib are installed into a virtual environment, NOTEBOOK_VENV, unless it exists.
set -euo pipefail
results=$(realpath -e "${1:-$(dirname "$0")/../results/quickstart}")
out=$(realpath "${2:-$(mktemp -d)}")
cd "$(dirname "$0")/.."
venv="${NOTEBOOK_VENV:-target/notebooks}"
if [ ! -x "$venv/bin/jupyter-nbconvert" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet nbconvert ipykernel pandas matplotlib
fi
for notebook in notebooks/*.ipynb; do
    "$venv/bin/python" - "$notebook" <<'CHECK'
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
    sys.exit(f"{sys.argv[1]}: has outputs; clear them before it is checked in")
CHECK
    RESULTS="$results" "$venv/bin/python" -W ignore -m jupyter nbconvert --to html --execute "$notebook" --output-dir "$out" --log-level WARN
    echo "$out/$(basename "${notebook%.ipynb}").html"
done
