"""What surrounds every program: flags are parsed, a user's mistake ends in one sentence, TensorFlow's messages are held back.

Imports no TensorFlow: `--help`, `--list` and a wrong flag answer at once.
"""

import contextlib
import errno
import inspect
import io
import os
import re
import select
import shlex
import sys
import tempfile

from absl import app, flags, logging

from zoo.config import Refusal
from zoo.registry import missing

FLAGS = flags.FLAGS


FULL = os.strerror(errno.ENOSPC)


USER_ERROR = 2  # exit status of a mistake in the call


MAY_BE_EMPTY = ("prompt", "text", "set", "stop", "label_words")  # texts; and what says itself what it takes


# Python's words for a flag that is not a number.
_NOT_A_NUMBER = re.compile(r"invalid literal for int\(\) with base 10: .*|could not convert string to float: .*")


HELP = ("help", "helpshort", "?")


RESUME_STATUS = 75  # EX_TEMPFAIL of sysexits.h: interrupted and saved; the same command goes on


# What the user can do about an error of the system that names a path.
REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may use"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or choose another place"),
    errno.ENOENT: "give the path of something that is there",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a directory",
    errno.EEXIST: "choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.ENAMETOOLONG: "give a shorter name",
}
INTERRUPTED = 130  # what a shell reports for Ctrl-C
PIPE_CLOSED = 141  # what a shell reports for SIGPIPE


@contextlib.contextmanager
def quiet():
    """Holds back what TensorFlow's C++ side writes to stderr; shows it after all when the block ends in a bug."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A slice of gs:// is read with what follows it: 64 MB, if TensorFlow is not told otherwise.
    os.environ.setdefault("GCS_READ_CACHE_BLOCK_SIZE_MB", "1")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        stderr = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not is_refusal(error):
                chatter.seek(0)
                os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def command_to_go_on(run):
    """The command that goes on with the run in directory `run`."""
    kept, given = [], iter(sys.argv[1:])
    for argument in given:
        name, equals, _ = argument.lstrip("-").partition("=")
        if name == "init_from" and equals:
            kept.append(f"--init_from={FLAGS.init_from}")  # what a link led to when the run began
        elif name not in ("model_dir", "resume"):
            kept.append(argument)
        elif not equals:
            next(given, None)
    return shlex.join(["python", "-m", "trainers.run", *kept, f"--model_dir={run}"])


def start(main, groups=None):
    """Runs `main()` as a program: flags parsed, a user's mistake is one sentence and exit status 2.

    Args:
        main: the program; the docstring of its file says what it is for.
        groups: title -> names of flags, for --help; None for a plain list.
    """

    def parse(argv):
        if any(argument.lstrip("-") in HELP and argument.startswith("-") for argument in argv[1:]):
            print(help_of(main, groups))
            sys.exit(0)
        try:
            rest = FLAGS(argv)
        except flags.Error as error:
            _mistake(_NOT_A_NUMBER.sub(_takes_a_number, str(error)))
        except SystemExit:  # absl has printed the help, and takes that for a failure
            sys.exit(0)
        if len(rest) > 1:
            _mistake(f"{rest[1]!r} is not a flag; write --name=value.")
        for flag in FLAGS.get_key_flags_for_module("trainers.flags"):
            # A shell makes an empty value of a variable that is not set: the default must not take its place in silence.
            if flag.present and flag.value in ("", [], [""]) and flag.name not in MAY_BE_EMPTY:
                _mistake(f"--{flag.name} is empty; give a value, or leave it out.")
        return rest

    def run(_):
        logging.set_verbosity(logging.ERROR)  # TFDS tells of every file it opens
        try:
            main()
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if not is_refusal(error):
                raise
            _mistake(sentence_of(error))

    with _standard_streams():
        app.run(run, flags_parser=parse)


@contextlib.contextmanager
def _standard_streams():
    """Within it each of stdin, stdout and stderr is open and takes every text. When whoever reads stdout has gone, as
    `| head -1` does, the program ends as one that SIGPIPE has killed, without a word."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by `<&-` or `>&-`; its number must not become that of another file
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
        elif isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="surrogateescape" if name == "stdin" else "backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what was printed last meets a closed pipe here, and not while Python ends
    except BrokenPipeError:
        if not reader_has_gone():
            raise  # another pipe: a bug
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def reader_has_gone():
    """Whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _takes_a_number(python_says):
    return "it takes an integer" if "int" in python_says[0] else "it takes a number"


def help_of(main, groups=None):
    """What --help prints: what the program is for, and its flags. `groups`: as for `start`."""
    own = {flag.name: flag for flag in FLAGS.get_key_flags_for_module("trainers.flags")}
    lines = [inspect.cleandoc(main.__globals__["__doc__"])]
    for title, names in (groups or {"Flags": own}).items():
        lines += ["", f"{title}:", *(_help_of_flag(own[name]) for name in names)]
    return "\n".join([*lines, "", "--helpfull shows the flags of the libraries too."])


def _help_of_flag(flag):
    name = f"[no]{flag.name}" if isinstance(flag, flags.BooleanFlag) else flag.name
    meaning = flag.help.replace(";\n    repeat this option to specify a list of values", " It may be given several times.")
    default = flag.default_as_str.strip("'") if flag.default and name != "list" else ""
    return flags.text_wrap(f"--{name}: {meaning}{f' [{default}]' * bool(default)}", 100, "      ", "  ")


def _mistake(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)


def sentence_of(error):
    """What an exception says, in one line; for one of the system's, which file and what could be done."""
    if missing(error):
        return missing(error)
    # Keras puts words of its own around what is raised inside a layer's call; what was raised is the context.
    while isinstance(error.__context__, Refusal) and str(error.__context__) in str(error):
        error = error.__context__
    if _of_a_full_disk(error) and not getattr(error, "filename", None):
        return f"{FULL}; make room, and start the same command again."
    if _of_memory(error):
        meaning = " ".join(str(error).split()).partition(" [Op:")[0]
        return f"Memory does not suffice ({meaning}); take a smaller model, shorter texts or fewer rows at a time."
    if not (isinstance(error, OSError) and error.errno and error.filename):
        return " ".join(str(error).split())
    remedy = REMEDIES.get(error.errno)
    return f"{error.filename}: {error.strerror}{f'; {remedy}' if remedy else ''}."


def _of_a_full_disk(error):
    """HDF5 and TensorFlow tell of it in errors of their own."""
    return FULL in str(error)


def _of_memory(error):
    """Python's, NumPy's and TensorFlow's errors, of which the last is told by its name: TensorFlow may not be loaded."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def is_refusal(error):
    """Whether an exception is a mistake of the user, or of the machine around the program: then its sentence is enough.

    A `Refusal` is raised on purpose. Of the system's errors only those are meant for the user that name a path and that the
    user can do something about; anything else is a bug and keeps its traceback.
    """
    if isinstance(error, Refusal) or _of_a_full_disk(error) or _of_memory(error) or missing(error):
        return True
    return isinstance(error, OSError) and error.errno in REMEDIES and bool(error.filename)
