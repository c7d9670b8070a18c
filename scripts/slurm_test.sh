#!/usr/bin/env bash
# Starts a Slurm of one node beside whatever runs here, puts the smoke sweep through it, and compares the models with
# those of a local run. Needs slurm-wlm and munge (Debian: apt-get install slurm-wlm munge); everything is stopped at
# the end. Usage: scripts/slurm_test.sh [PROGRAM]
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
AuthInfo=socket=$folder/munge.socket
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
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

"$program" run sweeps/smoke.toml --runs "$folder/local" --results "$folder/results"
"$program" run sweeps/smoke.toml --runs "$folder/slurm" --results "$folder/results-slurm" --executor slurm --sbatch=--cpus-per-task=1
compared=0
for model in "$folder"/local/*/model/model.safetensors; do
    name=${model#"$folder/local/"}
    cmp "$model" "$folder/slurm/$name"
    compared=$((compared + 1))
done
test "$compared" -gt 0
echo "slurm: passed, $compared models are the same to the last byte"
