"""Hostile input sent through every command that takes it.

child            one case in a forked process: its outcome, memory, requests, programs
configurations   mutated settings
images           mutated pictures
checkpoints      mutated checkpoints and run folders
cases            which commands they go through
run              all of them, and the table
"""
