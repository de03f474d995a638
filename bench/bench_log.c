/*
 * The log alone, against a bare loop that writes the same bytes over a file that was written before
 * and calls fdatasync after each block: what promises cost, on the disk there is.
 *
 *   1a  128 KiB blocks, each synced alone, bytes/s / bare loop, 128 KiB. The log is always handed
 *       the next blocks, so only framing, hashing, padding and rolling differ from the bare loop.
 *   1b  the same with group commit / the same bare loop.
 *   2   acknowledged blocks of 4 KiB per second / bare loops of 4 KiB per second.
 *   3   block complete to durable, median and 99th percentile, blocks arriving at a fixed pace
 *       whatever the log does (4 KiB at 20 MB/s, 128 KiB at 300 MB/s) / the same percentile of the
 *       bare loop, which never waits to be woken. The clock starts when the block is handed over;
 *       how late the generator itself was is shown.
 *
 * Sustained: every pass of 1 and 2 fills several default segments, so the segments that the helper
 * makes (of trimmed ones, or full of zeros) and removes are paid for inside the pass. What they
 * cost shows in the rows beside the rungs: passes inside one large segment, while the helper rests.
 * The bare loop, too, waits until the helper is idle.
 *
 * Before the end the log is read back: every block acknowledged must be there, in order, with the
 * stamp it was given. A child that is killed with SIGKILL while it appends must have left every
 * block it was told of (process death; the page cache survives, so this says nothing of power).
 */
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "wal/wal.h"

#define BIG        ((size_t)128 << 10)
#define SMALL      ((size_t)4 << 10)
#define BARE_BYTES ((size_t)64 << 20) /* the bare loop's file, one segment */
#define RING_BYTES ((size_t)32 << 20) /* blocks handed over and not yet durable … */
#define CHUNKS     2u                 /* … in halves: the log always has one of them waiting */

/* Large enough that the passes of a row beside a rung all fit into it. */
#define RESTING_SEGMENT ((uint64_t)512 << 20)

static struct io *io;
static uint64_t acknowledged, read_back, checksum;

/* ---- the bare loop ---- */

static struct {
    int fd;
    size_t offset;
    const uint8_t *bytes; /* RING_BYTES */
} bare;

static void bare_open(void)
{
    char path[1024];
    uint8_t *bytes = bench_alloc(RING_BYTES);
    uint64_t rng = 11;

    for (size_t i = 0; i < RING_BYTES; i += 8) {
        put_le64(bytes + i, rng_next(&rng));
    }
    bare.bytes = bytes;
    (void)snprintf(path, sizeof path, "%s/bare", bench_scratch());
    bare.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bench_must(bare.fd >= 0, path);
    for (size_t at = 0; at < BARE_BYTES; at += RING_BYTES) {
        bench_must(pwrite(bare.fd, bytes, RING_BYTES, (off_t)at) == (ssize_t)RING_BYTES, path);
    }
    bench_must(fsync(bare.fd) == 0, path);
}

/* Writes and syncs n blocks; the latencies, if asked for, are of the pair. */
static struct bench_time bare_pass(size_t block, size_t n, double *latency)
{
    struct bench_time start = bench_start();

    bare.offset = align_up(bare.offset, block) % BARE_BYTES; /* the last pass had smaller blocks */
    for (size_t i = 0; i < n; i++) {
        double from = latency ? bench_now() : 0;
        const uint8_t *p = bare.bytes + bare.offset % RING_BYTES;
        bench_must(pwrite(bare.fd, p, block, (off_t)bare.offset) == (ssize_t)block, "bare write");
        bench_must(fdatasync(bare.fd) == 0, "bare sync");
        bare.offset = (bare.offset + block) % BARE_BYTES;
        if (latency) {
            latency[i] = bench_now() - from;
        }
    }
    return bench_since(start);
}

/* ---- a log, and blocks on their way into it ---- */

struct feed {
    struct wal *wal;
    char dir[1024];
    struct uuid context;
    uint64_t segment_bytes;
    uint32_t spares;
    size_t block, count; /* the ring: frames, each with a block of its own */
    struct wal_frame *frames;
    uint8_t *payload;
    uint64_t stamp; /* of the newest block */
    _Atomic uint64_t done;
    uint64_t signal_every;
    sem_t signal;
    double *handed, *latency; /* rung 3: by block of the pass */
    uint64_t first_of_pass;
};

static void log_failed(void *arg, const struct levee_error *err)
{
    (void)arg;
    bench_die("the log failed", err);
}

