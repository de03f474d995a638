/*
 * Rung 10d: from kill -9 to the first new committed output / replaying the same tail in process.
 *
 * Each pair is a real death. A process holds 1 M keys in its state, all of them in a checkpoint,
 * and has committed a tail of 64 MB of lines (one key each) that no checkpoint holds. It is killed
 * with SIGKILL; the clock starts before the kill. The parent reaps it and starts the program again
 * with exec. That life opens the directory, restores, replays, receives a hundred new lines, and
 * the clock stops when its sink, a directory of files, has committed the batch with the first of
 * them. It lives on, and dies next. Batch interval 10 ms; everything else at its default, but for
 * checkpoints: there are none, so that every life finds the same state and the same tail.
 *
 * The other side of the ratio is measured in the same life: from the start of the first replayed
 * batch to the end of the last, with the state and the tail in memory. Reading, verifying and
 * rewriting the log, restoring the state, exec and the next tick are thus all on our side; the rows
 * under the rung say what each takes. State and tail are printed, for without them the figure says
 * nothing. The last life drains, and its state must hold exactly as many words as were handed over
 * since the beginning, over all deaths.
 */
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "bench/words.h"

#define NEW_LINES 100u
#define KEYS      (bench_quick ? 50000u : 1000000u)

extern char **environ;

/* What a life tells its parent, over a pipe, in one piece. Times are of the monotonic clock. */
struct report {
    double entered, opened, started, replay_from, replay_to, new_output;
    uint64_t batches, words, checksum, keys, state_bytes;
};

struct life {
    struct words_feed feed;
    struct report report;
    uint64_t records, want; /* input records of completed batches; how many are waited for */
    int pipe;
    bool waits; /* reports when all is committed, and then waits for its end */
    levee_context *ctx;
};

static void tell(const struct life *l)
{
    bench_must(write(l->pipe, &l->report, sizeof l->report) > 0, "tell the parent");
}

static void batch_started(void *arg, const struct levee_batch_info *info)
{
    struct life *l = arg;

    if (info->replayed && l->report.batches == 0) {
        l->report.replay_from = bench_now();
    }
    l->report.batches += info->replayed;
}

static void batch_completed(void *arg, const struct levee_batch_info *info)
{
    struct life *l = arg;
    double now = bench_now();

    l->records += info->records;
    if (info->replayed) {
        l->report.replay_to = now;
    } else if (info->records && !(l->report.new_output > 0)) {
        l->report.new_output = now;
    }
    if (l->records == l->want) {
        if (l->waits) { /* the tail is committed: now it may die */
            tell(l);
        } else {
            (void)levee_drain(l->ctx, 0, NULL);
        }
    }
}

/* Runs a context until `total` lines were handed over in all lives, `records` of them replayed or
 * received in this one. Drains, unless it waits: then it does not return. */
static void live(struct life *l, const struct words *w, uint64_t total, uint64_t records)
{
    static const struct levee_listener listener = {
        .version = 1, .batch_started = batch_started, .batch_completed = batch_completed};
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .workers = 1,
                              .checkpoint_ms = UINT32_MAX, /* only at the end of a drain */
                              .listener = &listener,
                              .listener_arg = l};
    struct levee_error err = {0};
    struct levee_metrics m;

    l->report.entered = bench_now();
    l->want = records;
    l->feed.words = w;
    l->feed.rests = true;
    atomic_store(&l->feed.total, total);
    bench_check(levee_get_or_create(&l->ctx, &o, words_build, &l->feed, &err), &err, "create");
    l->report.opened = bench_now();
    bench_check(levee_start(l->ctx, &err), &err, "start");
    l->report.started = bench_now();
    if (records == 0) {
        tell(l);
    }
    bench_check(levee_await(l->ctx, &err), &err, "await");
    levee_context_metrics(l->ctx, &m);
    l->report.keys = m.state_keys;
    l->report.state_bytes = m.state_bytes;
    l->report.checksum = words_checksum(l->ctx, &l->report.words);
    levee_free(l->ctx);
}

