"""What can go wrong with the embedded cluster, by what the caller can do about it."""

from __future__ import annotations


class LocalClusterError(Exception):
    """Base of all errors of this package; the message is fit to be shown as it is."""


class ToolMissingError(LocalClusterError):
    """A program is missing or too old, and could not be built; the message says how to get it."""


class NamespaceError(LocalClusterError):
    """The kernel refuses a namespace or a mount; the message says which and how to allow it."""


class ClusterExistsError(LocalClusterError):
    """A cluster of this name is running or being started."""


class NoSuchClusterError(LocalClusterError):
    """No cluster of this name is running."""


class StartError(LocalClusterError):
    """The cluster did not come up; the message names the component and the end of its log."""


class CommandError(LocalClusterError):
    """kubectl or Helm ended with an error; the message holds what they said."""