static void block_durable(struct wal_frame *frame, int code)
{
    struct feed *f = frame->owner;

    bench_must(code == LEVEE_OK, "a block is not durable");
    acknowledged++;
    if (f->latency) {
        uint64_t i = frame->seq - f->first_of_pass;
        f->latency[i] = bench_now() - f->handed[i];
    }
    if ((atomic_fetch_add(&f->done, 1) + 1) % f->signal_every == 0) {
        (void)sem_post(&f->signal);
    }
}

/* group_max 1: every frame is a group of its own. */
static struct feed *feed_open(const char *name, size_t block, uint64_t group_max,
                              uint64_t segment_bytes, uint32_t spares)
{
    struct feed *f = bench_alloc(sizeof *f);
    struct levee_error err = {0};
    struct wal_options o = {.dir = f->dir,
                            .group_bytes_max = group_max,
                            .segment_bytes = segment_bytes,
                            .spares = spares,
                            .failed = log_failed};

    (void)snprintf(f->dir, sizeof f->dir, "%s/%s", bench_scratch(), name);
    bench_check(io->ops->mkdir(io, f->dir, &err), &err, f->dir);
    f->segment_bytes = segment_bytes;
    f->spares = spares;
    f->block = block;
    f->count = RING_BYTES / block;
    f->frames = bench_alloc(f->count * sizeof *f->frames);
    f->payload = bench_alloc(RING_BYTES);
    memcpy(f->payload, bare.bytes, RING_BYTES);
    f->signal_every = f->count / CHUNKS;
    bench_must(sem_init(&f->signal, 0, 0) == 0, "semaphore");
    o.context.b[0] = f->context.b[0] = 7;
    bench_check(wal_open(io, &o, NULL, &f->wal, &err), &err, "open the log");
    return f;
}

/* Until the helper has made all segments it wants: nothing of ours disturbs what runs next. The
 * first segment, which is smaller, has been left behind by then. */
static void feed_settle(const struct feed *f)
{
    struct wal_stats s;

    do {
        bench_sleep_until(bench_now() + 0.001);
        wal_stats(f->wal, &s);
    } while (wal_bytes(f->wal) < (s.segments - 1 + f->spares) * f->segment_bytes + WAL_SEGMENT_MIN);
}

static void feed_blocks(struct feed *f, size_t n)
{
    struct levee_error err = {0};
    struct wal_frame *first = NULL, *last = NULL;

    for (size_t i = 0; i < n; i++) {
        struct wal_frame *frame = &f->frames[f->stamp % f->count];
        uint8_t *payload = f->payload + f->stamp % f->count * f->block;
        put_le64(payload, ++f->stamp);
        *frame = (struct wal_frame){.type = WAL_BLOCK,
                                    .seq = f->stamp,
                                    .payload = {slice_of(payload, f->block), slice_of(NULL, 0)},
                                    .done = block_durable,
                                    .owner = f};
        if (last) {
            last->link.next = &frame->link;
        } else {
            first = frame;
        }
        last = frame;
    }
    bench_check(wal_append(f->wal, first, &err), &err, "append");
    wal_trim(f->wal, wal_durable_lsn(f->wal));
}

/* All of `bytes` through the ring, from the first hand-over to the last acknowledgement. */
static struct bench_time feed_pass(struct feed *f, size_t bytes)
{
    size_t chunk = f->signal_every, chunks = bytes / f->block / chunk;
    struct bench_time start = bench_start();

    for (size_t i = 0; i < chunks; i++) {
        if (i >= CHUNKS) {
            (void)sem_wait(&f->signal);
        }
        feed_blocks(f, chunk);
    }
    for (size_t i = 0; i < (chunks < CHUNKS ? chunks : CHUNKS); i++) {
        (void)sem_wait(&f->signal);
    }
    return bench_since(start);
}

/* Blocks at a fixed pace, each handed over alone. Returns how late the generator was, p99. */
static double feed_paced(struct feed *f, size_t n, double bytes_per_second, double *latency,
                         double *late)
{
    double due = bench_now(), step = (double)f->block / bytes_per_second;
    double *handed = bench_alloc(n * sizeof *handed);

    f->handed = handed;
    f->latency = latency;
    f->first_of_pass = f->stamp + 1;
    atomic_store(&f->done, 0);
    f->signal_every = n;
    for (size_t i = 0; i < n; i++) {
        due += step;
        bench_sleep_until(due);
        handed[i] = bench_now();
        late[i] = handed[i] - due;
        feed_blocks(f, 1);
    }
    (void)sem_wait(&f->signal);
    f->latency = f->handed = NULL;
    free(handed);
    return bench_quantile(late, n, 0.99);
}

