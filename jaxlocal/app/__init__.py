"""The command line and the runs that it leaves in folders."""
