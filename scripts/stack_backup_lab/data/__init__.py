"""Data as production has it: a database with molecules, trees of media files, and their comparison."""
