/*
 * What the benchmarks share: a clock, a scratch directory, and ratios with quartiles.
 *
 * The rules behind every row. Both sides of a ratio run in one process tree, in one run, in turn
 * (bare, ours, bare, ours …), and a rung's value is the median of the paired ratios: absolute
 * figures on a shared machine mean little, ratios of neighbours much. A rung counts as met when the
 * quartile on the wrong side passes too, over at least 20 pairs: the lower one where more is
 * better, the upper one for latencies. Processor time stands beside wall time, because it hardly
 * notices other load. Results are summed up into a checksum that is printed or compared, so that no
 * side can have done less than it says. A program never judges by its exit code: it is 1 only when
 * something failed or a result was wrong.
 *
 *   BENCH_QUICK=1   everything small, a few pairs: does it run, not how fast
 *   BENCH_DIR=dir   where scratch directories are made; default: the working directory
 *   ONLY=rung       only the rungs whose names are in this text
 */
#ifndef LEVEE_BENCH_H
#define LEVEE_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "levee/error.h"

#define BENCH_PAIRS 24 /* what a rung runs; 20 are needed for it to count */

extern bool bench_quick;

/* First call of a program: its name for messages, the environment, and the table's head. */
void bench_init(const char *name);
bool bench_wanted(const char *rung);
/* Ends the program with code 1; what was made in the scratch directory is removed. */
_Noreturn void bench_die(const char *what, const struct levee_error *err);
static inline void bench_must(bool holds, const char *what) /* names errno */
{
    if (!holds) {
        bench_die(what, NULL);
    }
}
void bench_check(int code, const struct levee_error *err, const char *what);
void *bench_alloc(size_t bytes); /* zeroed; never NULL */
/* A new directory, removed with all that is in it when the program ends. The same one each time. */
const char *bench_scratch(void);
void bench_remove(const char *path); /* a file or a directory with what is in it */

/* ---- time ---- */

struct bench_time {
    double wall, cpu; /* seconds; cpu: all threads of this process, user and system */
};
double bench_now(void); /* seconds, monotonic */
struct bench_time bench_start(void);
struct bench_time bench_since(struct bench_time start);
void bench_sleep_until(double when);
/* Loops over pairs: true while there are pairs to run and, from the fourth on, time left until
 * deadline. Machines differ; a benchmark ends in about a minute on all of them. */
bool bench_more(size_t pair, size_t pairs, double deadline);

/* ---- results ---- */

struct bench_goal {
    const char *rung, *what;
    double floor, strong, summit;
    bool lower; /* less is better: latencies and times */
};
double bench_quantile(double *v, size_t n, double q); /* sorts v */
/* The row of a rung: median and quartiles of n ratios, what is asked, and how far it was met. */
void bench_row(const struct bench_goal *goal, double *ratios, size_t n);
/* The same without a goal: shown to explain another row. */
void bench_aside(const char *what, double *ratios, size_t n);
double bench_median(const double *v, size_t n); /* leaves v as it is */
double bench_mean(const double *v, size_t n);

#endif
