# shellcheck shell=bash
# What the scripts of this folder share: verbs, knobs, and commands that a dry run prints instead of running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec 3>&1 # for `ask`, whose output is the answer

COMMAND=${COMMAND:-pretrain} CONFIG=${CONFIG:-} WORKDIR=${WORKDIR:-} DATA=${DATA:-} POLL=${POLL:-30}
VERB='' DRY_RUN='' FLAGS=()

usage() { # the comment at the top of the script
  sed -n '2,/^$/s/^# \{0,1\}//p' "launch/${0##*/}"
}

mistake() { # WHAT FOUND WANTED
  echo "error: $1: found $2, wanted $3; see launch/${0##*/} --help" >&2
  exit 2
}

require() { # KNOB...
  local knob
  for knob; do
    [[ -n ${!knob:-} ]] || mistake "$knob" nothing "a value: $knob=… in the environment"
  done
}

parse() { # VERBS, then the command line: VERB [--dry-run] [-- FLAGS of python -m symbert_jax]
  local verbs=$1
  shift
  while (($#)); do
    case $1 in
      --) FLAGS=("${@:2}") && break ;;
      --dry-run) DRY_RUN=1 ;;
      -h | --help | help) usage && exit ;;
      *)
        [[ -z $VERB && " $verbs " == *" $1 "* ]] || mistake "command line" "'$1'" "one of $verbs, --dry-run, -- FLAGS"
        VERB=$1
        ;;
    esac
    shift
  done
  [[ -n $VERB ]] || mistake "command line" "no verb" "one of $verbs"
}

quoted() { # the words as a shell reads them
  local word line='' quote="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/$quote}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

call() { # COMMAND...
  if [[ $DRY_RUN ]]; then quoted "$@"; else "$@"; fi
}

feed() { # TEXT COMMAND...: a command that reads TEXT
  if [[ $DRY_RUN ]]; then
    printf '%s <<'\''END'\''\n%s\nEND\n' "$(quoted "${@:2}")" "$1"
  else
    "${@:2}" <<<"$1"
  fi
}

ask() { # ANSWER COMMAND...: the output of a command; a dry run goes on with ANSWER
  if [[ $DRY_RUN ]]; then
    quoted "${@:2}" >&3
    echo "$1"
  else
    "${@:2}"
  fi
}

pause() {
  call sleep "$POLL"
}

hosts() { # of a TPU slice, by MACHINE, which ends in its number of chips, and TOPOLOGY
  require MACHINE TOPOLOGY
  [[ $MACHINE =~ -([0-9]+)t$ ]] || mistake MACHINE "'$MACHINE'" "a TPU machine type such as ct6e-standard-4t"
  [[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)+$ ]] || mistake TOPOLOGY "'$TOPOLOGY'" "numbers of chips such as 4x4"
  local chips=${MACHINE##*-}
  echo $((${TOPOLOGY//x/*} / ${chips%t}))
}

corpus() { # where DATA lies on the machine that trains
  echo "data/$(basename "$DATA")"
}

training() { # PYTHON: sets TRAINING to the command that trains
  require CONFIG WORKDIR
  TRAINING=("$1" -m symbert_jax "$COMMAND" "--config=$CONFIG" "--workdir=$WORKDIR")
  case $COMMAND in
    pretrain) [[ -z $DATA ]] || TRAINING+=("--config.data.dir=$(corpus)") ;;
    finetune) [[ -z $DATA ]] || TRAINING+=("--config.glue.source=tsv:$(corpus)") ;;
    *) mistake COMMAND "'$COMMAND'" "pretrain or finetune" ;;
  esac
  TRAINING+=(${FLAGS[@]+"${FLAGS[@]}"})
}

bucket() { # checks where a slice writes
  [[ $WORKDIR == gs://* ]] || mistake WORKDIR "'$WORKDIR'" "gs://…, as the disks of a slice go with it"
}
