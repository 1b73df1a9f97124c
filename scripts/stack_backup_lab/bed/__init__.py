"""The test bed: tools, images and clusters, made on this machine or pulled, and cached.

Whatever goes wrong here ends in a `BedError`, whose text is one sentence for the user.
"""

from stack_backup_lab import LabError


class BedError(LabError):
    """A tool, an image or a cluster could not be made."""
