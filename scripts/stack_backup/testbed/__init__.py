"""The test bed: tools, images and clusters, made on this machine or pulled, and cached.

Whatever goes wrong here ends in a `Failure`, whose text is one sentence for the user.
"""


class Failure(Exception):
    """What happened, what was left untouched, and what to do, in one sentence."""
