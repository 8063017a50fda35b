#!/usr/bin/env bash
# survq under Slurm, on one node or on several.
#
# Fill in below, or on the command line: nodes, GPUs, CPUs, memory and time of your site; SURVQ_ENV, the environment in
# which survq is installed (~/env if not set; empty: it is on the PATH).
# From the root of the repository, on a file system that all nodes see:
#   sbatch cluster/slurm.sh studies/query_counts.py --data DATA
#   sbatch --nodes=4 --gres=gpu:8 --cpus-per-task=64 cluster/slurm.sh studies/search.py --data DATA --cohorts BLCA
#   tail -f survq-JOB.log
#
# Five minutes before the time limit the study stops and the job goes back into the queue, where it continues; so does
# the same line at any later time. No finished run is repeated, and an interrupted one continues from its last
# checkpoint (--checkpoint-minutes). `scancel JOB` ends it for good. The job's exit code is the study's.
#SBATCH --job-name=survq
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=8 --mem=32G
#SBATCH --time=12:00:00 --signal=B:USR1@300 --requeue
#SBATCH --output=survq-%j.log --open-mode=append
set -u
[ -z "${SURVQ_ENV-x}" ] || source "${SURVQ_ENV:-$HOME/env}/bin/activate"

export RAY_TMPDIR=/tmp/survq-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0 # of this job alone, and short: sockets are in it
study='' nodes='' stopped='' again=''
stop() { stopped=yes; [ -z "$study" ] || kill -TERM "$study"; }
trap 'again=yes; stop' USR1 # the time is nearly up. Not TERM, which scancel sends, too
trap 'again=; stop' TERM

finish() { # finish CODE: Ray ends on all nodes of this job, and its files with it; other jobs' stay
  if [ -n "$nodes" ]; then # not by a signal to srun, which would kill the step before it has cleaned up
    scancel --signal=TERM "$SLURM_JOB_ID.$(cat "$RAY_TMPDIR/step")" || kill -TERM "$nodes"
    wait "$nodes"
  fi 2>/dev/null
  rm -rf "$RAY_TMPDIR"
  if [ -n "$again" ] && [ "$1" = 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 50 ]; then
    echo "survq: the time is up, job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$1"
}
until_there() { # until_there COMMAND...: wait until it succeeds, ten minutes at most
  for _ in $(seq 300); do
    [ -z "$stopped" ] || finish 143
    "$@" 2>/dev/null && return
    kill -0 "$nodes" 2>/dev/null || break
    sleep 2
  done
  echo "survq: Ray did not start on all $SLURM_NNODES nodes; the end of its log:"
  tail -n 5 "$RAY_TMPDIR/start.log"
  finish 69
}

mkdir -p -m 700 "$RAY_TMPDIR"
if [ "$SLURM_NNODES" -gt 1 ]; then
  # A Ray of this job. Whoever has not its token is refused, so nodes may be shared with other jobs.
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_ADDRESS RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=600
  RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  # this node as the others know it: on itself its name may well be 127.0.1.1
  other=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 2p)
  head=$(srun --nodes=1 --ntasks=1 --nodelist="$other" getent ahostsv4 "$SLURMD_NODENAME" | awk 'NR == 1 { print $1 }')
  RAY_ADDRESS=$head:$((20000 + SLURM_JOB_ID % 10000))
  node=("--num-cpus=$SLURM_CPUS_PER_TASK" --min-worker-port=0 --max-worker-port=0 --disable-usage-stats)
  # Ray would go by the memory of the machine; the features of a study should fit in, or they travel again each epoch
  [ "${SLURM_MEM_PER_NODE:-0}" = 0 ] || node+=("--object-store-memory=$((SLURM_MEM_PER_NODE * 400000))")
  # shellcheck disable=SC2016 # the nodes expand it
  srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
    end() { # `ray stop` takes 30 s, and would end Ray of other jobs
      { kill -KILL $ray; wait $ray; pkill -KILL -f "$RAY_TMPDIR/"; } 2>/dev/null
      rm -rf "$RAY_TMPDIR"
      exit
    }
    trap end TERM
    mkdir -p -m 700 "$RAY_TMPDIR"
    if [ "$SLURM_NODEID" = 0 ]; then
      echo "$SLURM_STEP_ID" >"$RAY_TMPDIR/step"
      where="--head --node-ip-address=${RAY_ADDRESS%:*} --port=${RAY_ADDRESS#*:} --include-dashboard=false"
    else
      where=--address=$RAY_ADDRESS
    fi
    for _ in 1 2 3; do # on a busy node Ray gives up after 30 s
      [ "$SLURM_NODEID" = 0 ] || until (: >"/dev/tcp/${RAY_ADDRESS/:/\/}") 2>/dev/null; do sleep 1; done
      ray start --block $where "$@" >"$RAY_TMPDIR/start.log" 2>&1 &
      ray=$!
      wait $ray
      echo "survq: Ray has ended on $SLURMD_NODENAME; the end of its log:"
      tail -n 5 "$RAY_TMPDIR/start.log"
      pkill -KILL -f "$RAY_TMPDIR/"
    done' - "${node[@]}" &
  nodes=$!
  until_there bash -c ': >"/dev/tcp/${RAY_ADDRESS/:/\/}"'
  # a study reads its data where it may run: on all nodes
  until_there python -c '
import sys, ray
ray.init(logging_level="CRITICAL")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))' "$SLURM_NNODES"
fi
[ -z "$stopped" ] || finish 143
python "$@" & # with one node, under a private Ray that listens on the loopback interface only
study=$!
[ -z "$stopped" ] || kill -TERM "$study"

while kill -0 "$study" 2>/dev/null; do
  wait "$study" # which a signal ends early
done
wait "$study" # its code, again
finish "$?"