/* Closes the log, reads it back as recovery would, and looks for every block still kept. */
static void feed_close(struct feed *f)
{
    struct wal_facts facts = {0};
    struct levee_error err = {0};
    struct buf payload = {0};
    uint64_t last = wal_durable_lsn(f->wal);

    bench_must(last == f->stamp, "durable and handed over differ");
    wal_close(f->wal);
    bench_check(wal_scan(io, f->dir, &f->context, 0, &facts, &err), &err, "scan");
    bench_must(facts.bad.kind == WAL_BAD_NONE && facts.next_lsn == last + 1, "the log is whole");
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        bench_must(e->seq == e->lsn && e->len == f->block, "a block is in its place");
        if (i % 64 == 0) {
            bench_check(wal_read_entry(io, f->dir, &facts, e, &payload, &err), &err, "read");
            bench_must(get_le64(payload.data) == e->seq, "a block has its stamp");
        }
        checksum = hash64(&e->seq, sizeof e->seq, checksum);
    }
    read_back += facts.entry_count;
    buf_release(&payload);
    wal_facts_release(&facts);
    bench_remove(f->dir);
    (void)sem_destroy(&f->signal);
    free(f->frames);
    free(f->payload);
    free(f);
}

/* ---- 1a, 1b, 2 ---- */

struct throughput {
    struct bench_goal goal;
    size_t block;
    uint64_t group_max;
    size_t bare_blocks, bytes; /* of a pass */
    double seconds;
};

static void print_throughput(const struct throughput *t, const struct feed *f,
                             const struct wal_stats *from, uint64_t disk, double longest,
                             struct bench_time bare_sum, struct bench_time ours_sum, size_t n)
{
    struct wal_stats s;

    wal_stats(f->wal, &s);
    double blocks = (double)(s.frames - from->frames);
    double payload = (double)(s.payload_bytes - from->payload_bytes);
    double bare_gb = (double)t->bare_blocks * (double)t->block * (double)n / 1e9;
    double ours_gb = payload / 1e9;
    (void)printf("      %.0f MB/s, %.0f blocks/s (bare %.0f MB/s); CPU-s per GB %.2f (bare %.2f); "
                 "%.3f syncs per block,\n      log bytes / payload %.3f, disk bytes / payload "
                 "%.3f with what making segments writes; longest pass %.0f ms\n",
                 ours_gb * 1e3 / ours_sum.wall, ours_gb * 1e9 / (double)t->block / ours_sum.wall,
                 bare_gb * 1e3 / bare_sum.wall, ours_sum.cpu / ours_gb, bare_sum.cpu / bare_gb,
                 (double)(s.syncs - from->syncs) / blocks,
                 (double)(s.written_bytes - from->written_bytes) / payload, (double)disk / payload,
                 longest * 1e3);
}

static void run_throughput(const struct throughput *t)
{
    struct feed *f = feed_open("log", t->block, t->group_max, WAL_SEGMENT_DEFAULT, 2);
    struct bench_time bare_sum = {0, 0}, ours_sum = {0, 0};
    double ratios[BENCH_PAIRS], longest = 0, deadline = bench_now() + t->seconds;
    size_t bytes = bench_quick ? RING_BYTES : t->bytes, n = 0;
    struct wal_stats from;

    (void)feed_pass(f, (size_t)128 << 20); /* the first segment is not of full size, pages cold */
    feed_settle(f);
    wal_stats(f->wal, &from);
    uint64_t disk = counter_get(&io->counts.write_bytes);
    for (; bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct bench_time b = bare_pass(t->block, t->bare_blocks, NULL);
        struct bench_time o = feed_pass(f, bytes);
        feed_settle(f);
        double bare_rate = (double)(t->bare_blocks * t->block) / b.wall;
        ratios[n] = (double)bytes / o.wall / bare_rate;
        bare_sum = (struct bench_time){bare_sum.wall + b.wall, bare_sum.cpu + b.cpu};
        ours_sum = (struct bench_time){ours_sum.wall + o.wall, ours_sum.cpu + o.cpu};
        longest = o.wall > longest ? o.wall : longest;
    }
    disk = counter_get(&io->counts.write_bytes) - disk;
    bench_row(&t->goal, ratios, n);
    print_throughput(t, f, &from, disk, longest, bare_sum, ours_sum, n);
    feed_close(f);
}

