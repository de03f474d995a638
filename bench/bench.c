#include "bench/bench.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAIRS_TO_COUNT 20

bool bench_quick;
static const char *program = "bench";
static char scratch[512];
static pid_t scratch_owner;

/* ---- failing ---- */

void bench_die(const char *what, const struct levee_error *err)
{
    char text[1024];

    (void)fflush(stdout);
    (void)fprintf(stderr, "%s: %s: %s\n", program, what,
                  err ? levee_error_format(err, text, sizeof text) : strerror(errno));
    exit(1);
}

void bench_check(int code, const struct levee_error *err, const char *what)
{
    if (code != LEVEE_OK) {
        bench_die(what, err);
    }
}

void *bench_alloc(size_t bytes)
{
    void *p = calloc(1, bytes);

    bench_must(p != NULL, "memory");
    return p;
}

/* ---- the scratch directory ---- */

void bench_remove(const char *path)
{
    struct stat st;

    if (lstat(path, &st) != 0) {
        return;
    }
    DIR *d = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char inner[1024];
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            (void)snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
            bench_remove(inner);
        }
    }
    if (d) {
        (void)closedir(d);
    }
    (void)remove(path);
}

static void remove_scratch(void)
{
    if (scratch[0] && getpid() == scratch_owner) { /* not in a child that ends with exit() */
        bench_remove(scratch);
    }
}

const char *bench_scratch(void)
{
    const char *where = getenv("BENCH_DIR");
    char here[200];

    if (!scratch[0]) { /* absolute, for programs that change their working directory */
        bench_must(getcwd(here, sizeof here) != NULL, "working directory");
        where = where ? where : ".";
        (void)snprintf(scratch, sizeof scratch, "%s%s%s/%s.XXXXXX", where[0] == '/' ? "" : here,
                       where[0] == '/' ? "" : "/", where, program);
        bench_must(mkdtemp(scratch) != NULL, scratch);
        scratch_owner = getpid();
        bench_must(atexit(remove_scratch) == 0, "atexit");
    }
    return scratch;
}

/* Ratios of neighbours survive some noise, but not a machine on which every wake-up waits in line:
 * then a sync takes a scheduler tick, whoever asks for it. */
static void note_load(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    FILE *f = fopen("/proc/loadavg", "re");
    char text[64] = "";
    double load = f && fgets(text, sizeof text, f) ? strtod(text, NULL) : 0;

    if (load > (double)processors) {
        (void)printf("note: the load is %.1f on %ld processors; latencies say little\n", load,
                     processors);
    }
    if (f) {
        (void)fclose(f);
    }
}

void bench_init(const char *name)
{
    program = name;
    bench_quick = getenv("BENCH_QUICK") != NULL;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    note_load();
    (void)printf("%-5s %-60s %7s  %-15s %s\n", "rung", "ratio", "median", "[quartiles]", "asked");
}

bool bench_wanted(const char *rung)
{
    const char *only = getenv("ONLY");

    return !only || strstr(only, rung) != NULL;
}

/* ---- time ---- */

static double seconds_of(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double bench_now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

struct bench_time bench_start(void)
{
    return (struct bench_time){bench_now(), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
}

struct bench_time bench_since(struct bench_time start)
{
    struct bench_time now = bench_start();

    return (struct bench_time){now.wall - start.wall, now.cpu - start.cpu};
}

void bench_sleep_until(double when)
{
    struct timespec t = {.tv_sec = (time_t)when};

    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

bool bench_more(size_t pair, size_t pairs, double deadline)
{
    return pair < (bench_quick ? 2 : pairs) && (pair < 4 || bench_now() < deadline);
}

/* ---- results ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_quantile(double *v, size_t n, double q)
{
    qsort(v, n, sizeof *v, by_value);
    return v[(size_t)(q * (double)(n - 1) + 0.5)];
}

double bench_median(const double *v, size_t n)
{
    double *copy = bench_alloc(n * sizeof *copy);

    memcpy(copy, v, n * sizeof *copy);
    double median = bench_quantile(copy, n, 0.5);
    free(copy);
    return median;
}

double bench_mean(const double *v, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        sum += v[i];
    }
    return sum / (double)n;
}

static const char *verdict(const struct bench_goal *g, double quartile)
{
    double sign = g->lower ? -1 : 1;

    if (g->summit > 0 && sign * quartile >= sign * g->summit) {
        return "met, summit";
    }
    if (g->strong > 0 && sign * quartile >= sign * g->strong) {
        return "met, strong";
    }
    return sign * quartile >= sign * g->floor ? "met" : "missed";
}

void bench_row(const struct bench_goal *g, double *ratios, size_t n)
{
    double low = bench_quantile(ratios, n, 0.25), mid = ratios[(n - 1) / 2];
    double high = bench_quantile(ratios, n, 0.75);

    (void)printf("%-5s %-60s %7.2f  [%5.2f - %5.2f] %s %g: %s (n=%zu%s)\n", g->rung, g->what, mid,
                 low, high, g->lower ? "at most" : "at least", g->floor,
                 verdict(g, g->lower ? high : low), n,
                 n < PAIRS_TO_COUNT ? ", too few to count" : "");
}

void bench_aside(const char *what, double *ratios, size_t n)
{
    double low = bench_quantile(ratios, n, 0.25), mid = ratios[(n - 1) / 2];

    (void)printf("%-5s %-60s %7.2f  [%5.2f - %5.2f] (n=%zu)\n", "", what, mid, low,
                 bench_quantile(ratios, n, 0.75), n);
}
