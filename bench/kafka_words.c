/*
 * Rung 13: a word count from topic to topic, exactly once, against the bare loop of
 * kafka_bare_words.c.
 *
 *   13a  lines per second, between the first commit and the last full one
 *   13b  processor time per further million lines, start and end not counted
 *   13c  1 M lines from the start of the process to the last committed total
 *   13d  kill -9, after the first commit, to the first new committed output
 *   13e  the largest resident set
 *
 * each with the source in data mode (the lines are in our log) and in positions mode (only where
 * they lie).
 *
 * Ours is examples/kafka_wordcount as a user would start it: log, checkpoints every second,
 * transactional sink, state in its own files. Both sides are processes of their own. The bare loop
 * commits once a second, which is what it is fastest with. Ours has batches of 100 ms: the source
 * waits while the buffer is full, and 64 MiB are less than a second of lines. Where that would be
 * an advantage, 13c and 13d, the bare loop is run with 100 ms as well, and the better time counts.
 * Lines are 10 words of some 58 bytes, 50,000 words, low ones far more often; 4 partitions in and
 * out. The bare loop is tried with poll and with a callback, and the faster is what levee is held
 * against. Its memory is its client's queue: with one of 300,000 records instead of a million the
 * queue fills during commits, the client pauses for a second each time, and it has a third of its
 * speed.
 *
 * What comes out is read by this process with read_committed: every total must be larger than the
 * one before it of the same word, and at the end all of them must be those of a plain count over
 * the same lines. A commit is seen when records have come and then none for a while; new output
 * after a kill is told by its time stamp, which is the time it was sent. Processor time of the
 * broker is shown beside; the reader costs both sides the same and is not counted.
 *
 * WORDS_ARGS="--workers 2" hands more arguments to our side.
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "bench/kafka_view.h"
#include "bench/words.h"

#define PARTITIONS 4
#define BARE_MS    "1000"
#define OUR_MS     "100"
#define ARGS_MAX   32

extern char **environ;

static const struct bare {
    const char *what, *how, *settings, *commit_ms; /* NULL: BARE_MS */
} bares[] = {
    {"poll, 1 M records queued", "poll",
     "queued.min.messages=1000000 queued.max.messages.kbytes=1048576", NULL},
    {"callback, 1 M records queued", "callback",
     "queued.min.messages=1000000 queued.max.messages.kbytes=1048576", NULL},
};

struct lines { /* a topic full of them */
    const char *topic;
    uint64_t count, checksum;
};

struct pass {
    double first, last; /* seconds from the start of the process to a committed total */
    double rate;        /* lines per second between commits */
    double cpu, broker, memory;
    double recovery; /* kill -9 to new output */
};

/* ---- the two sides ---- */

static pid_t spawn_bare(const struct bare *b, const struct lines *in, const char *output)
{
    char four[8], program[] = "bench_kafka", word[] = "bare-words";
    const char *const argv[] = {
        program, word,        rig_brokers, in->topic,
        four,    output,      four,        b->commit_ms ? b->commit_ms : BARE_MS,
        b->how,  b->settings, NULL};
    pid_t child;

    (void)snprintf(four, sizeof four, "%d", PARTITIONS);
    bench_must(
        posix_spawn(&child, rig_program, NULL, NULL, (char *const *)(uintptr_t)argv, environ) == 0,
        "spawn the bare loop");
    return child;
}

static pid_t spawn_data(const struct bare *unused, const struct lines *in, const char *output)
{
    (void)unused;
    return rig_wordcount(in->topic, output, OUR_MS, "data");
}

static pid_t spawn_positions(const struct bare *unused, const struct lines *in, const char *output)
{
    (void)unused;
    return rig_wordcount(in->topic, output, OUR_MS, "positions");
}

/* ---- a pass ---- */

static double rate_of(const struct view *v, unsigned per_line, double whole)
{
    if (v->commit_count < 2) { /* they cannot be told apart */
        return (double)v->tally.sum / per_line / whole;
    }
    const struct view_commit *first = &v->commits[0], *last = &v->commits[v->commit_count - 1];
    return (double)(last->words - first->words) / per_line / (last->at - first->at);
}

typedef pid_t (*spawn_fn)(const struct bare *b, const struct lines *in, const char *output);

