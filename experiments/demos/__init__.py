"""Short programs to begin with: every rule on one image set, and one run in many processes."""
