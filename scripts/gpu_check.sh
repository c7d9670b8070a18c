#!/usr/bin/env bash
# Checks to run on a new NVIDIA GPU, in parts of under ten minutes each; docs/gpu.md says what to report.
#
#     cargo build --release --features cuda        # with a CUDA compiler; scripts/cuda_toolkit.sh installs one
#     scripts/gpu_check.sh check                   # every operation against the reference, tests, compute-sanitizer
#     scripts/gpu_check.sh speed                   # tokens per second and memory compared with PyTorch
#     scripts/gpu_check.sh stages                  # pretraining, SFT and DPO on text, losses compared with the CPU's
#     scripts/gpu_check.sh share                   # tiny models that share the GPU, with and without MPS
#     scripts/gpu_check.sh table                   # all results as Markdown; the other parts end with it too
#
# Results are collected in the folder OUT (gpu-check). MINDSCALE names the program (target/release/mindscale), PYTHON a
# Python with torch and transformers for `speed`, SHAPES the shapes of `speed`, TESTS test programs built elsewhere
# (without it, cargo builds and runs them); DEVICE=cpu tests this script without a GPU. Nothing is downloaded.
set -uo pipefail
part="${1:-}"
here=$(cd "$(dirname "$0")" && pwd)
out="${OUT:-gpu-check}"
mindscale="${MINDSCALE:-$here/../target/release/mindscale}"
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
shapes="${SHAPES:-512x8 768x16 moe-512x8 moe-768x16}"
failed=0
case "$part" in
    check | speed | stages | share | table) mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1 ;;
    *) sed -n '2,/^set/p' "$0" | grep '^#' | sed 's/^# \{0,1\}//'; exit 2 ;;
esac

# cuBLAS is loaded at run time: that of PyTorch is used if the system has none.
if ! ldconfig -p 2>/dev/null | grep -q libcublas.so; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null)
    for folder in "$packages"/nvidia/cu13/lib "$packages"/nvidia/cublas/lib "${CUDA_HOME:-/usr/local/cuda}"/lib64; do
        [ -d "$folder" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
    done
fi

# Runs a command with a time limit in seconds; the outcome becomes a line of the table, the output a file.
step() {
    local name="$1" limit="$2" began=$SECONDS outcome
    shift 2
    echo "== $name" >&2
    timeout --kill-after 5 "$limit" "$@" >"$out/$name.log" 2>&1
    case $? in
        0) outcome=passed ;;
        124 | 137) outcome="not done within $limit s" ;;
        *) outcome="FAILED" ;;
    esac
    tail -n 3 "$out/$name.log" >&2
    grep -v "^$name	" "$out/steps.tsv" 2>/dev/null >"$out/steps.new"
    printf '%s\t%s\t%s\n' "$name" "$outcome" "$((SECONDS - began))" >>"$out/steps.new"
    mv "$out/steps.new" "$out/steps.tsv"
    [ "$outcome" = passed ] || failed=1
}

# Fails unless the output of `doctor --json` lists a GPU: `doctor` passes as well where it finds none.
lists_gpu='
import json, sys
doctor = json.load(open(sys.argv[1], encoding="utf-8"))
gpus = sorted({of["device"] for of in doctor["devices"] if of["device"].startswith("cuda")})
machine = doctor["machine"]
reason = machine.get("gpus_problem") or ("no GPU is there" if machine["cuda"] else "it was built without --features cuda")
print(", ".join(gpus) or f"mindscale doctor checked no GPU: {reason}")
sys.exit(not gpus)'

check() {
    local on_gpu=1
    [ "$device" = cpu ] && on_gpu=0
    step doctor 90 "$mindscale" doctor --runs "$out"
    if [ "$on_gpu" = 1 ]; then
        timeout --kill-after 5 90 "$mindscale" doctor --json --runs "$out" >"$out/doctor.json"
        step doctor-gpus 10 "$python" -c "$lists_gpu" "$out/doctor.json"
    fi
    if [ -n "${TESTS:-}" ]; then
        for test in $TESTS; do
            step "tests-$(basename "$test")" 200 env MINDSCALE_GPU="$on_gpu" "$test"
        done
    elif command -v cargo >/dev/null; then
        (cd "$here/.." && cargo test --release --features cuda -p mindscale-model --no-run) >&2 || true
        step tests 240 env -C "$here/.." MINDSCALE_GPU="$on_gpu" cargo test --release --features cuda -p mindscale-model
    fi
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck synccheck initcheck racecheck; do
            step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 30 \
                "$mindscale" doctor --runs "$out"
        done
    fi
}

