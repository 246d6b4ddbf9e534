"""Faults that a run is put through: damaged files, killed processes, a full disk, folders of others.

command    `python benchmarks/faults.py`; its table
record     what was done, case by case, so that a killed command goes on; rows
forked     calls in processes forked from this one, which has torch and acmix in memory
flips      damaged checkpoints through every command that reads one
torn       a damaged newest checkpoint beside the one before
killed     one rank of two, and the launcher, killed in the middle of an epoch
disk       a file system that fills up; another user's folder; a folder held by another host
share      the share of a step that checkpoints cost
"""
