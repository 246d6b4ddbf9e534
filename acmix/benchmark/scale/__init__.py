"""A model of a data-parallel training step: how many images a second, and at what efficiency, on 1 to 512 cards.

    parts        what one measures or assumes: compute, gradients, network, loader, checkpoints
    all_reduce   seconds of a reduction over n cards
    step         one step simulated: compute, exposed communication, waiting for the slowest, loader, checkpoints
    table        a row for each number of cards: text, CSV, picture
    measure      the parts, measured on this machine
    reductions   of those the network's
    recipe       the recipe's published point, and two networks that are assumed
    command      what `acmix benchmark scale` does
    check        predicted beside measured at two processes: benchmarks/scale.py

docs/scaling.md has the equations in words.
"""
