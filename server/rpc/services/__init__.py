"""The servicers: each hands the repository a rule, or a question where nothing is to be decided, and answers."""