/* The same inside one segment: none is made and none goes meanwhile. */
static void run_resting(const struct throughput *t)
{
    struct feed *f = feed_open("resting", t->block, t->group_max, RESTING_SEGMENT, 1);
    size_t bytes = RING_BYTES * 3 / 2, blocks = t->bare_blocks / 2, n = 0;
    double ratios[9];

    (void)feed_pass(f, RING_BYTES / 2); /* out of the first segment */
    for (; n < (bench_quick ? 1 : ARRAY_LEN(ratios)); n++) {
        feed_settle(f);
        double b = bare_pass(t->block, blocks, NULL).wall;
        double o = feed_pass(f, bytes).wall;
        ratios[n] = (double)bytes / o * b / (double)(blocks * t->block);
    }
    bench_aside("  inside one segment, none made meanwhile", ratios, n);
    feed_close(f);
}

/* ---- 3 ---- */

struct latencies { /* of pairs: [bare, ours][p50, p99] */
    double seconds[2][2][BENCH_PAIRS], late[BENCH_PAIRS];
    double p50[BENCH_PAIRS], p99[BENCH_PAIRS]; /* the ratios */
    size_t n;
};

static void pace_pairs(struct feed *f, double pace, size_t blocks, size_t pairs, double seconds,
                       struct latencies *ret)
{
    double *latency = bench_alloc(blocks * sizeof *latency);
    double *late = bench_alloc(blocks * sizeof *late), deadline = bench_now() + seconds;
    size_t n = 0;

    for (; bench_more(n, pairs, deadline); n++) {
        feed_settle(f);
        (void)bare_pass(f->block, blocks, latency);
        ret->seconds[0][0][n] = bench_quantile(latency, blocks, 0.5);
        ret->seconds[0][1][n] = bench_quantile(latency, blocks, 0.99);
        ret->late[n] = feed_paced(f, blocks, pace, latency, late);
        ret->seconds[1][0][n] = bench_quantile(latency, blocks, 0.5);
        ret->seconds[1][1][n] = bench_quantile(latency, blocks, 0.99);
        ret->p50[n] = ret->seconds[1][0][n] / ret->seconds[0][0][n];
        ret->p99[n] = ret->seconds[1][1][n] / ret->seconds[0][1][n];
    }
    ret->n = n;
    free(latency);
    free(late);
}

static void rung_3(const char *const what[2], size_t block, double pace, size_t blocks,
                   double seconds)
{
    struct bench_goal goals[2] = {{"3", what[0], 2.5, 2, 1.5, true},
                                  {"3", what[1], 3, 2.5, 2, true}};
    struct latencies l;
    struct feed *f = feed_open("log", block, 0, WAL_SEGMENT_DEFAULT, 2);

    (void)feed_pass(f, (size_t)128 << 20);
    pace_pairs(f, pace, blocks, BENCH_PAIRS, seconds, &l);
    bench_row(&goals[0], l.p50, l.n);
    bench_row(&goals[1], l.p99, l.n);
    (void)printf("      median %.0f us, p99 %.0f us (bare %.0f and %.0f); the generator's own p99 "
                 "lateness, not counted, %.0f us\n",
                 1e6 * bench_median(l.seconds[1][0], l.n), 1e6 * bench_median(l.seconds[1][1], l.n),
                 1e6 * bench_median(l.seconds[0][0], l.n), 1e6 * bench_median(l.seconds[0][1], l.n),
                 1e6 * bench_median(l.late, l.n));
    feed_close(f);

    f = feed_open("resting", block, 0, RESTING_SEGMENT, 1);
    (void)feed_pass(f, RING_BYTES / 2);
    pace_pairs(f, pace, blocks, 5, seconds, &l);
    bench_aside("  p99 inside one segment, none made meanwhile", l.p99, l.n);
    feed_close(f);
}

/* ---- kill -9 ---- */

static int acknowledged_pipe;

static void tell_parent(struct wal_frame *frame, int code)
{
    if (code != LEVEE_OK ||
        write(acknowledged_pipe, &frame->lsn, sizeof frame->lsn) != (ssize_t)sizeof frame->lsn) {
        _exit(1);
    }
    free(frame);
}

