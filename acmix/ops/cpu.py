"""The operators on the CPU: calls the C++ kernels in `kernels/`, which `cpu_build` builds and loads."""
