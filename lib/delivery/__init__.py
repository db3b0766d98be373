"""What leaves the house: the run, its site, the command line."""