# Measures Mindscale on one shape; a failure is recorded as well. A first step tells how many fit into half a minute.
bench() {
    local shape="$1" width layers batch=64 rows=512 experts=() where=(--device "$device" --precision bf16) counts code
    width="${shape#moe-}" layers="${width#*x}" width="${width%x*}"
    case "$shape" in
        moe-*) experts=(--n-experts 4 --top-k 2 --n-shared-experts 1) ;;
    esac
    if [ "$device" = cpu ]; then
        where=() batch=4 rows=32
    fi
    train() {
        timeout --kill-after 5 60 "$mindscale" bench train "${where[@]}" --d-model "$width" --n-layers "$layers" \
            --n-heads 16 --n-kv-heads 8 "${experts[@]}" --batch-size "$batch" --seq-len "$rows" --lanes 1 \
            --warmup "$1" --steps "$2" 2>"$out/bench.log" >"$out/bench.json"
    }
    train 1 1
    code=$?
    if [ "$code" = 0 ]; then
        counts=$("$python" - "$out/bench.json" $((batch * rows)) <<'PYTHON'
import json, sys
each = int(sys.argv[2]) / json.load(open(sys.argv[1]))["tokens_per_second"]["median"]
print(max(1, min(30, int(18 / each))), max(3, min(20, int(12 / each))))
PYTHON
)
        # shellcheck disable=SC2086 # two numbers
        train $counts
        code=$?
    fi
    "$python" - "$shape" "$code" "$out/bench.json" "$out/bench.log" <<'PYTHON' | tee -a "$out/ours.jsonl"
import json, sys
shape, code, found, log = sys.argv[1:]
line = {"name": f"{shape}, mindscale, bf16", "shape_name": shape}
if code == "0":
    line |= json.load(open(found))
else:
    said = [text.strip() for text in open(log) if text.strip()] or ["no message"]
    line["problem"] = "not done within 60 s" if code in ("124", "137") else said[-1][:300]
print(json.dumps(line))
PYTHON
}

speed() {
    rm -f "$out/ours.jsonl" "$out/pytorch.jsonl"
    for shape in $shapes; do
        bench "$shape"
    done
    local sizes=() theirs
    read -ra theirs <<<"$shapes"
    [ "$device" = cpu ] && theirs=(tiny) && sizes=(--warmup 1 --steps 2)
    timeout --kill-after 5 "${PYTORCH_LIMIT:-400}" "$python" "$here/gpu_pytorch.py" --device "$device" \
        --shapes "${theirs[@]}" "${sizes[@]}" --out "$out/pytorch.jsonl" || failed=1
    ! grep -q '"problem"' "$out/ours.jsonl" "$out/pytorch.jsonl" || failed=1
}

