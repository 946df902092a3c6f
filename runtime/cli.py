"""The command line: script guard, parser, argument types, options that scripts share, recipes."""

import argparse
import difflib
import functools
import math
import os
import re
import sys
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path

import yaml

from runtime.printing import ReaderGone, printable, safe_output
from runtime.processes import (
    end_process,
    is_main,
    leave_processes,
    say_first,
    silent_stdout,
    world_size,
)


def opposite(name):
    """The switch that undoes another: `share` -> `no-share`, `no_turn` -> `turn`."""
    return name[3:] if name.startswith("no_") else f"no-{name}"


class Switch(argparse.Action):
    """`--share` and `--no-share`, `--no_turn` and `--turn`: what a recipe sets can be undone."""

    def __init__(self, option_strings, dest, **settings):
        self.undoing = [f"--{opposite(name[2:])}" for name in option_strings]
        super().__init__([*option_strings, *self.undoing], dest, nargs=0, **settings)

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, option_string not in self.undoing)


SWITCH = {"action": Switch}


def script(main):
    """Decorate a script's `main`: a user's mistake becomes one line on stderr and exit code 2.

    Libraries raise ValueError, OSError or FloatingPointError with a sentence that says what was
    found, what was expected and what to do. Any other exception is a defect of the program and
    keeps its traceback. `GEO_TRACEBACK=1` in the environment shows every traceback.

    Where what reads stdout has gone (`| head`), it ends without a word and with exit code 141, as
    shell tools do. Of several processes (torchrun) the first that fails speaks for all: the others
    either meet the same mistake or lose their partner. Only the first process prints to stdout.
    """

    @functools.wraps(main)
    @safe_output()
    @_until_the_reader_goes()
    def wrapped(argv=None):
        try:
            with nullcontext() if is_main() else silent_stdout():
                result = main(argv)
        except KeyboardInterrupt as stop:  # what it carries says how to go on
            say_first("; ".join(["interrupted", *map(str, stop.args)]))
            end_process(130)
        except ReaderGone:
            raise
        except Exception as error:
            line = _error_line(error)
            if line is None or os.environ.get("GEO_TRACEBACK"):
                if world_size() == 1:
                    raise
                say_first(traceback.format_exc())
            else:
                name = Path(sys.modules[main.__module__].__file__).name
                say_first(f"{name}: error: {line}")
            end_process(2)
        leave_processes()
        return result

    return wrapped


@contextmanager
def _until_the_reader_goes():
    """End with the code of SIGPIPE, and without a word, once nobody reads stdout or stderr.

    Both have to be those of `safe_output`.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, not when the interpreter ends, which would complain
    except ReaderGone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # for what is still in their buffers
            os.dup2(nowhere, stream.fileno())
        end_process(141)


def _error_line(error):
    """The line that tells the user of a mistake; None for a defect of the program."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return "out of memory: lower --batchsize, or --h and --w"
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return None
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        # From a loader worker, with that process's traceback; its last line is the message.
        text = text.split("\n")[-1].removeprefix(f"{type(error).__name__}: ")
    return printable(text)