static struct pass run_pass(spawn_fn spawn, const struct bare *b, const struct lines *in,
                            bool killed)
{
    const char *output = rig_topic("totals", PARTITIONS);
    struct view *v = view_open(output, PARTITIONS);
    uint64_t words = in->count * 10;
    struct pass p = {0};
    double broker = rig_broker_cpu(), from = bench_now();
    pid_t child = spawn(b, in, output);

    view_watch(v, 1, INT64_MAX);
    p.first = v->newest - from;
    if (killed) {
        int64_t since_ms = view_now_ms() + 1;
        double at = bench_now();
        view_kill(child);
        child = spawn(b, in, output);
        view_watch(v, words, since_ms);
        bench_must(v->sent_ms >= since_ms, "nothing was left to count after the kill");
        p.recovery = v->newest - at;
    }
    view_watch(v, words, INT64_MAX);
    p.last = v->newest - from;
    p.rate = rate_of(v, 10, p.last);
    p.cpu = rig_cpu_of(child);
    p.memory = rig_memory_of(child);
    p.broker = rig_broker_cpu() - broker;
    view_kill(child);
    bench_must(tally_checksum(&v->tally) == in->checksum, "the totals are not those of the lines");
    view_close(v);
    rig_topic_delete(output);
    bench_remove("state");
    return p;
}

/* ---- the rungs ---- */

static void make(void *arg, uint64_t i, struct rig_record *ret)
{
    const struct words *w = arg;
    struct levee_slice line = w->lines[i % w->count].value;

    *ret = (struct rig_record){(uint8_t *)(uintptr_t)line.data, line.len};
}

static struct lines fill(struct words *w, unsigned repeat)
{
    struct lines in = {.topic = rig_topic("lines", PARTITIONS), .count = w->count * repeat};

    (void)words_count_bare(w, repeat, &in.checksum);
    rig_fill(in.topic, PARTITIONS, in.count, make, w);
    return in;
}

static const struct bare *fastest(const struct lines *in)
{
    const struct bare *best = NULL;
    double most = 0;

    for (size_t i = 0; i < ARRAY_LEN(bares); i++) {
        struct pass p = run_pass(spawn_bare, &bares[i], in, false);
        double rate = (double)in->count / p.last;
        (void)printf("      bare loop, %-34s %.2f M lines/s between commits, %.0f MiB\n",
                     bares[i].what, p.rate / 1e6, p.memory);
        if (rate > most) {
            most = rate;
            best = &bares[i];
        }
    }
    return best;
}

enum measure { RATE, CPU, WHOLE, RECOVERY, MEMORY, MEASURES };
enum shown {
    BARE_RATE,
    OUR_RATE,
    BARE_RECOVERY,
    OUR_RECOVERY,
    BARE_MEMORY,
    OUR_MEMORY,
    BARE_CPU,
    OUR_CPU,
    BARE_BROKER,
    OUR_BROKER,
    BARE_WHOLE,
    OUR_WHOLE,
    SHOWN
};

struct results {
    double ratio[MEASURES][BENCH_PAIRS], shown[SHOWN][BENCH_PAIRS];
    size_t n;
};

static double least(double a, double b)
{
    return a < b ? a : b;
}

enum kind { FEW, MANY, KILLED, KINDS }; /* of passes */

static void take_results(struct results *r, const struct pass bare[KINDS],
                         const struct pass ours[KINDS], double further)
{
    const struct pass *p[2] = {bare, ours};
    double cpu[2];

    for (int side = 0; side < 2; side++) {
        cpu[side] = (p[side][MANY].cpu - p[side][FEW].cpu) / further;
        r->shown[BARE_RATE + side][r->n] = p[side][MANY].rate / 1e6;
        r->shown[BARE_RECOVERY + side][r->n] = 1e3 * p[side][KILLED].recovery;
        r->shown[BARE_MEMORY + side][r->n] = p[side][MANY].memory;
        r->shown[BARE_CPU + side][r->n] = cpu[side];
        r->shown[BARE_BROKER + side][r->n] = (p[side][MANY].broker - p[side][FEW].broker) / further;
        r->shown[BARE_WHOLE + side][r->n] = p[side][FEW].last;
    }
    r->ratio[RATE][r->n] = ours[MANY].rate / bare[MANY].rate;
    r->ratio[CPU][r->n] = cpu[1] / cpu[0];
    r->ratio[WHOLE][r->n] = ours[FEW].last / bare[FEW].last;
    r->ratio[RECOVERY][r->n] = ours[KILLED].recovery / bare[KILLED].recovery;
    r->ratio[MEMORY][r->n] = ours[MANY].memory / bare[MANY].memory;
    r->n++;
}

