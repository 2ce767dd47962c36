# Shared by the jobs of this folder: the meaning of an array's index, and the reaction to an exit
# code. Variables are the options of the commands in upper case.
set -euo pipefail

JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
say() { echo "$(date '+%F %T') job $JOB: $*" >&2; }
fail() { say "$*"; exit 2; }

[ -z "${ARGS:-}" ] || fail "ARGS is for make; put further options after the script's name"
OPTIONS=()

# configured FOLDERS: the names of the configurations in these folders of experiments/.
configured() {
  local folder
  for folder; do (cd "experiments/$folder" && LC_ALL=C && printf '%s\n' *.yaml); done | sed 's/.yaml$//'
}

# choose NAMES: set the name and the seed that this index of the array selects; without an array the
# first of each.
choose() {
  local names=($1) seeds=(${SEED:-42 1 2}) index=${SLURM_ARRAY_TASK_ID:-0}
  local last=$((${#names[@]} * ${#seeds[@]} - 1))
  ((index <= last)) || fail "--array=0-$last covers all of (${names[*]}) x seeds (${seeds[*]})"
  CHOSEN=${names[index % ${#names[@]}]}
  SEED=${seeds[index / ${#names[@]}]}
}

# give VARIABLES: pass those that are set as options of the same name, or of the name after a colon.
give() {
  local each name option
  for each; do
    name=${each%:*} option=${each#*:}
    [ -n "${!name:-}" ] || continue
    if [ "${option,,}" = run ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
      fail "an array has many runs; give RUNS, a folder for all of them, instead of $name"
    fi
    OPTIONS+=("--${option,,}=${!name}")
  done
}

# launch COMMAND OPTIONS...: run the command on what was chosen, in one process per SLURM task. The
# job ends with 0 if it has finished, is requeued if it was preempted (75), and fails otherwise.
launch() {
  local command=$1 nodes=$SLURM_NNODES tasks=${SLURM_NTASKS_PER_NODE:-1} code=0 words
  shift
  OPTIONS+=(--seed="$SEED" --trainer.num_nodes="$nodes" --trainer.devices="$tasks")
  ((nodes * tasks == 1)) || OPTIONS+=(--trainer.strategy=ddp)
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since 22.05
  words=("${VLYNX:-.venv/bin/vlynx}" "$command" "$CHOSEN" "${OPTIONS[@]}" "$@")
  say "start ${SLURM_RESTART_COUNT:-0}: ${words[*]@Q}"
  # A signal to this script must not end it before srun has returned the exit code.
  trap : TERM USR1
  # No process is killed because another has ended: rank 0 alone writes reports, which takes time;
  # and if it exits with 75 first, killing the others could turn preemption into a failure (143).
  # When a process has died, the others end by themselves once communication with it breaks.
  srun --kill-on-bad-exit=0 --wait="${SLURM_WAIT:-0}" "${words[@]}" || code=$?
  case $code in
    0) say "finished" ;;
    75) requeue ;;
    *) say "failed with exit code $code; after fixing the cause, submit the job again to resume" ;;
  esac
  exit $code
}

requeue() {
  local state
  # A job that is being cancelled must not be requeued; one that SLURM preempts is requeued by SLURM.
  state=$(scontrol --oneliner show job "$JOB") || state=  # a busy controller does not answer
  case $state in
    '' | *JobState=RUNNING*)
      say "preempted; returns to the queue"  # first, since requeueing ends this script
      scontrol requeue "$JOB" || say "could not be requeued; submit it again to resume"
      ;;
    *) say "preempted; SLURM has ended the job, or requeues it" ;;
  esac
}
