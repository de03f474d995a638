#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double bench_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void bench_ratio(const char *rung, const char *what, const double *base, const double *ours, int n,
                 double floor, bool higher)
{
    double *r = calloc((size_t)n, sizeof *r);

    if (!r || n < 1) {
        free(r);
        return;
    }
    for (int i = 0; i < n; i++) {
        r[i] = base[i] / ours[i];
    }
    qsort(r, (size_t)n, sizeof *r, by_value);
    double quartile = higher ? r[n / 4] : r[n - 1 - n / 4];
    bool met = higher ? quartile >= floor : quartile <= floor;
    (void)printf("%-4s %-45s median %.2f, %s quartile %.2f, floor %.2f: %s (n=%d)\n", rung, what,
                 r[n / 2], higher ? "lower" : "upper", quartile, floor, met ? "met" : "missed", n);
    free(r);
}
