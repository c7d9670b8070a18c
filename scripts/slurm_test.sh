#!/usr/bin/env bash
# Starts a private one-node Slurm, runs small sweeps in it and compares the models with those of
# local runs: one sweep undisturbed, whose trials share their pretraining; one signalled at its time limit, then preempted,
# then cancelled in the middle and run again; and one whose data stage never gets the time that it needs. Needs slurm-wlm
# and munge (Debian: apt-get install slurm-wlm munge); everything is stopped at the end.
# Usage: scripts/slurm_test.sh [PROGRAM [SWEEP]]; a given SWEEP is neither preempted nor cancelled.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/mindscale}")
folder=$(mktemp -d)
chmod 755 "$folder"
started=()
stop() {
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "${started[$i]}" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap stop EXIT

mkdir -p "$folder"/{state,spool,logs,munge}
chmod 700 "$folder/munge"
head -c 128 /dev/urandom > "$folder/munge/key"
chmod 600 "$folder/munge/key"
munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" &> "$folder/logs/munged" &
started+=($!)

host=$(hostname -s)
cat > "$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/ctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/logs/slurmctld
SlurmdLogFile=$folder/logs/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
EOF
export SLURM_CONF="$folder/slurm.conf"
for _ in $(seq 50); do [ -S "$folder/munge.socket" ] && break; sleep 0.1; done
slurmctld -D &> "$folder/logs/ctld.out" &
started+=($!)
slurmd -D &> "$folder/logs/slurmd.out" &
started+=($!)
ready() { sinfo --noheader --format=%t 2>/dev/null | grep -q '^idle$'; }
for _ in $(seq 100); do ready && break; sleep 0.3; done
ready || { tail -n 20 "$folder"/logs/*; echo "Slurm did not start"; exit 1; }

# Compares the models in two folders of stage runs.
compare() {
    local compared=0 model
    for model in "$1"/*/model/model.safetensors; do
        cmp "$model" "$2/${model#"$1/"}"
        compared=$((compared + 1))
    done
    test "$compared" -gt 0
    echo "slurm: $3: $compared models are the same to the last byte"
}
slurm() { "$program" run "$@" --results "$folder/results-slurm" --executor slurm --sbatch=--cpus-per-task=1; }

# Two pretrainings, each shared by three variants.
{ sed 's/^name = .*/name = "variants"/' sweeps/smoke.toml; printf '\n[axes]\n"sft.lr" = [1e-4, 2e-4, 3e-4]\n'; } > "$folder/variants.toml"
sweep=${2:-$folder/variants.toml}
"$program" run "$sweep" --runs "$folder/local" --results "$folder/results"
slurm "$sweep" --runs "$folder/slurm" --set slurm.partition=main
compare "$folder/local" "$folder/slurm" "passed"
[ $# -lt 2 ] || exit 0

long=(sweeps/smoke.toml --set pretrain.steps=2000 --set pretrain.checkpoint_every=10)
"$program" run "${long[@]}" --runs "$folder/long" --results "$folder/results"
slurm "${long[@]}" --runs "$folder/cut" &
driver=$!
started+=($driver)
# The number of attempts that both pretrainings have reached.
attempts() {
    local counts
    counts=$(grep -h '"attempts"' "$folder"/cut/pretrain-*/manifest.json 2>/dev/null | tr -dc '0-9\n' | sort -n)
    [ "$(wc -l <<< "$counts")" -eq 2 ] && head -n 1 <<< "$counts" || echo 0
}
# Waits until both are in attempt N or later, and a checkpoint exists.
wait_for_attempt() {
    for _ in $(seq 1800); do
        [ "$(attempts)" -ge "$1" ] && compgen -G "$folder/cut/pretrain-*/checkpoints/*.ckpt" > "$folder/found" && return
        sleep 0.1
    done
    echo "the pretrainings did not reach attempt $1"
    exit 1
}
wait_for_attempt 1
# As Slurm does a minute before the time limit: each task must requeue itself.
for job in $(squeue --me --array --noheader --states=running --format=%i); do scancel --batch --signal=TERM "$job"; done
wait_for_attempt 2
sbatch --quiet --wait --partition=urgent --exclusive --output=/dev/null --wrap='sleep 1'
wait_for_attempt 3
"$program" cancel "${long[@]}" --runs "$folder/cut" | grep -Eq 'jobs? cancelled'
wait "$driver" && { echo "the driver of cancelled jobs exited with 0"; exit 1; }
grep -h '"status"' "$folder"/cut/pretrain-*/manifest.json | grep -q stopped || { echo "no stage run was interrupted"; exit 1; }
slurm "${long[@]}" --runs "$folder/cut"
compare "$folder/long" "$folder/cut" "out of time, preempted, cancelled and run again"

# A data stage that is signalled repeatedly before it is done fails with a message instead of requeueing forever.
awk 'BEGIN { for (i = 0; i < 1500000; i++) printf "{\"text\":\"%d %d %d and the words of line %d\"}\n", i * 7919 % 99991, i * 104729 % 999983, i % 17, i }' > "$folder/text.jsonl"
cat > "$folder/slow.toml" <<EOF
name = "slow"
[base.data]
source = "files"
pretrain = ["$folder/text.jsonl"]
[base.tokenizer]
train_chars = 100000
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.pretrain]
steps = 2
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
EOF
slurm "$folder/slow.toml" --runs "$folder/slow" > "$folder/slow.txt" &
driver=$!
started+=($driver)
for attempt in 1 2 3; do
    for _ in $(seq 1800); do
        grep -qs "\"attempts\": $attempt," "$folder"/slow/data-*/manifest.json && break
        sleep 0.1
    done
    for job in $(squeue --me --array --noheader --states=running --format=%i); do scancel --batch --signal=TERM "$job"; done
done
wait "$driver" && { echo "the driver of a data stage that never ends exited with 0"; exit 1; }
grep -q "the data stage needs more than the job's time limit" "$folder/slow.txt" || { cat "$folder/slow.txt"; exit 1; }
echo "slurm: a data stage that needs more than its job's time limit fails with a message"
