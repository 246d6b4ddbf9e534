"""The figures that README.md and docs/ show: how each is measured, and how it gets onto its page.

Each module is what a script of benchmarks/ runs; `python -m acmix.benchmark` lists them. All write below
benchmarks/results/ of a checkout, and a test holds the pages equal to those files.
"""