def is_out_of_memory(error):
    """Whether a RuntimeError says that a GPU or the CPU has no memory left."""
    # The CPU allocator raises a plain RuntimeError, whose words depend on the system.
    words = ("out of memory", "DefaultCPUAllocator", "not enough memory")
    return any(word in str(error) for word in words)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells the default of an option which has one."""

    def _get_help_string(self, action):
        # Of a switch that turns something off, the default is of what it turns off.
        empty = action.default is None or action.default in ([], ()) or action.const is False
        return action.help if empty else super()._get_help_string(action)


def example_in(docstring):
    """The first command of a script's docstring, as the last line of its help."""
    lines = (line.removeprefix("$ ") for line in docstring.splitlines())
    command = next(line for line in lines if line.startswith("python "))
    return f"example: {command.split('#')[0].rstrip()}"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose errors are one line."""

    _given = ()  # what was to be parsed at last, for `error`

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)
        # Places south of the equator and west of Greenwich begin with a minus: they are values.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.color = False  # of Python 3.14: `safe_output` would print the codes

    def parse_args(self, args=None, namespace=None):
        """As argparse does it, but an unknown option is answered by the one that may be meant."""
        opts, unknown = self.parse_known_args(args, namespace)
        if unknown:
            commands = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
            parser = next((each.choices[getattr(opts, each.dest)] for each in commands), self)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{parser.hint(unknown)}")
        return opts

    def parse_known_args(self, args=None, namespace=None):
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def hint(self, unknown):
        """ " (did you mean --lr?)" for the first unknown option, "" where none is like it.

        Alike are a name but for a few letters, one that holds it, and at last an option whose help
        says these words, the earlier the better: --learning_rate is --lr.
        """
        word = next((each for each in unknown if each.startswith("--")), "")
        name, known, helps = _plain(word.partition("=")[0]), {}, []
        for action in self._actions:
            known.update({_plain(option): option for option in action.option_strings})
            place = f" {action.help}".find(f" {name}")
            if action.option_strings and place >= 0:
                helps.append((place, action.option_strings[0]))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        near += [each for each in known if name in each]
        meant = [known[each] for each in near] + [option for _, option in sorted(helps)]
        return f" (did you mean {meant[0]}?)" if name and meant else ""

    def _get_value(self, action, arg_string):
        """As argparse does it, but not nothing: what an unset variable of a shell leaves."""
        # A default comes this way too, and to a parser of commands what is for the command's.
        if not arg_string and action.default != "" and action.nargs != argparse.PARSER:
            raise argparse.ArgumentError(action, "nothing is given: give a value, or leave it out")
        return super()._get_value(action, arg_string)

    def error(self, message):
        """Print the message alone, without the usage, and exit with code 2."""
        if message.endswith("required") or " required: " in message:  # perhaps it is misspelt
            names = [each.partition("=")[0] for each in self._given]
            message += self.hint(
                [each for each in names if each not in self._option_string_actions]
            )
        say_first(f"{self.prog}: error: {printable(message)} (see --help)")
        self.exit(2)


def _plain(option):
    """The words of an option's name."""
    return option.lstrip("-").replace("_", " ").replace("-", " ").lower()


