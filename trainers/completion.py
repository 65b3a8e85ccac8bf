"""Completion of a shell's command line: what --completion=bash and --completion=zsh print.

    source <(python -m trainers.run --completion=bash)

The script holds the names that were there when it was printed: models, presets, tasks, tokenizers, flags, and the fields that
--set takes. So completing starts no Python.
"""

import dataclasses
import shlex

from absl import flags

from trainers.engine.privacy import PrivacyConfig
from trainers.engine.tuning import TuningConfig
from zoo.registry import MODELS, TASKS, TOKENIZERS, tasks_of

# What stands before the cursor decides. Bash takes `=` for the border of a word; in zsh the flag is put before each word.
SCRIPT = """\
_zoo_words() {  # model flag -> the values that the flag takes
  case "$1 $2" in
%(cases)s
  esac
}
_zoo_complete() {
  local line=${COMP_LINE:0:$COMP_POINT} model= flag= typed before=
  typed=${line##*[[:space:]]}
  [[ $line == *trainers.run\\ * || $line == zoo-train* ]] || return
  if [[ $line == *--model=*\\ * ]]; then
    model=${line##*--model=}
    model=${model%%%%[[:space:]]*}
  fi
  if [[ $typed == --*=* ]]; then
    flag=${typed%%%%=*}
    typed=${typed#*=}
    [[ -n $ZSH_VERSION ]] && before=$flag=
    COMPREPLY=($(compgen -P "$before" -W "$(_zoo_words "$model" "$flag")" -- "$typed"))
  else
    COMPREPLY=($(compgen -W "%(flags)s" -- "$typed"))
  fi
  [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o default -F _zoo_complete python zoo-train
"""


def script(shell):
    """The text to be sourced, for "bash" or "zsh"."""
    enums = {
        f"--{name}": list(flag.parser.enum_values)
        for name, flag in sorted(_own_flags().items())
        if isinstance(flag.parser, flags.EnumParser)
    }
    names = [f"--{name}=" if not flag.boolean else f"--{name}" for name, flag in sorted(_own_flags().items())]
    text = SCRIPT % dict(cases="\n".join(_cases(enums)), flags=" ".join(names))
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{text}" if shell == "zsh" else text


def _own_flags():
    return {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module("trainers.flags")}


def _cases(enums):
    """Lines of the shell's `case`: `model flag) echo the words;;`."""
    yield from (_case(f"* {flag}", words) for flag, words in enums.items())
    yield _case("* --tokenizer", TOKENIZERS.names())
    yield from (_case(f"* {flag}", MODELS.names()) for flag in ("--model", "--list"))
    shared = [field for each in (TuningConfig, PrivacyConfig) for field in _fields(each)]
    for name in MODELS.names():
        config = MODELS.config(name)
        tasks = [task for task in tasks_of(config) if TASKS.config(task).trains]
        yield _case(f"{name} --preset", config.presets)
        yield _case(f"{name} --task", tasks)
        of_tasks = [field for task in tasks for field in _fields(TASKS.config(task))]
        yield _case(f"{name} --set", dict.fromkeys([*_fields(config), *of_tasks, *shared]))
    yield _case("* --task", TASKS.names())


def _case(pattern, words):
    model, _, flag = pattern.partition(" ")
    shown = f'*" {flag}"' if model == "*" else f'"{pattern}"'
    return f"    {shown}) echo {' '.join(map(shlex.quote, words))};;"


def _fields(config):
    return [f"{field.name}=" for field in dataclasses.fields(config)]
