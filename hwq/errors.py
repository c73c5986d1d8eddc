"""Errors a user can act on: one sentence each, never a traceback at the command line."""


class HwqError(Exception):
    """Bad input: a file, a model, an architecture or an option that can't be used as given.

    The message is one sentence naming what was wrong and, where there is one, the remedy. The command line prints
    it and exits with status 2. Characters of a file that can't be printed are in it as escapes.
    """

    def __init__(self, message: str):
        super().__init__("".join(map(_printable, message)))


def _printable(character: str) -> str:
    """Return a character, or its escape where a terminal wouldn't show it."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class ModelError(HwqError):
    """An ONNX file that can't be read or given a meaning; names the file and, where there is one, the node."""


class ArchError(HwqError):
    """An architecture description that is malformed or out of range; names the field, its value and the rule."""


class CapacityError(HwqError):
    """A layer or network that doesn't fit the chosen architecture; names the memory, what it has and what is needed.

    Members
    -------
    member : str
        The architecture's, which gives the memory's size.
    """

    def __init__(self, message: str, member: str = ""):
        super().__init__(message)
        self.member = member


class ProgramError(HwqError):
    """A Program file that is damaged, or was compiled for another architecture."""


class InputError(HwqError):
    """Run-time inputs whose names, shapes or dtypes don't match the model's."""


class MissingToolError(HwqError):
    """An optional package or program isn't installed; the message holds the command that installs it."""


class DeviceError(HwqError):
    """The accelerator stopped with an error code; names the code, the descriptor and the program counter."""


class ParityError(DeviceError):
    """A byte of the accelerator's memory isn't as it was written; what it holds must be loaded again.

    Members
    -------
    slot : int or None
        The descriptor that read it, or one that still wrote then; None where the host did.
    """

    def __init__(self, message: str, slot: int | None = None):
        super().__init__(message)
        self.slot = slot


class ChecksumError(DeviceError):
    """The accelerator's sums disagree with their checksums; names rows and columns."""


class LinkError(DeviceError):
    """The host link to a board failed; nothing that came over it since the last good answer was taken."""


class LinkTimeoutError(LinkError):
    """No good answer came, however often the request was sent again."""


class LinkLostError(LinkError):
    """The line is gone: the port can't be opened, or was unplugged."""