stages() {
    local text="$out/text"
    mkdir -p "$text/sheets"
    # Makes rows, conversations, pairs and questions from the paragraphs of this project's documents.
    "$python" - "$here/.." "$text" <<'PYTHON' || return 1
import csv, glob, json, os, re, sys
root, to = sys.argv[1:]
paths = sorted(glob.glob(f"{root}/docs/*.md") + glob.glob(f"{root}/*.md"))
paragraphs = []
for path in paths:
    heading = os.path.basename(path)
    for part in re.split(r"\n\s*\n", open(path, encoding="utf-8").read()):
        if part.startswith("#"):
            heading = part.splitlines()[0].lstrip("# ")
        elif len(part) > 80 and not part.lstrip().startswith(("|", "```")):
            paragraphs.append((heading, " ".join(part.split())))
first = lambda text: re.split(r"[.:;]( |$)", text)[0][:120]
other = lambda i: paragraphs[(i * 7 + 31) % len(paragraphs)][1]

def write(name, rows):
    with open(f"{to}/{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

write("pretrain", ({"text": text} for _, text in paragraphs))
asked = [(i, f"What about: {heading}, {' '.join(text.split()[:4])}", text) for i, (heading, text) in enumerate(paragraphs)]
write("sft", ({"conversations": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for _, q, a in asked))
write("dpo", ({"prompt": q, "chosen": first(a), "rejected": first(other(i))} for i, q, a in asked if first(a) != first(other(i))))
with open(f"{to}/sheets/documents_val.csv", "w", encoding="utf-8", newline="") as file:
    sheet = csv.writer(file)
    sheet.writerow(["id", "question", "A", "B", "C", "D", "answer"])
    for i, q, a in asked[:200]:
        options = [first(other(i + k)) for k in range(1, 4)]
        options.insert(i % 4, first(a))
        if len(set(options)) == 4:
            sheet.writerow([i, q, *options, "ABCD"[i % 4]])
PYTHON
    cat >"$text/sweep.toml" <<TOML
name = "gpu-check"
[base.model]
d_model = 128
n_layers = 4
n_heads = 4
n_kv_heads = 2
vocab_size = 1024
max_seq_len = 256
init = "width"
[base.data]
source = "files"
pretrain = ["$text/pretrain.jsonl"]
sft = ["$text/sft.jsonl"]
dpo = ["$text/dpo.jsonl"]
val_share = 0.1
[base.pretrain]
seq_len = 256
batch_size = 16
steps = ${STEPS:-300}
lr = 2e-3
warmup_steps = 20
[base.sft]
seq_len = 256
batch_size = 16
steps = 100
lr = 5e-4
[base.dpo]
seq_len = 256
batch_size = 8
steps = 40
lr = 5e-5
[base.exam]
sheets = "$text/sheets"
TOML
    local settings=("cpu f32" "cuda f32" "cuda bf16") setting where precision more
    [ "$device" = cpu ] && settings=("cpu f32")
    for setting in "${settings[@]}"; do
        read -r where precision <<<"$setting"
        more=(--set device="$where")
        [ "$where" = cpu ] || more+=(--set precision="$precision")
        rm -rf "$out/stages-$where-$precision"
        step "stages-$where-$precision" 180 "$mindscale" run "$text/sweep.toml" "${more[@]}" \
            --runs "$out/stages-$where-$precision/runs" --results "$out/stages-$where-$precision/results"
    done
}

# Runs `count` trainings of a million weights at a time and records their total tokens per second.
together() {
    local name="$1" count="$2" lr="$3"
    # Another learning rate is another training, so that nothing is reused from the previous one.
    step "share-$name" 90 "$mindscale" run "$out/share/sweep.toml" --only "seed <= $count" --per-gpu "$count" --jobs "$count" \
        --set device="$device" --set pretrain.lr="$lr" --runs "$out/share/runs" --results "$out/share/results"
    "$python" - "$out/share/runs" "$name" "$count" "$lr" <<'PYTHON' >>"$out/share.jsonl"
import csv, glob, json, statistics, sys
runs, name, count, lr = sys.argv[1:]
rates = []
for path in glob.glob(f"{runs}/pretrain-*/manifest.json"):
    manifest = json.load(open(path, encoding="utf-8"))
    if manifest["status"] == "done" and manifest["config"]["pretrain"]["lr"] == float(lr):
        rows = csv.DictReader(open(path.replace("manifest.json", "metrics.csv"), encoding="utf-8"))
        rates.append(statistics.median(float(row["tokens_per_second"]) for row in rows if row["tokens_per_second"]))
print(json.dumps({"name": name, "at a time": int(count), "done": len(rates), "tokens_per_second": sum(rates)}))
PYTHON
}

share() {
    rm -rf "$out/share" "$out/share.jsonl"
    mkdir -p "$out/share"
    cat >"$out/share/sweep.toml" <<TOML
name = "share"
[base.model]
vocab_size = 800
d_model = 74
n_layers = 16
n_heads = 4
n_kv_heads = 2
head_dim = 16
[base.pretrain]
steps = ${STEPS:-400}
seq_len = 96
packing = "single"
lanes = 1
optimizer = "muon"
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
[axes]
seed = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
TOML
    together one 1 1e-3
    [ "$device" = cpu ] && return
    together eight 8 1.01e-3
    if ! command -v nvidia-cuda-mps-control >/dev/null; then
        echo "no nvidia-cuda-mps-control here: MPS is left out" >&2
        return
    fi
    export CUDA_MPS_PIPE_DIRECTORY="$out/share/mps" CUDA_MPS_LOG_DIRECTORY="$out/share/mps"
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"
    if ! nvidia-cuda-mps-control -d; then
        echo "nvidia-cuda-mps-control -d failed: MPS is left out; see $CUDA_MPS_LOG_DIRECTORY" >&2
        failed=1
        return
    fi
    trap 'echo quit | nvidia-cuda-mps-control' EXIT
    sleep 1
    together eight-mps 8 1.02e-3
    together sixteen-mps 16 1.03e-3
}

table() {
    "$python" - "$out" <<'PYTHON' | tee "$out/table.md"
import glob, json, os, sys
out = sys.argv[1]

def lines(name):
    path = f"{out}/{name}"
    return [json.loads(line) for line in open(path, encoding="utf-8")] if os.path.exists(path) else []

def show(header, rows):
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()

number = lambda value, form=",.0f": format(value, form) if value is not None else ""

theirs = lines("pytorch.jsonl")
gpu = next((line for line in theirs if "peak_tflops" in line), {})
if gpu:
    print(f"{gpu['device']}: {gpu['peak_tflops']:.0f} TFLOP/s of bf16 products, {gpu['copy_gb_per_second']:.0f} GB/s of copies; "
          f"PyTorch {gpu['torch']}, transformers {gpu['transformers']}\n")
if os.path.exists(f"{out}/steps.tsv"):
    steps = [line.rstrip("\n").split("\t") for line in open(f"{out}/steps.tsv", encoding="utf-8")]
    show(["step", "outcome", "seconds"], steps)

def memory(line):
    for key in ("peak_device_mb", "peak_memory_mb", "peak_allocated_mib"):
        if line.get(key) is not None:
            return line[key]

ours = lines("ours.jsonl")
rows, speeds = [], {}
for line in ours + [line for line in theirs if "name" in line]:
    shape = line.get("shape_name") or line["shape"]
    if "problem" in line:
        rows.append([line["name"], "", "", "", "", "", line["problem"].replace("|", "/")])
        continue
    rate, tflops = line["tokens_per_second"], line.get("tflops")
    if isinstance(rate, dict):
        rate, tflops = rate["median"], line["gflops"] / 1e3
        speeds[shape] = (rate, memory(line))
    speed, room = speeds.get(shape, (None, None))
    mfu = tflops / gpu["peak_tflops"] if gpu else line.get("mfu")
    part = room / memory(line) if room and memory(line) else None
    rows.append([line["name"], number(rate), number(speed and speed / rate, ".2f"), number(memory(line)),
                 number(line.get("peak_reserved_mib")), number(part, ".2f"), number(mfu and 100 * mfu, ".1f") + " %"])
if rows:
    show(["bf16 training", "tokens/s", "ours / it", "peak MiB", "reserved MiB", "our memory / its", "MFU"], rows)

shared = lines("share.jsonl")
if shared:
    show(["tiny models", "at a time", "done", "tokens/s together"],
         [[line["name"], line["at a time"], line["done"], number(line["tokens_per_second"])] for line in shared])

rows = []
for folder in sorted(glob.glob(f"{out}/stages-*/")):
    losses, exam = {}, ""
    for path in glob.glob(f"{folder}/runs/*/manifest.json"):
        manifest = json.load(open(path, encoding="utf-8"))
        results = manifest.get("results") or {}
        if results.get("val_loss") is not None:
            losses[manifest["stage"]] = results["val_loss"]
    for path in glob.glob(f"{folder}/results/*/trials.csv"):
        import csv
        found = list(csv.DictReader(open(path, encoding="utf-8")))
        exam = f"{found[-1]['exam_correct']} of {found[-1]['exam_questions']}" if found else ""
    name = os.path.basename(folder.rstrip("/")).removeprefix("stages-")
    rows.append([name, *(number(losses.get(stage), ".4f") for stage in ("pretrain", "sft", "dpo")), exam])
if rows:
    show(["validation loss", "pretraining", "SFT", "DPO", "exam"], rows)
PYTHON
}

"$part" || failed=1
[ "$part" = table ] || table
exit "$failed"
