#!/usr/bin/env bash
# Checks that are too heavy for CI, in parts; see CONTRIBUTING.md.
#
#     scripts/check_all.sh                  # all parts
#     scripts/check_all.sh survival peer    # some parts
#
# PYTHON names a Python with torch, transformers and scipy, TEXT a file of JSON lines with the key text,
# RESULTS the results folders whose tables are typeset (default: all in results/), MODEL a model folder with a chat
# template and SHEETS a folder of C-Eval's sheets, for clients.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
folder=$(mktemp -d)
passed=() failed=() not_run=()

program() {
    cargo build --release -p mindscale >&2 && echo "${CARGO_TARGET_DIR:-target}/release/mindscale"
}

missing() {
    echo "not run: $1"
    return 3
}

with_peer() {
    "$python" -c 'import torch, transformers, scipy' 2>/dev/null || missing "$python has no torch, transformers or scipy; set PYTHON"
}

ci() { .ci/run; }

quickstart() {
    "$(program)" run experiments/quickstart.toml --runs "$folder/runs" --results results \
        && echo "look at results/quickstart/report.html"
}

tables() {
    for program in pdflatex xelatex pdftotext; do
        command -v "$program" >/dev/null || { missing "$program is not installed"; return; }
    done
    # shellcheck disable=SC2086 # several folders
    "$python" scripts/check_tables.py ${RESULTS:-results/*/}
}

survival() { SURVIVAL_ROUNDS=20 cargo test -p mindscale --test integration survival::; }

slurm() {
    command -v slurmctld >/dev/null || { missing "Slurm is not installed"; return; }
    sed -e 's/^steps = .*/steps = 200/' sweeps/quickstart.toml > "$folder/quickstart.toml"
    scripts/slurm_test.sh "$(program)" "$folder/quickstart.toml"
}

peer() {
    with_peer || return
    [ -n "${TEXT:-}" ] || { missing "no text; set TEXT"; return; }
    "$python" scripts/peer_training.py --mindscale "$(program)" --text "$TEXT"
}

speed() {
    with_peer || return
    "$python" scripts/bench_pytorch.py train --mindscale "$(program)"
}

fuzz() {
    cargo fuzz --version >/dev/null 2>&1 || { missing "cargo-fuzz is not installed"; return; }
    local reader
    for reader in $(grep -o 'name: "[a-z]*"' fuzz/src/readers.rs | cut -d'"' -f2); do
        READER="$reader" RUSTC_BOOTSTRAP=1 cargo fuzz run readers -- -max_total_time=60 -rss_limit_mb=2048 || return 1
    done
}

page() {
    "$python" -c 'import playwright' 2>/dev/null || { missing "$python has no playwright; see scripts/check_page.py"; return; }
    "$python" scripts/check_page.py
}

clients() {
    "$python" -c 'import openai, lm_eval, transformers' 2>/dev/null \
        || { missing "$python has no openai, lm_eval or transformers; set PYTHON"; return; }
    [ -n "${MODEL:-}" ] && [ -n "${SHEETS:-}" ] || { missing "no model or no sheets; set MODEL and SHEETS"; return; }
    local mindscale server failed=0
    mindscale="$(program)"
    "$mindscale" serve "$MODEL" --port 8766 & server=$!
    sleep 5
    "$python" scripts/check_openai.py --base-url http://127.0.0.1:8766/v1 || failed=1
    "$python" scripts/load_serve.py --pid $server --port 8766 || failed=1
    kill $server; wait $server
    for format in minimind lm_eval; do
        "$python" scripts/check_lm_eval.py "$MODEL" --sheets "$SHEETS" --format $format --mindscale "$mindscale" || failed=1
    done
    return $failed
}

notebooks() {
    local results="${RESULTS:-results/quickstart}" # the first of several
    results="${results%% *}"
    [ -f "$results/trials.csv" ] || { missing "$results has no trials.csv; run the part quickstart, or set RESULTS"; return; }
    scripts/run_notebooks.sh "$results" "$folder"
}

exports() {
    with_peer || return
    local formats="hf pth"
    "$python" -c 'import llama_cpp' 2>/dev/null && formats="$formats gguf"
    cargo build -p mindscale && cargo build -p mindscale-model --example logits && "$python" scripts/check_exports.py $formats
}

deny() {
    cargo deny --version >/dev/null 2>&1 || { missing "cargo-deny is not installed"; return; }
    cargo deny --all-features check --hide-inclusion-graph bans licenses sources || return 1
    timeout 120 cargo deny fetch db || { echo "advisories: their database cannot be reached"; return 0; }
    cargo deny --all-features check --hide-inclusion-graph advisories
}

cuda() {
    command -v nvcc >/dev/null || { missing "nvcc is not installed"; return; }
    cargo check --workspace --features cuda
}

for part in "${@:-ci quickstart tables survival slurm peer speed fuzz page clients notebooks exports deny cuda}"; do
    for one in $part; do
        declare -F "$one" >/dev/null || { echo "there is no part $one; see CONTRIBUTING.md"; exit 2; }
        echo "== $one"
        "$one"
        case $? in
            0) passed+=("$one") ;;
            3) not_run+=("$one") ;;
            *) failed+=("$one") ;;
        esac
    done
done
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; not run: ${not_run[*]:-none}"
[ ${#failed[@]} -eq 0 ]
