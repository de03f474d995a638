/*
 * Coming back: what reading the log and running it again cost. (Restoring state from checkpoints is
 * 10c in bench_checkpoint; a whole restart after kill -9 is bench_restart.)
 *
 *   10a  scan and verification of a cold log, bytes/s / the faster of two ways to read the same
 *        files: four threads with O_DIRECT in pieces of 1 MiB, as `fio --direct=1 --iodepth=4`
 *        does, and one thread with ordinary reads of 1 MiB, where the kernel reads ahead. Cold
 * means that the page cache was told to forget the files; what the device or its host caches is the
 * same for all. Beside it the scan of the same log when it is cached. 10b  replay with processing,
 * bytes warm: from opening the directory to the last logged batch done, words counted / bare C loop
 * over the same lines in memory, which reads no log. All words, one worker, no checkpoint: the
 * whole log is replayed. Beside it the batches alone, after the log has been read.
 *
 * Both check what came back: 10a every LSN and the stamps of all blocks, 10b the counts.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/words.h"
#include "wal/wal.h"

#define BLOCK       ((size_t)128 << 10)
#define PIECE       ((size_t)1 << 20)
#define READERS     4
#define SEGMENT_MAX 64

/* ---- 10a ---- */

struct log {
    struct io *io;
    char dir[1024];
    struct uuid context;
    uint64_t blocks, bytes;
    char paths[SEGMENT_MAX][1100]; /* of the segments with blocks in them */
    size_t path_count;
    sem_t durable;
};

static void block_durable(struct wal_frame *frame, int code)
{
    struct log *l = frame->owner;

    bench_must(code == LEVEE_OK, "a block is not durable");
    free((void *)(uintptr_t)frame->payload[0].data);
    free(frame);
    (void)sem_post(&l->durable);
}

static void write_log(struct log *l)
{
    struct wal_options o = {.dir = l->dir, .context = l->context};
    struct levee_error err = {0};
    struct wal *w;
    uint64_t rng = 5;

    bench_check(l->io->ops->mkdir(l->io, l->dir, &err), &err, l->dir);
    bench_check(wal_open(l->io, &o, NULL, &w, &err), &err, "open the log");
    bench_must(sem_init(&l->durable, 0, 64) == 0, "semaphore"); /* blocks under way */
    for (uint64_t i = 0; i < l->blocks; i++) {
        struct wal_frame *frame = bench_alloc(sizeof *frame);
        uint8_t *payload = bench_alloc(BLOCK);
        for (size_t k = 0; k < BLOCK; k += 8) {
            put_le64(payload + k, rng_next(&rng));
        }
        *frame = (struct wal_frame){.type = WAL_BLOCK,
                                    .seq = i + 1,
                                    .payload = {slice_of(payload, BLOCK), slice_of(NULL, 0)},
                                    .done = block_durable,
                                    .owner = l};
        (void)sem_wait(&l->durable);
        bench_check(wal_append(w, frame, &err), &err, "append");
    }
    wal_close(w);
    (void)sem_destroy(&l->durable);
}

/* Returns a checksum of what was found. */
static uint64_t scan_log(struct log *l, bool note_paths)
{
    struct wal_facts facts = {0};
    struct levee_error err = {0};
    uint64_t sum = 0;

    bench_check(wal_scan(l->io, l->dir, &l->context, 0, &facts, &err), &err, "scan");
    bench_must(facts.entry_count == l->blocks && facts.bad.kind == WAL_BAD_NONE, "all blocks");
    for (size_t i = 0; i < facts.entry_count; i++) {
        bench_must(facts.entries[i].lsn == i + 1 && facts.entries[i].seq == i + 1, "in order");
        sum += facts.entries[i].seq * facts.entries[i].offset;
    }
    for (size_t i = 0; i < facts.segment_count && note_paths; i++) {
        if (!facts.segments[i].spare && l->path_count < SEGMENT_MAX) {
            (void)snprintf(l->paths[l->path_count++], sizeof l->paths[0], "%s/%s", l->dir,
                           facts.segments[i].name);
            l->bytes += facts.segments[i].size;
        }
    }
    wal_facts_release(&facts);
    return sum;
}

static void forget_pages(const struct log *l)
{
    for (size_t i = 0; i < l->path_count; i++) {
        int fd = open(l->paths[i], O_RDONLY | O_CLOEXEC);
        bench_must(fd >= 0 && fdatasync(fd) == 0, l->paths[i]);
        bench_must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, l->paths[i]);
        (void)close(fd);
    }
}