/* The child: 4 KiB blocks as fast as they go, each acknowledged through the pipe. */
static _Noreturn void append_until_killed(const char *dir, const struct uuid *context)
{
    struct wal_options o = {.dir = dir, .context = *context};
    struct levee_error err = {0};
    struct wal *w;
    struct io *own;

    if (io_posix_new(&own, &err) || own->ops->mkdir(own, dir, &err) ||
        wal_open(own, &o, NULL, &w, &err)) {
        _exit(1);
    }
    for (uint64_t i = 0;; i++) {
        struct wal_frame *frame = bench_alloc(sizeof *frame);
        frame->type = WAL_BLOCK;
        frame->seq = i + 1;
        frame->payload[0] = slice_of(bare.bytes + i * SMALL % RING_BYTES, SMALL);
        frame->done = tell_parent;
        while (wal_next_lsn(w) > wal_durable_lsn(w) + 256) {
            bench_sleep_until(bench_now() + 0.0001);
        }
        if (wal_append(w, frame, &err) != LEVEE_OK) {
            _exit(1);
        }
    }
}

static void check_kill(void)
{
    char dir[1024];
    struct uuid context = {{9}};
    struct wal_facts facts = {0};
    struct levee_error err = {0};
    uint64_t lsn = 0, last = 0, told = bench_quick ? 100 : 20000;
    int fds[2], status = 0;

    (void)snprintf(dir, sizeof dir, "%s/killed", bench_scratch());
    bench_must(pipe(fds) == 0, "pipe");
    (void)fflush(stdout);
    pid_t child = fork();
    bench_must(child >= 0, "fork");
    if (child == 0) {
        acknowledged_pipe = fds[1];
        append_until_killed(dir, &context);
    }
    (void)close(fds[1]);
    while (read(fds[0], &lsn, sizeof lsn) == (ssize_t)sizeof lsn) {
        last = lsn;
        if (lsn == told) {
            (void)kill(child, SIGKILL); /* what it still tells stays in the pipe and is read */
        }
    }
    (void)close(fds[0]);
    bench_must(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "the child was killed");
    bench_check(wal_scan(io, dir, &context, 0, &facts, &err), &err, "scan after the kill");
    bench_must(facts.next_lsn > last, "a block told of is lost"); /* a torn tail behind is right */
    (void)printf("      kill -9: %llu blocks acknowledged before it died, %llu found, none lost\n",
                 (unsigned long long)last, (unsigned long long)facts.next_lsn - 1);
    wal_facts_release(&facts);
    bench_remove(dir);
}

static const struct throughput rungs[] = {
    {{"1a", "128 KiB blocks, each synced alone / bare loop, bytes/s", 0.95, 1.0, 1.1, false},
     BIG,
     1,
     512,
     (size_t)192 << 20,
     9},
    {{"1b", "128 KiB blocks, group commit / the same bare loop", 2.0, 2.4, 3.0, false},
     BIG,
     0,
     512,
     (size_t)384 << 20,
     11},
    {{"2", "4 KiB blocks acknowledged per second / bare loop, 4 KiB", 12, 30, 60, false},
     SMALL,
     0,
     1000,
     (size_t)256 << 20,
     8},
};

int main(void)
{
    static const char *const small[2] = {"4 KiB at 20 MB/s, complete to durable, p50 / bare p50",
                                         "4 KiB at 20 MB/s, complete to durable, p99 / bare p99"};
    static const char *const big[2] = {"128 KiB at 300 MB/s, complete to durable, p50 / bare p50",
                                       "128 KiB at 300 MB/s, complete to durable, p99 / bare p99"};
    struct levee_error err = {0};

    bench_init("bench_log");
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* the generator's clock, not the log's */
    bare_open();
    bench_check(io_posix_new(&io, &err), &err, "io");
    for (size_t i = 0; i < ARRAY_LEN(rungs); i++) {
        if (bench_wanted(rungs[i].goal.rung)) {
            run_throughput(&rungs[i]);
            run_resting(&rungs[i]);
        }
    }
    if (bench_wanted("3")) {
        rung_3(small, SMALL, 20e6, bench_quick ? 100 : 1000, 7);
        rung_3(big, BIG, 300e6, bench_quick ? 100 : 600, 11);
    }
    if (acknowledged) {
        check_kill();
    }
    (void)printf("      %llu blocks acknowledged, the %llu not yet trimmed read back, checksum "
                 "%016llx\n",
                 (unsigned long long)acknowledged, (unsigned long long)read_back,
                 (unsigned long long)checksum);
    (void)close(bare.fd);
    free((void *)(uintptr_t)bare.bytes);
    io_free(io);
    return 0;
}
