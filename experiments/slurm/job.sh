# What the jobs of this folder share: what an array's index stands for, whose folder is whose, and
# what becomes of an exit code. Variables have the names and defaults of those in the Makefile.
set -euo pipefail

JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
say() { echo "$(date '+%F %T') job $JOB: $*" >&2; }
fail() { say "$*"; exit 2; }

[ -z "${ARGS:-}" ] || fail "ARGS is for make; put further options behind the script's name"
BACKBONE=${BACKBONE:-miniature}
OPTIONS=(--config "experiments/backbones/$BACKBONE.yaml")

# choose NAMES: of "3d audio" the one, and of SEEDS the seed, that this index of the array stands
# for; without an array the first of both.
choose() {
  local names=($1) seeds=(${SEED:-42 1 2}) index=${SLURM_ARRAY_TASK_ID:-0}
  local last=$((${#names[@]} * ${#seeds[@]} - 1))
  ((index <= last)) || fail "--array=0-$last is all of (${names[*]}) x seeds (${seeds[*]})"
  CHOSEN=${names[index % ${#names[@]}]}
  SEED=${seeds[index / ${#names[@]}]}
}

# read_from MODALITY: where the data lie, and what a run on them is called.
read_from() {
  MODALITY=$1
  DATA=${DATA:-data/toyworld/$MODALITY}
  DATA=${DATA%/}
  TOY= ON=$BACKBONE-${DATA##*/}
  case $DATA in data/toyworld/*) TOY=yes ON=$BACKBONE-toyworld ;; esac
}

# folder GIVEN NAME: of a run. In an array the one given holds a folder for each.
folder() {
  local own=$2-$ON-seed$SEED
  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then echo "${1:-runs}/$own"; else echo "${1:-runs/$own}"; fi
}

# configure STAGE NAME: a configuration, and what the toy world changes in it.
configure() {
  OPTIONS+=(--config "experiments/$1/$2.yaml")
  local toy=experiments/$1/toyworld/$2.yaml
  if [ -n "$TOY" ] && [ -e "$toy" ]; then OPTIONS+=(--config "$toy"); fi
}

# choose_task TASKS: of these the one, the sense and the runs it builds on, and their options.
choose_task() {
  choose "$1"
  TASK=$CHOSEN
  case $TASK in
    scanqa | sqa3d) read_from "${MODALITY:-3d}" ;;
    avsd | avqa | music_avqa | avut) read_from "${MODALITY:-audio}" ;;
    egoexo) read_from "${MODALITY:-ego}" ;;
    *) read_from "${MODALITY:-highfps}" ;;
  esac
  case $TASK in
    videomme | mvbench | mlvu) TUNED_TASK=llava_video ;;  # which has questions to tune on
    *) TUNED_TASK=$TASK ;;
  esac
  ALIGNED=${ALIGNED:-$(folder "${RUN:-}" "$MODALITY")/adapters/vision-$MODALITY}
  TUNED=$(folder "${TUNED:-}" "$TUNED_TASK")
  configure tune "$TUNED_TASK"
  [ "$TASK" = "$TUNED_TASK" ] || configure eval "$TASK"
  OPTIONS+=(--model.streams.modalities="{$MODALITY: \"$ALIGNED\"}")
  if [ -z "$TOY" ]; then
    OPTIONS+=(--data.root="$DATA")
    [ -z "${ANNOTATIONS:-}" ] || OPTIONS+=(--data.benchmark.init_args.annotations="$ANNOTATIONS")
  fi
}

# launch COMMAND OPTIONS...: one process a task of SLURM's. The job then ends with 0 if it is
# finished, is put back into the queue if it was asked to make room (75), and else fails.
launch() {
  local command=$1 nodes=$SLURM_NNODES tasks=${SLURM_NTASKS_PER_NODE:-1} code=0 words
  shift
  OPTIONS+=(--seed_everything="$SEED" --trainer.num_nodes="$nodes" --trainer.devices="$tasks")
  ((nodes * tasks == 1)) || OPTIONS+=(--trainer.strategy=ddp)
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since 22.05
  words=("${VLYNX:-.venv/bin/vlynx}" "$command" "${OPTIONS[@]}" "$@")
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
