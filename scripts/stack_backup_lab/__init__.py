"""The lab: it renders the chart, runs its jobs for real on two runtimes, and makes what they need."""


class LabError(Exception):
    """What happened, what was left untouched, and what to do, in one sentence for the user."""
