# shellcheck shell=bash
# Shared by the scripts of this folder: verbs, environment variables, and commands that a dry run only prints.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec 3>&1 # `ask` prints the command of a dry run to 3, because its standard output is the answer

COMMAND=${COMMAND:-pretrain} CONFIG=${CONFIG:-} WORKDIR=${WORKDIR:-} DATA=${DATA:-} POLL=${POLL:-30}
VERB='' DRY_RUN='' FLAGS=()

usage() { # prints the comment at the top of the script
  sed -n '2,/^$/s/^# \{0,1\}//p' "launch/${0##*/}"
}

user_error() { # WHAT FOUND WANTED
  echo "error: $1: found $2, wanted $3; see launch/${0##*/} --help" >&2
  exit 2
}

require() { # VARIABLE...: a variable that is empty or not set is a user error
  local variable
  for variable; do
    [[ -n ${!variable:-} ]] || user_error "$variable" nothing "a value: $variable=… in the environment"
  done
}

parse() { # VERBS ARGUMENT...: reads VERB [--dry-run] [-- FLAGS of python -m symbert_jax]
  local verbs=$1
  shift
  while (($#)); do
    case $1 in
      --) FLAGS=("${@:2}") && break ;;
      --dry-run) DRY_RUN=1 ;;
      -h | --help | help) usage && exit ;;
      *)
        [[ -z $VERB && " $verbs " == *" $1 "* ]] ||
          user_error "command line" "'$1'" "one of $verbs, --dry-run, -- FLAGS"
        VERB=$1
        ;;
    esac
    shift
  done
  [[ -n $VERB ]] || user_error "command line" "no verb" "one of $verbs"
}

quote() { # WORD...: prints the words in shell syntax
  local word line='' quote="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/$quote}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

call() { # COMMAND...: runs the command; a dry run prints it
  if [[ $DRY_RUN ]]; then quote "$@"; else "$@"; fi
}

feed() { # TEXT COMMAND...: runs the command with TEXT as its input; a dry run prints both
  if [[ $DRY_RUN ]]; then
    printf '%s <<'\''END'\''\n%s\nEND\n' "$(quote "${@:2}")" "$1"
  else
    "${@:2}" <<<"$1"
  fi
}

ask() { # ANSWER COMMAND...: prints the output of the command; a dry run assumes ANSWER
  if [[ $DRY_RUN ]]; then
    quote "${@:2}" >&3
    echo "$1"
  else
    "${@:2}"
  fi
}

pause() {
  call sleep "$POLL"
}

count_hosts() { # prints how many hosts a TPU slice has: chips in TOPOLOGY over chips per host (ct6e-standard-4t: 4)
  require MACHINE TOPOLOGY
  [[ $MACHINE =~ -([0-9]+)t$ ]] || user_error MACHINE "'$MACHINE'" "a TPU machine type such as ct6e-standard-4t"
  [[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)+$ ]] || user_error TOPOLOGY "'$TOPOLOGY'" "numbers of chips such as 4x4"
  local suffix=${MACHINE##*-} # such as 4t
  echo $((${TOPOLOGY//x/*} / ${suffix%t}))
}

corpus_path() { # prints the local path of the copy of DATA
  echo "data/$(basename "$DATA")"
}

set_training_command() { # PYTHON: sets TRAINING to the command that trains
  require CONFIG WORKDIR
  TRAINING=("$1" -m symbert_jax "$COMMAND" "--config=$CONFIG" "--workdir=$WORKDIR")
  case $COMMAND in
    pretrain) [[ -z $DATA ]] || TRAINING+=("--config.data.dir=$(corpus_path)") ;;
    finetune) [[ -z $DATA ]] || TRAINING+=("--config.glue.source=tsv:$(corpus_path)") ;;
    *) user_error COMMAND "'$COMMAND'" "pretrain or finetune" ;;
  esac
  TRAINING+=(${FLAGS[@]+"${FLAGS[@]}"})
}

require_bucket() {
  [[ $WORKDIR == gs://* ]] || user_error WORKDIR "'$WORKDIR'" "gs://…, as the disks of a slice are deleted with it"
}
