/* Shared by the benchmarks: a clock and paired ratios with quartiles (the rules of fairness are
 * printed with every row). */
#ifndef LEVEE_BENCH_H
#define LEVEE_BENCH_H

#include <stdbool.h>

double bench_now(void); /* seconds, monotonic */
/* Prints the median and the quartile that counts of base[i] / ours[i] (throughput of ours over
 * base, from times), against a floor. higher: the lower quartile must reach the floor; else the
 * upper one must stay below it. */
void bench_ratio(const char *rung, const char *what, const double *base, const double *ours, int n,
                 double floor, bool higher);

#endif