struct reader {
    const struct log *log;
    size_t number, step; /* reads every step-th piece of every file */
    bool direct;
    uint64_t bytes, sum;
};

static void *read_pieces(void *arg)
{
    struct reader *r = arg;
    void *buf = NULL;

    bench_must(posix_memalign(&buf, 4096, PIECE) == 0, "memory");
    for (size_t i = 0; i < r->log->path_count; i++) {
        int fd = open(r->log->paths[i], O_RDONLY | O_CLOEXEC | (r->direct ? O_DIRECT : 0));
        bench_must(fd >= 0, r->log->paths[i]);
        ssize_t got = 0;
        for (size_t at = r->number * PIECE; (got = pread(fd, buf, PIECE, (off_t)at)) > 0;
             at += r->step * PIECE) {
            r->bytes += (uint64_t)got;
            r->sum += get_le64(buf);
        }
        bench_must(got == 0, "read");
        (void)close(fd);
    }
    free(buf);
    return NULL;
}

/* Four threads, or one that reads through the page cache. */
static double read_bare(const struct log *l, bool direct)
{
    size_t n = direct ? READERS : 1;
    struct reader readers[READERS] = {{0}};
    pthread_t threads[READERS];
    uint64_t bytes = 0;
    double from = bench_now();

    for (size_t i = 0; i < n; i++) {
        readers[i] = (struct reader){.log = l, .number = i, .step = n, .direct = direct};
        bench_must(pthread_create(&threads[i], NULL, read_pieces, &readers[i]) == 0, "thread");
    }
    for (size_t i = 0; i < n; i++) {
        (void)pthread_join(threads[i], NULL);
        bytes += readers[i].bytes;
    }
    double took = bench_now() - from;
    bench_must(bytes == l->bytes, "the readers read every byte");
    return took;
}

static void rung_10a(void)
{
    static const struct bench_goal goal = {
        "10a", "cold log scanned and verified / bare reads, bytes/s", 0.5, 0.8, 0.95, false};
    struct log *l = bench_alloc(sizeof *l);
    struct levee_error err = {0};
    double ratios[BENCH_PAIRS], warm[BENCH_PAIRS], ours[BENCH_PAIRS], bare[2][BENCH_PAIRS];
    double deadline = bench_now() + 25;
    struct bench_time cpu = {0, 0};
    size_t n = 0;

    bench_check(io_posix_new(&l->io, &err), &err, "io");
    (void)snprintf(l->dir, sizeof l->dir, "%s/wal", bench_scratch());
    l->context.b[0] = 3;
    l->blocks = bench_quick ? 600 : 2500;
    write_log(l);
    uint64_t sum = scan_log(l, true), read_before = counter_get(&l->io->counts.read_bytes);
    for (; bench_more(n, BENCH_PAIRS, deadline); n++) {
        forget_pages(l);
        bare[0][n] = read_bare(l, true);
        bare[1][n] = read_bare(l, false);
        double best = bare[0][n] < bare[1][n] ? bare[0][n] : bare[1][n];
        forget_pages(l);
        struct bench_time from = bench_start();
        bench_must(scan_log(l, false) == sum, "every scan finds the same");
        struct bench_time took = bench_since(from);
        ours[n] = took.wall;
        cpu.cpu += took.cpu;
        from = bench_start();
        bench_must(scan_log(l, false) == sum, "every scan finds the same");
        warm[n] = best / bench_since(from).wall;
        ratios[n] = best / ours[n];
    }
    double read = (double)(counter_get(&l->io->counts.read_bytes) - read_before) / 2 / (double)n;
    bench_row(&goal, ratios, n);
    bench_aside("  the same log cached / bare reads, cold", warm, n);
    double gb = (double)l->bytes / 1e9;
    (void)printf(
        "      %.2f GB in %zu segments: %.2f GB/s cold, direct reads %.2f, read ahead %.2f; "
        "CPU-s per GB %.2f; bytes read / bytes %.3f;\n      checksum %016llx\n",
        gb, l->path_count, gb / bench_median(ours, n), gb / bench_median(bare[0], n),
        gb / bench_median(bare[1], n), cpu.cpu / (double)n / gb, read / (double)l->bytes,
        (unsigned long long)sum);
    bench_remove(l->dir);
    io_free(l->io);
    free(l);
}