/* ---- processes ---- */

/* A life in a child that has inherited the lines. */
static pid_t fork_life(const struct words *w, uint64_t total, uint64_t records, bool waits,
                       int *ret_pipe)
{
    int fds[2];

    bench_must(pipe(fds) == 0, "pipe");
    (void)fflush(stdout);
    pid_t child = fork();
    bench_must(child >= 0, "fork");
    if (child == 0) {
        struct life l = {.pipe = fds[1], .waits = waits};
        (void)close(fds[0]);
        live(&l, w, total, records);
        tell(&l);
        _exit(0);
    }
    (void)close(fds[1]);
    *ret_pipe = fds[0];
    return child;
}

/* This program again: bench_restart life TOTAL RECORDS WAITS PIPE */
static pid_t exec_life(uint64_t total, uint64_t records, bool waits, int *ret_pipe)
{
    char numbers[4][24], name[] = "bench_restart", word[] = "life";
    char *argv[] = {name, word, numbers[0], numbers[1], numbers[2], numbers[3], NULL};
    int fds[2];
    pid_t child;

    bench_must(pipe(fds) == 0, "pipe");
    (void)snprintf(numbers[0], sizeof numbers[0], "%llu", (unsigned long long)total);
    (void)snprintf(numbers[1], sizeof numbers[1], "%llu", (unsigned long long)records);
    (void)snprintf(numbers[2], sizeof numbers[2], "%d", waits);
    (void)snprintf(numbers[3], sizeof numbers[3], "%d", fds[1]);
    bench_must(posix_spawn(&child, "/proc/self/exe", NULL, NULL, argv, environ) == 0, "spawn");
    (void)close(fds[1]);
    *ret_pipe = fds[0];
    return child;
}

