# Shared by the launchers: flags, errors, and --dry-run. To be sourced.
# shellcheck shell=bash

DRY_RUN=no
# Whoever tests a launcher names another program.
TASKMOE=${TASKMOE:-taskmoe}
# What stands after `--`: the command line of `taskmoe`.
COMMAND=()

fail() {
  echo "${0##*/}: error: $*" >&2
  exit 2
}

# Prints a command so that it can be pasted, and runs it unless --dry-run.
run() {
  echo "+ $(quoted "$@")"
  [ "$DRY_RUN" = yes ] || "$@"
}

quoted() {
  local word line=""
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+="$word "
  done
  echo "${line% }"
}

# Takes --name=value into the variable NAME if it is among the first argument's
# names, --dry-run, -h, and what follows `--`.
parse_flags() {
  local accepted=" $1 " flag name
  shift
  while [ $# -gt 0 ]; do
    flag=$1
    shift
    case $flag in
      --dry-run) DRY_RUN=yes ;;
      -h | --help) usage && exit 0 ;;
      --)
        COMMAND=("$@")
        return
        ;;
      --*=*)
        name=${flag%%=*}
        name=${name#--}
        [[ $accepted == *" $name "* ]] ||
          fail "unknown flag --$name: accepted are${accepted// / --}"
        name=${name//-/_}
        printf -v "${name^^}" '%s' "${flag#*=}"
        ;;
      *) fail "'$flag' is no --name=value; the command of taskmoe stands after --" ;;
    esac
  done
}

# Fails unless every variable that is named has a value.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "--${name,,} is needed. See ${0##*/} --help."
  done
}

need_command() {
  [ ${#COMMAND[@]} -gt 0 ] ||
    fail "no command: write it after --, such as -- train --gin_file=..."
}

# The usage is the comment at the top of the script.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}
