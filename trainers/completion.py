"""Completion of a shell's command line: what --completion=bash and --completion=zsh print.

    source <(python -m trainers.run --completion=bash)

The script holds the names that were there when it was printed: the flags of every program, models, presets, tasks, tokenizers,
and the fields that --set takes. So completing starts no Python.
"""

import dataclasses
import shlex

from absl import flags

from trainers import flags as trainer_flags
from trainers.engine.privacy import PrivacyConfig
from trainers.engine.tuning import TuningConfig
from zoo.registry import MODELS, TASKS, TOKENIZERS, tasks_of

# Module of trainers/ -> what declares its flags. Its console script is called zoo-<module>, and that of `run` zoo-train.
PROGRAMS = {
    "run": trainer_flags.define_training,
    "evaluate": trainer_flags.define_evaluation,
    "generate": trainer_flags.define_generation,
    "export": trainer_flags.define_export,
    "convert": trainer_flags.define_conversion,
    "prepare": trainer_flags.define_preparation,
    "harness": trainer_flags.define_harness,
    "doctor": trainer_flags.define_doctor,
    "report": trainer_flags.define_report,
    "phrases": trainer_flags.define_phrases,
    "trace": trainer_flags.define_trace,
    "forget": trainer_flags.define_forgetting,
    "explain": trainer_flags.define_explanation,
    "playground": trainer_flags.define_playground,
}
# What stands before the cursor decides. Bash takes `=` for the border of a word; in zsh the flag is put before each word.
SCRIPT = """\
_zoo_flags() {  # program -> its flags
  case "$1" in
%(flags)s
  esac
}
_zoo_words() {  # program model flag -> the values that the flag takes
  case "$1 $2 $3" in
%(cases)s
  esac
}
_zoo_complete() {
  local line=${COMP_LINE:0:$COMP_POINT} program= model= flag= typed before=
  typed=${line##*[[:space:]]}
  COMPREPLY=()
  case $line in
    *-m\\ trainers.*\\ *) program=${line#*-m trainers.} ;;
    zoo-train\\ *) program=run ;;
    zoo-*\\ *) program=${line#zoo-} ;;
    *) return ;;
  esac
  program=${program%%%%[[:space:]]*}
  if [[ $line == *--model=*\\ * ]]; then
    model=${line##*--model=}
    model=${model%%%%[[:space:]]*}
  fi
  if [[ $typed == --*=* ]]; then
    flag=${typed%%%%=*}
    typed=${typed#*=}
    [[ -n $ZSH_VERSION ]] && before=$flag=
    COMPREPLY=($(compgen -P "$before" -W "$(_zoo_words "$program" "$model" "$flag")" -- "$typed"))
  else
    COMPREPLY=($(compgen -W "$(_zoo_flags "$program")" -- "$typed"))
  fi
  [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o default -F _zoo_complete python python3 %(commands)s
"""


def script(shell):
    """The text to be sourced, for "bash" or "zsh"."""
    declared = _flags_of_programs()
    commands = ["zoo-train" if program == "run" else f"zoo-{program}" for program in PROGRAMS]
    shown = {
        program: [f"--{name}" if flag.boolean else f"--{name}=" for name, flag in sorted(of_program.items())]
        for program, of_program in declared.items()
    }
    text = SCRIPT % dict(
        flags="\n".join(f"    {program}) echo {' '.join(names)};;" for program, names in shown.items()),
        cases="\n".join(_cases(declared)),
        commands=" ".join(commands),
    )
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{text}" if shell == "zsh" else text


def _own_flags():
    return {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module("trainers.flags")}


def _flags_of_programs():
    """Program -> name -> flag. What this program has declared is put aside meanwhile, as names of others are the same."""
    kept, declared = _own_flags(), {}
    for program, define in PROGRAMS.items():
        _forget()
        define()
        declared[program] = _own_flags()
    _forget()
    for name, flag in kept.items():
        flags.FLAGS[name] = flag
    return declared


def _forget():
    for name in _own_flags():
        delattr(flags.FLAGS, name)


def _cases(declared):
    """Lines of the shell's `case`: `program model flag) echo the words;;`."""
    for program, of_program in declared.items():
        for name, flag in sorted(of_program.items()):
            if isinstance(flag.parser, flags.EnumParser):
                yield _case(program, "*", name, flag.parser.enum_values)
        if "tokenizer" in of_program:
            yield _case(program, "*", "tokenizer", TOKENIZERS.names())
    yield from (_case("run", "*", flag, MODELS.names()) for flag in ("model", "list"))
    shared = [field for each in (TuningConfig, PrivacyConfig) for field in _fields(each)]
    for name in MODELS.names():
        config = MODELS.config(name)
        tasks = [task for task in tasks_of(config) if TASKS.config(task).trains]
        yield _case("run", name, "preset", config.presets)
        yield _case("run", name, "task", tasks)
        of_tasks = [field for task in tasks for field in _fields(TASKS.config(task))]
        yield _case("run", name, "set", dict.fromkeys([*_fields(config), *of_tasks, *shared]))
    yield _case("run", "*", "task", TASKS.names())


def _case(program, model, flag, words):
    pattern = f'"{program} "*" --{flag}"' if model == "*" else f'"{program} {model} --{flag}"'
    return f"    {pattern}) echo {' '.join(map(shlex.quote, words))};;"


def _fields(config):
    return [f"{field.name}=" for field in dataclasses.fields(config)]
