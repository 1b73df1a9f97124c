"""The programs that run in the pods, and the one definition of every format on disk. Standard library only."""