static int life_main(char **argv)
{
    struct words w = {.count = NEW_LINES, .per_line = 1, .vocabulary = 1000, .order = WORDS_EVEN};
    struct life l = {.waits = argv[4][0] == '1', .pipe = (int)strtol(argv[5], NULL, 10)};

    words_make(&w);
    live(&l, &w, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    tell(&l);
    words_release(&w);
    return 0;
}

static struct report report_of(int pipe)
{
    struct report r = {0};
    size_t got = 0;

    while (got < sizeof r) {
        ssize_t n = read(pipe, (char *)&r + got, sizeof r - got);
        bench_must(n > 0, "a life has told nothing");
        got += (size_t)n;
    }
    (void)close(pipe);
    return r;
}

static void reap(pid_t child, bool killed)
{
    int status = 0;

    bench_must(waitpid(child, &status, 0) == child, "waitpid");
    bench_must(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0,
               "the end of a life");
}

/* ---- the rung ---- */

enum part { REAPED, EXECED, OPENED, STARTED, REPLAYED, NEW_OUTPUT, PARTS };

struct deaths { /* seconds, by pair */
    double ratio[BENCH_PAIRS], whole[BENCH_PAIRS], parts[PARTS][BENCH_PAIRS];
    double replay[BENCH_PAIRS];
    size_t n;
    double restore[5]; /* starts before there was a tail */
};

static void print_deaths(struct deaths *d, const struct report *last, uint64_t tail_bytes,
                         uint64_t batches)
{
    static const struct bench_goal goal = {
        "10d", "kill -9 to new committed output / replay of the same tail", 3, 1.5, 1.2, true};
    double ms[PARTS], restore = bench_median(d->restore, ARRAY_LEN(d->restore));

    for (int i = 0; i < PARTS; i++) {
        ms[i] = 1e3 * bench_median(d->parts[i], d->n);
    }
    bench_row(&goal, d->ratio, d->n);
    (void)printf(
        "      %llu keys, %.0f MB of state in memory; tail of %.0f MB, %llu batches; replay "
        "alone %.0f ms\n",
        (unsigned long long)last->keys, (double)last->state_bytes / 1e6, (double)tail_bytes / 1e6,
        (unsigned long long)batches, 1e3 * bench_median(d->replay, d->n));
    (void)printf(
        "      %.0f ms in all: kill and reap %.0f, exec %.0f, open and scan %.0f, restore, "
        "read and apply %.0f,\n      replay %.0f, to the new output %.0f; without a tail "
        "restore and apply take %.0f: %.1f M keys/s\n",
        1e3 * bench_median(d->whole, d->n), ms[REAPED], ms[EXECED], ms[OPENED], ms[STARTED],
        ms[REPLAYED], ms[NEW_OUTPUT], 1e3 * restore, (double)last->keys / restore / 1e6);
    (void)printf("      checksum %016llx of %llu words, each counted once over %zu deaths\n",
                 (unsigned long long)last->checksum, (unsigned long long)last->words,
                 d->n + ARRAY_LEN(d->restore) + 1);
}

/* The state, all of it in a checkpoint; and how long a start with it takes. */
static uint64_t fill(struct deaths *d)
{
    struct words all = {.per_line = 1, .order = WORDS_IN_TURN};
    int pipe;

    all.count = all.vocabulary = KEYS;
    words_make(&all);
    pid_t child = fork_life(&all, all.count, all.count, false, &pipe);
    (void)report_of(pipe);
    reap(child, false);
    words_release(&all);
    for (size_t i = 0; i < ARRAY_LEN(d->restore); i++) {
        child = exec_life(all.count, 0, true, &pipe);
        struct report r = report_of(pipe);
        d->restore[i] = r.started - r.opened;
        (void)kill(child, SIGKILL);
        reap(child, true);
    }
    return all.count;
}

/* The process behind child dies; the one that comes after it takes its place. */
static struct report one_death(struct deaths *d, pid_t *child, uint64_t total, uint64_t records)
{
    int pipe;
    double killed = bench_now();

    (void)kill(*child, SIGKILL);
    reap(*child, true);
    double reaped = bench_now();
    *child = exec_life(total, records, true, &pipe);
    struct report r = report_of(pipe);
    bench_must(r.batches > 0, "the tail was replayed");
    d->parts[REAPED][d->n] = reaped - killed;
    d->parts[EXECED][d->n] = r.entered - reaped;
    d->parts[OPENED][d->n] = r.opened - r.entered;
    d->parts[STARTED][d->n] = r.started - r.opened;
    d->parts[REPLAYED][d->n] = r.replay_to - r.started;
    d->parts[NEW_OUTPUT][d->n] = r.new_output - r.replay_to;
    d->whole[d->n] = r.new_output - killed;
    d->replay[d->n] = r.replay_to - r.replay_from;
    d->ratio[d->n] = d->whole[d->n] / d->replay[d->n];
    return r;
}

static void rung_10d(void)
{
    struct words tail = {.per_line = 1, .vocabulary = KEYS, .order = WORDS_EVEN};
    struct deaths *d = bench_alloc(sizeof *d);
    struct report r = {0};
    double deadline = bench_now() + 45;
    int pipe;
    uint64_t total = fill(d);

    tail.count = bench_quick ? 30000 : 640000;
    words_make(&tail);
    uint64_t records = tail.count;
    total += tail.count;
    pid_t child = fork_life(&tail, total, records, true, &pipe);
    (void)report_of(pipe);
    for (; bench_more(d->n, BENCH_PAIRS, deadline); d->n++) {
        total += NEW_LINES;
        records += NEW_LINES;
        r = one_death(d, &child, total, records);
    }
    uint64_t batches = r.batches;
    (void)kill(child, SIGKILL);
    reap(child, true);
    child = exec_life(total + NEW_LINES, records + NEW_LINES, false, &pipe);
    r = report_of(pipe);
    reap(child, false);
    bench_must(r.words == total + NEW_LINES, "every word once, over all lives");
    print_deaths(d, &r, tail.len, batches);
    words_release(&tail);
    free(d);
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "life") == 0) {
        return life_main(argv);
    }
    bench_init("bench_restart");
    if (bench_wanted("10d")) {
        bench_must(chdir(bench_scratch()) == 0, "scratch directory");
        rung_10d();
    }
    return 0;
}
