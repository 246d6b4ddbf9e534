"""A measuring process, as `scaling` starts them."""

from acmix.benchmark.scaling import main

if __name__ == "__main__":
    main()
