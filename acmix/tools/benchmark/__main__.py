"""A measuring process, as `scaling` starts them."""

from acmix.tools.benchmark.scaling import main

if __name__ == "__main__":
    main()
