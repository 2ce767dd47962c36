# What the jobs of this folder share: what an array's index stands for, and what becomes of an exit
# code. Variables are the options of the commands, in capitals.
set -euo pipefail

JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
say() { echo "$(date '+%F %T') job $JOB: $*" >&2; }
fail() { say "$*"; exit 2; }

[ -z "${ARGS:-}" ] || fail "ARGS is for make; put further options behind the script's name"
OPTIONS=()

# configured FOLDERS: the names of the configurations in these folders of experiments/.
configured() {
  local folder
  for folder; do (cd "experiments/$folder" && LC_ALL=C && printf '%s\n' *.yaml); done | sed 's/.yaml$//'
}

# choose NAMES: of these the one, and of SEEDS the seed, that this index of the array stands for;
# without an array the first of both.
choose() {
  local names=($1) seeds=(${SEED:-42 1 2}) index=${SLURM_ARRAY_TASK_ID:-0}
  local last=$((${#names[@]} * ${#seeds[@]} - 1))
  ((index <= last)) || fail "--array=0-$last is all of (${names[*]}) x seeds (${seeds[*]})"
  CHOSEN=${names[index % ${#names[@]}]}
  SEED=${seeds[index / ${#names[@]}]}
}

# give VARIABLES: those that are set, as options of the same name, or of the one behind a colon.
give() {
  local each name option
  for each; do
    name=${each%:*} option=${each#*:}
    [ -n "${!name:-}" ] || continue
    if [ "${option,,}" = run ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
      fail "an array has many runs; give RUNS, a folder for all of them, not $name"
    fi
    OPTIONS+=("--${option,,}=${!name}")
  done
}

# launch COMMAND OPTIONS...: run it on what was chosen, one process for each task of SLURM's. The job
# then ends with 0 if it is finished, is put back into the queue if it was asked to make room (75),
# and else fails.
launch() {
  local command=$1 nodes=$SLURM_NNODES tasks=${SLURM_NTASKS_PER_NODE:-1} code=0 words
  shift
  OPTIONS+=(--seed="$SEED" --trainer.num_nodes="$nodes" --trainer.devices="$tasks")
  ((nodes * tasks == 1)) || OPTIONS+=(--trainer.strategy=ddp)
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since 22.05
  words=("${VLYNX:-.venv/bin/vlynx}" "$command" "$CHOSEN" "${OPTIONS[@]}" "$@")
  say "start ${SLURM_RESTART_COUNT:-0}: ${words[*]@Q}"
  # A signal that reaches this script too must not end it before srun has told the exit code.
  trap : TERM USR1
  # No rank is ended because another has: rank 0 writes reports alone for as long as they take, and
  # when it exits with 75 before the others, ending them could make a failure of it (143). The
  # others of a rank that has died end by themselves, when the exchange with it breaks.
  srun --kill-on-bad-exit=0 --wait="${SLURM_WAIT:-0}" "${words[@]}" || code=$?
  case $code in
    0) say "finished" ;;
    75) requeue ;;
    *) say "failed with exit code $code; once it is mended, submit the job again to go on" ;;
  esac
  exit $code
}

requeue() {
  local state
  # A job that is being cancelled must not come back, and one that SLURM preempts comes by itself.
  state=$(scontrol --oneliner show job "$JOB") || state=  # a busy controller does not answer
  case $state in
    '' | *JobState=RUNNING*)
      say "made room; goes back into the queue"  # said before, as it ends this script
      scontrol requeue "$JOB" || say "could not go back into the queue; submit it again to go on"
      ;;
    *) say "made room; SLURM has ended the job already, or starts it again by itself" ;;
  esac
}
