"""The page that shows an evaluation: tables, curves and pictures in one file that needs nothing else."""