class _Refuse(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is refused: {self.help}")


def add_refused(parser, reasons):
    """Add published flags that end the program with the reason why they are not taken."""
    for name, reason in reasons.items():
        parser.add_argument(
            f"--{name}", action=_Refuse, nargs=0, default=argparse.SUPPRESS, help=reason
        )


def add_options(parser, rows):
    """Add options to a parser or a group of one, a row each: (names, takes, default, help).

    What an option takes is a type, a tuple of choices, SWITCH (see `Switch`) or other settings of
    `add_argument`; a fifth element is its metavar. A row may be a function instead, which adds
    options that several scripts have in common.
    """
    for row in rows:
        if callable(row):
            row(parser)
            continue
        names, takes, default, text, *metavar = row
        settings = {"default": default, "help": text}
        if metavar:
            settings["metavar"] = metavar[0]
        if isinstance(takes, dict):
            settings |= takes
        else:
            settings["choices" if isinstance(takes, tuple) else "type"] = takes
        parser.add_argument(*names.split(), **settings)


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    return bounded_int(text, 1)


def natural_int(text):
    """argparse type: a whole number of at least 0."""
    return bounded_int(text, 0)


def bounded_int(text, lowest, reason=""):
    """A whole number of at least `lowest`, for an option whose `reason` continues the message."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < lowest:
        raise argparse.ArgumentTypeError(f"{value} is too small: at least {lowest}{reason}")
    return value


def at_least(lowest, reason):
    """An argparse type: a whole number from `lowest`; `reason` is said after it."""
    return functools.partial(bounded_int, lowest=lowest, reason=f", {reason}")


image_side = at_least(32, "in pixels")


def number_within(lowest, highest=math.inf, above=False):
    """An argparse type: a number from `lowest`, or with `above` only above it, to `highest`."""

    def number(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        fits = lowest <= value <= highest and math.isfinite(value)
        if not fits or (above and value == lowest):
            span = f"from {lowest} up" if math.isinf(highest) else f"from {lowest} to {highest}"
            span = f"above {lowest}" if above else span
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {span}")
        return value

    return number


def place(text):
    """argparse type: latitude,longitude in degrees."""
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        fits = abs(latitude) <= 90 and abs(longitude) <= 180
    except ValueError:
        fits = False
    if not fits:
        raise argparse.ArgumentTypeError(f"{text!r} is not latitude,longitude in degrees")
    return latitude, longitude


def add_run_options(parser):
    """Add the options that name a trained run."""
    add = parser.add_argument
    add("--name", default="two_view", help="name of the run folder in model/, or a shared run, "
        "path/to/run.zip (export.py --bundle)")  # fmt: skip
    add("--which_epoch", default="last", help="weights to use: 59, or last")


def need_views(opts, views, *names):
    """ValueError where an option of these names is not one of the `views` that the run knows."""
    for view in (getattr(opts, name) for name in names):
        if view not in views:
            known = f"the run {opts.name} was trained on {', '.join(views)}, not on {view}"
            if getattr(opts, "zero_shot", False):
                known = f"--zero_shot knows {', '.join(views)}, not {view}"
            raise ValueError(
                f"{known}: choose {' and '.join(f'--{name}' for name in names)} among these"
            )


def add_machine_options(parser):
    """Add the options that say where a script computes, the same in every script."""
    add_options(parser, [
        ("--device", ("auto", "cpu", "cuda"), "auto",
         "where to compute; on Linux a process keeps freed memory for its next step, unless "
         "GEO_KEEP_MEMORY=0 is in the environment"),
        ("--gpu_ids", str, "0",
         "number of the one GPU, -1 for the CPU; torchrun gives each process its own"),
        ("--num_workers", natural_int, min(4, os.cpu_count() or 1),
         "loader threads, in training with --color_jitter or --DA processes (of each of torchrun); "
         "0 loads when asked"),
    ])  # fmt: skip


def add_cache_option(parser):
    """Add `--cache`, which keeps resized images between epochs or runs."""
    text = (
        "decode and resize every image once: in memory, or for later runs too in cache/; "
        "3 x h x w bytes an image, the same pixels"
    )
    parser.add_argument("--cache", default="none", choices=("none", "ram", "disk"), help=text)


def add_precision_options(parser):
    """Add `--fp16` and `--bf16`, of which one may hold (see `precision_of`)."""
    parts = "for the convolutions and layers that bear it; loss and features stay float32"
    for name, kind in (("--fp16", "float16"), ("--bf16", "bfloat16")):
        add_options(parser, [(name, SWITCH, False, f"{kind} {parts}")])


def precision_of(opts):
    """ "fp16", "bf16" or "fp32", as `--fp16` and `--bf16` say."""
    return "fp16" if opts.fp16 else "bf16" if opts.bf16 else "fp32"


def with_config(parser, argv=None):
    """The command line after the options of its `--config FILE`, which it so overrides.

    The file is YAML with `options: {name: value}`: true gives `--name`, false its opposite, a list
    or a mapping what the command line takes for it (`a,b`, `a=1,b=2`). Its other keys are for the
    reader. Raises ValueError or FileNotFoundError.
    """
    argv = sys.argv[1:] if argv is None else [str(each) for each in argv]
    finder = Parser(prog=parser.prog, add_help=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    if path is None:
        return argv
    tokens = [token for item in read_config(path).items() for token in _option_tokens(*item)]
    unknown = [token for token in parser.parse_known_args(tokens)[1] if token.startswith("--")]
    if unknown:
        raise ValueError(
            f"{path} sets {unknown[0]}, which {parser.prog} does not know: remove it"
            f"{parser.hint(unknown)}"
        )
    return [*tokens, *argv]


def _option_tokens(name, value):
    if value in (None, ""):
        return []
    if isinstance(value, bool):
        return [f"--{name if value else opposite(name)}"]
    if isinstance(value, dict):
        value = ",".join(f"{key}={each}" for key, each in value.items())
    elif isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name}", str(value)]


def read_config(path):
    """The `options` of a recipe file as a dict; see `with_config`."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(each.stem for each in Path(path).parent.glob("*.yaml"))
        beside = f"; there are {', '.join(names)}" if names else ""
        raise FileNotFoundError(f"recipe {path} not found{beside}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): mend it") from None
    options = content.get("options") if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options: expected `options:` with lines `name: value`")
    return options