/* ---- 10b ---- */

struct progress { /* what the listener sees; written on the loop */
    uint64_t want, records;
    double first, last; /* the first batch starts, the last one is done */
    sem_t all;
};

static void batch_started(void *arg, const struct levee_batch_info *info)
{
    struct progress *p = arg;

    (void)info;
    p->first = p->first > 0 ? p->first : bench_now();
}

static void batch_completed(void *arg, const struct levee_batch_info *info)
{
    struct progress *p = arg;

    p->records += info->records;
    p->last = bench_now();
    if (p->records == p->want) {
        (void)sem_post(&p->all);
    }
}

struct life { /* how long its parts took */
    double open, start, replay, all;
    uint64_t checksum, replayed;
};

/* One life on the directory, until all lines are counted; then it stops and leaves no checkpoint.
 */
static struct life live(const struct words *w)
{
    static const struct levee_listener listener = {
        .version = 1, .batch_started = batch_started, .batch_completed = batch_completed};
    struct progress p = {.want = w->count};
    struct words_feed f = {.words = w, .total = w->count, .rests = true};
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 100,
                              .workers = 1,
                              .checkpoint_ms = UINT32_MAX,
                              .listener = &listener,
                              .listener_arg = &p};
    struct levee_error err = {0};
    struct levee_metrics m;
    levee_context *ctx;

    bench_must(sem_init(&p.all, 0, 0) == 0, "semaphore");
    double from = bench_now();
    bench_check(levee_get_or_create(&ctx, &o, words_build, &f, &err), &err, "create");
    double opened = bench_now();
    bench_check(levee_start(ctx, &err), &err, "start");
    double started = bench_now();
    (void)sem_wait(&p.all);
    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    levee_context_metrics(ctx, &m);
    struct life l = {.open = opened - from,
                     .start = started - opened,
                     .replay = p.last - p.first,
                     .all = p.last - from,
                     .checksum = words_checksum(ctx, NULL),
                     .replayed = m.batches_replayed};
    bench_must(m.checkpoints == 0, "no checkpoint was wanted");
    levee_free(ctx);
    (void)sem_destroy(&p.all);
    return l;
}

static void rung_10b(void)
{
    static const struct bench_goal goal = {
        "10b", "replay with processing, warm / bare C loop, bytes/s", 0.8, 0.9, 0.95, false};
    struct words w = {.count = bench_quick ? 50000 : 800000,
                      .per_line = 14,
                      .vocabulary = 10000,
                      .order = WORDS_ZIPF};
    double ratios[BENCH_PAIRS], batches[BENCH_PAIRS], parts[3][BENCH_PAIRS], bare[BENCH_PAIRS];
    double deadline = bench_now() + 25;
    struct life l = {0};
    size_t n = 0;

    words_make(&w);
    bench_must(chdir(bench_scratch()) == 0, "scratch directory");
    uint64_t want = live(&w).checksum; /* the life that writes the log */
    for (; bench_more(n, BENCH_PAIRS, deadline); n++) {
        uint64_t sum = 0;
        bare[n] = words_count_bare(&w, 1, &sum);
        l = live(&w);
        bench_must(l.checksum == sum && want == sum, "the counts differ");
        bench_must(l.replayed > 0, "the log was replayed");
        ratios[n] = bare[n] / l.all;
        batches[n] = bare[n] / l.replay;
        parts[0][n] = l.open;
        parts[1][n] = l.start;
        parts[2][n] = l.replay;
    }
    bench_row(&goal, ratios, n);
    bench_aside("  the batches alone, after the log was read", batches, n);
    (void)printf("      %.1f MB of lines, %llu batches: open and scan %.0f ms, start (read, apply) "
                 "%.0f ms, batches %.0f ms; bare %.0f ms;\n      checksum %016llx, the same on "
                 "both sides\n",
                 (double)w.len / 1e6, (unsigned long long)l.replayed,
                 1e3 * bench_median(parts[0], n), 1e3 * bench_median(parts[1], n),
                 1e3 * bench_median(parts[2], n), 1e3 * bench_median(bare, n),
                 (unsigned long long)want);
    words_release(&w);
}

int main(void)
{
    bench_init("bench_recovery");
    if (bench_wanted("10a")) {
        rung_10a();
    }
    if (bench_wanted("10b")) {
        rung_10b();
    }
    return 0;
}
