#!/usr/bin/env bash
# Starts Slurm on this machine and runs the tests of its engine: bash tests/sweeps/slurm.sh
#
# Needs root and Debian's slurm-wlm, slurmdbd, munge and mariadb-server, which it installs where they are missing. All
# files lie in a scratch directory. On exit, also after an error, every daemon is stopped and the directory removed.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v slurmctld slurmdbd munged mariadbd >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurm-wlm slurmdbd munge mariadb-server >/dev/null
fi

scratch=$(mktemp -d /tmp/slurm-XXXXXX)
chmod 755 "$scratch"
started=()
finish() {
    for (( n = ${#started[@]} - 1; n >= 0; n-- )); do kill "${started[n]}" 2>/dev/null || true; done
    wait "${started[@]}" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' INT TERM

daemon() {  # NAME COMMAND…: starts it in the background, its output goes to NAME.log
    "${@:2}" >"$scratch/$1.log" 2>&1 &
    started+=($!)
}
until_true() {  # SECONDS COMMAND…: waits until the command succeeds
    for (( n = 0; n < $1 * 2; n++ )); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.5; done
    echo "slurm.sh: gave up on: ${*:2}" >&2
    tail -n 5 "$scratch"/*.log >&2
    return 1
}

mkdir "$scratch"/{munge,db,state,spool}
chown munge: "$scratch/munge"; chown mysql: "$scratch/db"
head -c 1024 /dev/urandom >"$scratch/munge/key"; chown munge: "$scratch/munge/key"; chmod 400 "$scratch/munge/key"
socket="$scratch/munge/socket"
as_munge=(setpriv --reuid munge --regid munge --clear-groups)
as_mysql=(setpriv --reuid mysql --regid mysql --clear-groups)
daemon munged "${as_munge[@]}" munged --foreground --force --key-file "$scratch/munge/key" --socket "$socket" \
    --pid-file "$scratch/munge/pid" --log-file "$scratch/munge/log" --seed-file "$scratch/munge/seed"
"${as_mysql[@]}" mariadb-install-db --no-defaults --datadir="$scratch/db" --auth-root-authentication-method=normal >/dev/null
daemon mariadbd "${as_mysql[@]}" mariadbd --no-defaults --datadir="$scratch/db" --socket="$scratch/db/socket" \
    --pid-file="$scratch/db/pid" --bind-address=127.0.0.1 --port=16813
sql() { mariadb --no-defaults --socket="$scratch/db/socket" --user=root "$@"; }
until_true 60 sql -e 'select 1'
sql -e "create user slurm@'%' identified by 'slurm'; create user slurm@localhost identified by 'slurm';
    grant all on slurm.* to slurm@'%'; grant all on slurm.* to slurm@localhost"

cat >"$scratch/slurmdbd.conf" <<END
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
AuthInfo=socket=$socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=16813
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
PidFile=$scratch/slurmdbd.pid
CommunicationParameters=NoInAddrAny
END
chmod 600 "$scratch/slurmdbd.conf"
cat >"$scratch/slurm.conf" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthInfo=socket=$socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$scratch/slurm.conf"
daemon slurmdbd slurmdbd -D
until_true 60 sacctmgr --noheader show cluster
sacctmgr --immediate add cluster test >/dev/null || true
daemon slurmctld slurmctld -D
until_true 60 scontrol ping
daemon slurmd slurmd -D -N localhost
until_true 60 srun --time=1 true
echo "slurm.sh: Slurm $(sinfo --version | cut -d' ' -f2) is running"

.venv/bin/python -c 'import submitit' 2>/dev/null ||
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,cluster]'
.venv/bin/python -m pytest -n 0 -m '' tests/sweeps -k slurm "$@"