/* One pass of each kind for the bare loop and for both modes of ours, in turn. */
static void pair(struct results r[2], const struct bare *b, const struct lines *few,
                 const struct lines *many)
{
    struct pass bare[KINDS], data[KINDS], positions[KINDS];
    double further = (double)(many->count - few->count) / 1e6;
    struct bare often = *b;

    for (int k = 0; k < KINDS; k++) {
        const struct lines *in = k == FEW ? few : many;
        bare[k] = run_pass(spawn_bare, b, in, k == KILLED);
        data[k] = run_pass(spawn_data, NULL, in, k == KILLED);
        positions[k] = run_pass(spawn_positions, NULL, in, k == KILLED);
    }
    often.commit_ms = OUR_MS;
    bare[FEW].last = least(bare[FEW].last, run_pass(spawn_bare, &often, few, false).last);
    bare[KILLED].recovery =
        least(bare[KILLED].recovery, run_pass(spawn_bare, &often, many, true).recovery);
    take_results(&r[0], bare, data, further);
    take_results(&r[1], bare, positions, further);
}

static const struct bench_goal in_data[MEASURES] = {
    {"13a", "word count topic to topic, lines/s / bare loop", 0.95, 1.2, 1.6, false},
    {"13b", "processor time per further million lines / bare loop", 1.3, 1.1, 0.9, true},
    {"13c", "1 M lines from start to last committed total / bare loop", 1.3, 1.1, 0.7, true},
    {"13d", "kill -9 to new committed output / bare loop", 0.5, 0.1, 0.05, true},
    {"13e", "largest resident set / bare loop", 0.6, 0.4, 0.25, true}};
static const struct bench_goal in_positions[MEASURES] = {
    {"13a", "word count topic to topic, lines/s, positions / bare", 0.95, 1.2, 1.6, false},
    {"13b", "processor time per further million lines, positions / bare", 1.3, 1.1, 0.9, true},
    {"13c", "1 M lines from start to last committed total, positions / bare", 1.3, 1.1, 0.7, true},
    {"13d", "kill -9 to new committed output, positions / bare", 0.5, 0.1, 0.05, true},
    {"13e", "largest resident set, positions / bare", 0.6, 0.4, 0.25, true}};

static void print(struct results *r, const struct bench_goal goals[MEASURES])
{
    double m[SHOWN];

    for (int i = 0; i < MEASURES; i++) {
        bench_row(&goals[i], r->ratio[i], r->n);
    }
    for (int i = 0; i < SHOWN; i++) {
        m[i] = bench_median(r->shown[i], r->n);
    }
    (void)printf("      %.2f M lines/s (bare %.2f); CPU-s per further M %.2f + broker %.2f (bare "
                 "%.2f + %.2f); start to last total %.2f s (bare %.2f)\n"
                 "      kill to new output %.0f ms (bare %.0f); %.0f MiB (bare %.0f)\n",
                 m[OUR_RATE], m[BARE_RATE], m[OUR_CPU], m[OUR_BROKER], m[BARE_CPU], m[BARE_BROKER],
                 m[OUR_WHOLE], m[BARE_WHOLE], m[OUR_RECOVERY], m[BARE_RECOVERY], m[OUR_MEMORY],
                 m[BARE_MEMORY]);
}

void kafka_words(void)
{
    static struct results r[2]; /* data mode, positions mode */
    struct words w = {.per_line = 10, .vocabulary = 50000, .order = WORDS_ZIPF};

    if (!bench_wanted("13")) {
        return;
    }
    w.count = bench_quick ? 20000 : 200000;
    words_make(&w);
    struct lines few = fill(&w, 5), many = fill(&w, bench_quick ? 120 : 25);
    const struct bare *b = fastest(&many);
    for (double deadline = rig_deadline(60); bench_more(r[0].n, BENCH_PAIRS, deadline);) {
        pair(r, b, &few, &many);
    }
    (void)printf("      bare loop: %s; %.1f M and %.1f M lines; a commit every " BARE_MS
                 " ms, ours " OUR_MS " ms; totals exact in every pass\n",
                 b->what, (double)few.count / 1e6, (double)many.count / 1e6);
    print(&r[0], in_data);
    print(&r[1], in_positions);
    rig_topic_delete(few.topic);
    rig_topic_delete(many.topic);
    words_release(&w);
}
