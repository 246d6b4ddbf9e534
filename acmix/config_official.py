"""placeholder: written by its own commit"""
def is_official(tree): return False
def read_official(tree, base=None): return tree
