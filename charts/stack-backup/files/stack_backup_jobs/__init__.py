"""The programs that run in the pods, and the one definition of every format: standard library only."""
