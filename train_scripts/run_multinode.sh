#!/usr/bin/env bash
# One training run over several machines: start the same command on each of them.
# usage: HEAD=node1:29500 NODES=2 NODE_RANK=0 bash train_scripts/run_multinode.sh loss=gdpo model=llama1b [overrides of train.py ...]
#   HEAD=host:port   of the first machine; the port must be free there and reachable from the others
#   NODES=2          machines; NODE_RANK=0 is this one's number, 0 is the first machine's
#   NPROC=           processes on this machine; default: one for each GPU
# output_dir must be a folder that all machines share. replicate=$NODES shards within a machine and keeps a copy of the model on each.
# Under Slurm: sbatch train_scripts/slurm.sbatch loss=gdpo ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "train_scripts/run_multinode.sh"; exit ;; esac
for name in HEAD NODES NODE_RANK; do
  [ -n "${!name:-}" ] || { echo "error: $name: missing; HEAD=host:port NODES=2 NODE_RANK=0 bash train_scripts/run_multinode.sh ..." >&2; exit 2; }
done
source train_scripts/setup.sh
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec "$PYTHON" -m torch.distributed.run --nnodes="$NODES" --node-rank="$NODE_RANK" --nproc-per-node="$NPROC" \
  --master-addr="${HEAD%:*}" --master-port="${HEAD##*:}" train.py "$@"
