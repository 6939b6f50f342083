"""Errors that are not faults of gradsweep: bad input, and a launch that lost its study."""

from __future__ import annotations


class InputError(Exception):
    """Bad input from the user; the command line shows the message and ends with exit code 2.

    The message has one line for each fault: the field, what is expected and what was found.
    """


class OptionError(InputError):
    """An option or argument of a command has an invalid value."""


class StudyError(InputError, ValueError):
    """The study file cannot be used; the message has one line per fault."""


class ProblemError(InputError, ValueError):
    """The user's problem cannot be used; the message names the field, what is expected and what was found."""


class OutputError(InputError, RuntimeError):
    """The output folder cannot be used."""


class StorageError(InputError, RuntimeError):
    """The storage of checkpoints cannot be used."""


class TrackingError(InputError, RuntimeError):
    """The tracking backend cannot be used."""


class ClusterError(InputError, RuntimeError):
    """The cluster cannot be reached, or can never run a trial of this study."""


class ShippingError(InputError, RuntimeError):
    """The code to send to the nodes is too large."""


class ExportError(InputError, ValueError):
    """The arm does not exist, or it has no fixed weights."""


class ImageError(InputError, RuntimeError):
    """Figures cannot be written as image files here; the message says what is missing."""


class LaunchLostError(RuntimeError):
    """Another launch has taken over the study because this one sent no heartbeat; nothing more may be written."""
