"""What is printed: names of any characters, the first line of an error, commands to paste."""

import os
import shlex
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout

# C0 and C1, line and paragraph separators, and what turns the direction of the text around.
CODES = (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F),
         *range(0x2066, 0x206A))  # fmt: skip
ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in CODES}


def printable(text):
    """A name, or a sentence with names, as one line: control characters become \\n, \\x1b, ..."""
    return str(text).translate(ESCAPES)


def is_utf8(text):
    """Whether all of a str can be written; of other bytes Python keeps half a character each."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def first_line(error):
    """What an error says first, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def quoted(path):
    """A path for the shell: what is not plain ASCII as bytes, so that what is pasted is the same.

    bash and zsh read $'...'; a terminal would perhaps compose an accent, or break a line.
    """
    text = os.fspath(path)
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}"
             for byte in os.fsencode(text))  # fmt: skip
    return f"$'{''.join(plain)}'"


class ReaderGone(BrokenPipeError):
    """What reads stdout or stderr has ended, as in `| head`."""


class _SafeStream:
    """A text stream that escapes control characters, but `kept`, and what it cannot encode.

    It raises `ReaderGone`, which tells its broken pipe from those of other processes.
    """

    def __init__(self, stream, kept):
        self._stream = stream
        self._escapes = {code: text for code, text in ESCAPES.items() if chr(code) not in kept}

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.translate(self._escapes)
        with _telling():
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self):
        with _telling():
            self._stream.flush()


@contextmanager
def _telling():
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None


@contextmanager
def safe_output():
    """Within the block whatever a name holds can be printed, and does nothing to the terminal.

    A script that is started without stdout or stderr (`>&-`) prints to nowhere.
    """
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out = _SafeStream(sys.stdout or nowhere, "\n\t")
        err = _SafeStream(sys.stderr or nowhere, "\n\t\r")  # progress bars use \r
        with redirect_stdout(out), redirect_stderr(err):
            yield
