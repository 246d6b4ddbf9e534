// The smallest kernel: that it can be called shows that the library was built for this machine and loads.
#ifdef _OPENMP
#include <omp.h>
#endif

// 1 with threads, 0 where the compiler has no OpenMP that can share torch's threads.
extern "C" int acmix_has_threads() {
#ifdef _OPENMP
    return omp_get_max_threads() > 0;
#else
    return 0;
#endif
}
