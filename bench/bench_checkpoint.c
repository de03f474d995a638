/*
 * Rungs of the ladder that checkpoint/ answers for, as ratios inside one run, interleaved pairs,
 * lower and upper quartile:
 *
 *   9b   a durable delta of 10 k dirty entries (pack, build, hash, read back, sync, rename, sync
 * the directory) / a raw LMDB transaction with the same bytes as packed blobs in a warm, recycled
 * file. Floor 3, strong 1.5. Beside it the bare file: write the same bytes to a new file,
 * fdatasync, rename, fsync the directory, which is the least that a file written once costs. 9c the
 * same delta out of 10 M keys / out of 100 k keys. Floor 1.5, strong 1.2. 9d   p99 of a 128 KiB
 * append + fdatasync on a written file while deltas of 1 MiB every 200 ms and paced folds run
 *        beside it / without. Floor 2, strong 1.4. (The log itself is measured by its own bench.)
 *   10c  restoring 1 M entries from a base into a hash table, entries/s / rebuilding the same table
 * from a packed array with prefetch. Floor 0.5, strong 0.8. Verification by pread is shown
 * separately.
 *
 * BENCH_QUICK=1 shrinks everything to a second. BENCH_DIR names the directory for files (default:
 * the working directory). Exit code 0 whatever the figures: they are read, not judged, here.
 */
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/ckpt.h"

#define GROUPS   128u
#define PAIRS    24
#define DIRTY    10000u
#define WAL_UNIT ((size_t)128 << 10)

static bool quick;
static struct io *io;
static char dir[IO_PATH_MAX - 256];
static uint64_t checksum; /* of everything computed: nothing may be optimised away */

static _Noreturn void die(const char *what, const struct levee_error *err)
{
    char text[1024];

    fprintf(stderr, "bench_checkpoint: %s: %s\n", what,
            err != NULL ? levee_error_format(err, text, sizeof text) : strerror(errno));
    exit(1);
}

static void must(bool holds, const char *what)
{
    if (!holds) {
        die(what, NULL);
    }
}

static void check(int rc, const struct levee_error *err, const char *what)
{
    if (rc != LEVEE_OK) {
        die(what, err);
    }
}

static double seconds(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double quantile(double *v, size_t n, double q)
{
    qsort(v, n, sizeof *v, by_value);
    size_t at = (size_t)(q * (double)(n - 1) + 0.5);
    return v[at < n ? at : n - 1];
}

static void print_rung(const char *rung, const char *what, double *ratios, size_t n,
                       const char *goal)
{
    double low = quantile(ratios, n, 0.25);
    double mid = quantile(ratios, n, 0.5);
    double high = quantile(ratios, n, 0.75);

    printf("%-5s %-58s %6.2f  [%5.2f – %5.2f]  n=%zu  %s\n", rung, what, mid, low, high, n, goal);
}

/* ---- a table, as far as gathering sees it ---- */

struct entry {
    uint64_t key, value;
};

struct table {
    struct entry *entries; /* grouped: group g holds [g * per_group, (g + 1) * per_group) */
    size_t count;
};

static struct table table_new(size_t count)
{
    struct table t = {.entries = malloc(count * sizeof *t.entries), .count = count};
    uint64_t rng = 7;

    must(t.entries != NULL, "table");
    for (size_t i = 0; i < count; i++) {
        t.entries[i] = (struct entry){rng_next(&rng), i};
    }
    return t;
}

static int by_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The dirty list of a batch: distinct entries anywhere in the table, in group order. */
static size_t make_dirty(struct table *t, uint32_t *ret, size_t n, uint64_t *rng)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        ret[i] = (uint32_t)(rng_next(rng) % t->count);
        t->entries[ret[i]].value++;
    }
    qsort(ret, n, sizeof *ret, by_index);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || ret[kept - 1] != ret[i]) {
            ret[kept++] = ret[i];
        }
    }
    return kept;
}

static void gather(const struct table *t, const uint32_t *dirty, size_t n, struct ckpt_slices *ret)
{
    size_t per_group = (t->count + GROUPS - 1) / GROUPS;
    struct levee_error err;

    ckpt_slices_init(ret, 1);
    for (size_t i = 0; i < n; i++) {
        if (i + 16 < n) {
            __builtin_prefetch(&t->entries[dirty[i + 16]]);
        }
        const struct entry *e = &t->entries[dirty[i]];
        struct ckpt_entry c = {.group = (uint32_t)(dirty[i] / per_group),
                               .key = slice_of(&e->key, 8),
                               .value = slice_of(&e->value, 8),
                               .touch_ms = 1700000000000};
        ckpt_slices_add(ret, &c);
    }
    check(ckpt_slices_finish(ret, &err), &err, "pack");
}

/* ---- the three ways to make bytes durable ---- */

struct published {
    struct ckpt_store store;
    uint64_t batch;
};

static void store_open(struct published *p, const char *name)
{
    char path[IO_PATH_MAX];
    struct levee_error err;

    check(io_path(path, dir, name, &err), &err, "path");
    check(io->ops->mkdir(io, path, &err), &err, "mkdir");
    check(ckpt_store_init(&p->store, io, &ckpt_format_lmdb, path), NULL, "store");
    p->batch = 0;
}

static struct ckpt_version publish(struct published *p, const struct ckpt_slices *s)
{
    struct ckpt_version v;
    struct levee_error err;
    uint8_t n[8] = {0};
    struct ckpt_item meta[] = {{slice_str("digest-from"), slice_of(n, 8)},
                               {slice_str("digest-to"), slice_of(n, 8)},
                               {slice_str("replay-from"), slice_of(n, 8)}};
    struct ckpt_item small = {slice_str("spositions"), slice_of(n, 8)};
    struct ckpt_content c = {p->batch, p->batch + 1, meta, 3, &small, 1, s, 1};

    check(ckpt_publish(&p->store, &c, 0, &v, &err), &err, "publish");
    p->batch++;
    return v;
}

/* Not part of what is timed: as the runtime, but keeping the newest only. */
static void keep_newest(struct published *p)
{
    struct levee_error err;

    while (p->store.versions.count > 1) {
        check(ckpt_remove(&p->store, &p->store.versions.items[0], &err), &err, "remove");
    }
}

static void store_close(struct published *p)
{
    struct levee_error err;

    while (p->store.versions.count > 0) {
        check(ckpt_remove(&p->store, &p->store.versions.items[0], &err), &err, "remove");
    }
    (void)rmdir(p->store.dir);
    ckpt_store_release(&p->store);
}

struct raw_lmdb {
    MDB_env *env;
    MDB_dbi dbi;
    uint64_t epoch;
    char path[IO_PATH_MAX];
};

static void raw_open(struct raw_lmdb *r)
{
    MDB_txn *txn;
    struct levee_error err;

    check(io_path(r->path, dir, "raw.mdb", &err), &err, "path");
    r->epoch = 0;
    must(mdb_env_create(&r->env) == 0 && mdb_env_set_mapsize(r->env, (size_t)64 << 20) == 0,
         "raw LMDB");
    must(mdb_env_open(r->env, r->path, MDB_NOSUBDIR | MDB_NOLOCK, 0666) == 0, "raw LMDB open");
    must(mdb_txn_begin(r->env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, NULL, 0, &r->dbi) == 0 &&
             mdb_txn_commit(txn) == 0,
         "raw LMDB");
}

/* One synced transaction: the new blobs in append order, the ones of two epochs ago deleted so that
 * pages recycle. */
static void raw_put(struct raw_lmdb *r, const struct ckpt_slices *s)
{
    MDB_txn *txn;
    uint8_t key[16];
    MDB_val k = {sizeof key, key};

    must(mdb_txn_begin(r->env, NULL, 0, &txn) == 0, "raw LMDB begin");
    for (size_t i = 0; i < s->mark_count; i++) {
        MDB_val v = {s->marks[i].len, NULL};
        put_be64(key, r->epoch);
        put_be64(key + 8, i);
        must(mdb_put(txn, r->dbi, &k, &v, MDB_APPEND | MDB_RESERVE) == 0, "raw LMDB put");
        memcpy(v.mv_data, s->bytes.data + s->marks[i].offset, s->marks[i].len);
        if (r->epoch >= 2) {
            put_be64(key, r->epoch - 2);
            int rc = mdb_del(txn, r->dbi, &k, NULL);
            must(rc == 0 || rc == MDB_NOTFOUND, "raw LMDB delete");
        }
    }
    must(mdb_txn_commit(txn) == 0, "raw LMDB commit");
    r->epoch++;
}

static void raw_close(struct raw_lmdb *r)
{
    mdb_env_close(r->env);
    (void)unlink(r->path);
}

/* The least that publishing a file written once can be. */
static void bare_file(const struct ckpt_slices *s)
{
    char temp[IO_PATH_MAX];
    char path[IO_PATH_MAX];
    struct levee_error err;

    check(io_path(temp, dir, "bare.tmp", &err), &err, "path");
    check(io_path(path, dir, "bare", &err), &err, "path");
    int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    must(fd >= 0 && pwrite(fd, s->bytes.data, s->bytes.len, 0) == (ssize_t)s->bytes.len,
         "bare write");
    must(fdatasync(fd) == 0 && close(fd) == 0 && rename(temp, path) == 0, "bare sync");
    check(io->ops->sync_dir(io, dir, &err), &err, "bare directory");
    (void)unlink(path); /* unsynced, as retention is */
}

/* ---- 9b ---- */

static void rung_9b(void)
{
    struct table t = table_new(quick ? 100000 : 1000000);
    static uint32_t dirty[DIRTY];
    struct published p;
    struct raw_lmdb raw;
    struct ckpt_slices s;
    double ratios[PAIRS];
    double bare[PAIRS];
    double ms[3] = {0};
    double pack = 0;
    uint64_t rng = 3;
    size_t pairs = quick ? 6 : PAIRS;
    size_t bytes = 0;

    store_open(&p, "9b");
    raw_open(&raw);
    for (size_t i = 0; i < pairs + 3;
         i++) { /* three rounds to warm up: the raw file recycles from then on */
        size_t n = make_dirty(&t, dirty, DIRTY, &rng);
        double t0 = seconds();
        gather(&t, dirty, n, &s);
        double t1 = seconds();
        (void)publish(&p, &s);
        double t2 = seconds();
        raw_put(&raw, &s);
        double t3 = seconds();
        bare_file(&s);
        double t4 = seconds();
        bytes = s.bytes.len;
        ckpt_slices_release(&s);
        keep_newest(&p);
        if (i >= 3) {
            ratios[i - 3] = (t2 - t0) / (t3 - t2);
            bare[i - 3] = (t2 - t0) / (t4 - t3);
            pack += t1 - t0;
            ms[0] += t2 - t0;
            ms[1] += t3 - t2;
            ms[2] += t4 - t3;
        }
    }
    print_rung("9b", "delta of 10 k entries / raw LMDB blob transaction", ratios, pairs,
               "floor 3, strong 1.5");
    print_rung("", "… / bare new file: write, sync, rename, sync directory", bare, pairs, "");
    printf("      %zu bytes; means: delta %.2f ms (packing %.2f), raw LMDB %.2f ms, bare file %.2f "
           "ms; "
           "syncs per delta %.2f\n",
           bytes, 1e3 * ms[0] / (double)pairs, 1e3 * pack / (double)pairs,
           1e3 * ms[1] / (double)pairs, 1e3 * ms[2] / (double)pairs,
           (double)counter_get(&io->counts.syncs) / (double)(pairs + 3));
    raw_close(&raw);
    store_close(&p);
    free(t.entries);
}

/* ---- 9c ---- */

static void rung_9c(void)
{
    struct table t[2] = {table_new(100000), table_new(quick ? 1000000 : 10000000)};
    static uint32_t dirty[DIRTY];
    struct published p[2];
    double ratios[PAIRS];
    double packs[PAIRS];
    uint64_t rng = 5;
    size_t pairs = quick ? 6 : PAIRS;

    store_open(&p[0], "9c-small");
    store_open(&p[1], "9c-large");
    for (size_t i = 0; i < pairs + 2; i++) {
        double took[2];
        double packed[2];
        for (int k = 0; k < 2; k++) {
            struct ckpt_slices s;
            size_t n = make_dirty(&t[k], dirty, DIRTY, &rng);
            double t0 = seconds();
            gather(&t[k], dirty, n, &s);
            packed[k] = seconds() - t0;
            (void)publish(&p[k], &s);
            took[k] = seconds() - t0;
            ckpt_slices_release(&s);
            keep_newest(&p[k]);
        }
        if (i >= 2) {
            ratios[i - 2] = took[1] / took[0];
            packs[i - 2] = packed[1] / packed[0];
        }
    }
    print_rung("9c",
               quick ? "the same delta of 1 M keys / of 100 k keys"
                     : "the same delta of 10 M keys / of 100 k keys",
               ratios, pairs, "floor 1.5, strong 1.2");
    print_rung("", "… packing alone", packs, pairs, "");
    for (int k = 0; k < 2; k++) {
        store_close(&p[k]);
        free(t[k].entries);
    }
}

/* ---- 9d ---- */

struct appender {
    int fd;
    uint64_t file_bytes;
    double until;
    double *latency;
    size_t count, cap;
};

/* Open loop at about 60 MB/s: every 2 ms one block is due, and its latency counts from then. */
static void *append_blocks(void *arg)
{
    struct appender *a = arg;
    uint8_t *block = malloc(WAL_UNIT);
    uint64_t offset = 0;
    double due = seconds();

    must(block != NULL, "block");
    memset(block, 0x5a, WAL_UNIT);
    while (due < a->until && a->count < a->cap) {
        double now = seconds();
        if (due > now) {
            struct timespec ts = {0, (long)((due - now) * 1e9)};
            (void)nanosleep(&ts, NULL);
        }
        must(pwrite(a->fd, block, WAL_UNIT, (off_t)offset) == (ssize_t)WAL_UNIT, "append");
        must(fdatasync(a->fd) == 0, "append sync");
        a->latency[a->count++] = seconds() - due;
        offset = (offset + WAL_UNIT) % a->file_bytes;
        due += 0.002;
    }
    free(block);
    return NULL;
}

static void wait_until(double when)
{
    double now = seconds();

    if (when > now) {
        struct timespec ts = {(time_t)(when - now),
                              (long)((when - now - (double)(time_t)(when - now)) * 1e9)};
        (void)nanosleep(&ts, NULL);
    }
}

/* Deltas of 1 MiB every 200 ms, folded when due in steps of 256 KiB every 5 ms. */
static void checkpoint_until(struct published *p, const struct ckpt_slices *s, double until)
{
    struct ckpt_fold *fold = NULL;
    struct ckpt_fold_plan plan;
    struct ckpt_version v;
    struct levee_error err;
    double next_delta = seconds();

    while (seconds() < until) {
        if (seconds() >= next_delta) {
            (void)publish(p, s);
            next_delta += 0.2;
        }
        if (fold == NULL && ckpt_fold_due(&p->store.versions, 4, &plan)) {
            check(ckpt_fold_begin(&p->store, &plan, &fold, &err), &err, "fold");
        }
        bool done = false;
        if (fold != NULL) {
            check(ckpt_fold_step(fold, (size_t)256 << 10, &done, &v, &err), &err, "fold step");
        }
        if (done || fold == NULL) {
            bool keep[256];
            ckpt_fold_free(fold);
            fold = NULL;
            ckpt_retain(&p->store.versions, keep);
            for (size_t i = p->store.versions.count; i-- > 0;) {
                if (!keep[i]) {
                    check(ckpt_remove(&p->store, &p->store.versions.items[i], &err), &err,
                          "remove");
                }
            }
        }
        wait_until(seconds() + 0.005);
    }
    ckpt_fold_free(fold);
}

static double p99_of_appends(struct appender *a, struct published *p, const struct ckpt_slices *s,
                             double span)
{
    pthread_t thread;

    a->count = 0;
    a->until = seconds() + span;
    must(pthread_create(&thread, NULL, append_blocks, a) == 0, "thread");
    if (p != NULL) {
        checkpoint_until(p, s, a->until);
    }
    must(pthread_join(thread, NULL) == 0, "join");
    return quantile(a->latency, a->count, 0.99);
}

static void rung_9d(void)
{
    struct table t = table_new(200000);
    uint32_t *dirty = malloc(60000 * sizeof *dirty);
    struct appender a = {.file_bytes = (uint64_t)32 << 20, .cap = 10000};
    struct published p;
    struct ckpt_slices s;
    char path[IO_PATH_MAX];
    struct levee_error err;
    double ratios[PAIRS];
    double ms[2] = {0};
    uint64_t rng = 9;
    size_t pairs = quick ? 2 : 20;
    double span = quick ? 0.1 : 1.0;
    uint8_t *zero = calloc(1, a.file_bytes);

    a.latency = malloc(a.cap * sizeof *a.latency);
    must(dirty != NULL && zero != NULL && a.latency != NULL, "memory");
    check(io_path(path, dir, "wal", &err), &err, "path");
    a.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    must(a.fd >= 0 && pwrite(a.fd, zero, a.file_bytes, 0) == (ssize_t)a.file_bytes &&
             fsync(a.fd) == 0,
         "wal");
    free(zero);
    store_open(&p, "9d");
    size_t n = make_dirty(&t, dirty, 60000, &rng);
    gather(&t, dirty, n, &s);
    (void)p99_of_appends(&a, NULL, NULL, span / 2);
    for (size_t i = 0; i < pairs; i++) {
        double without = p99_of_appends(&a, NULL, NULL, span);
        double with = p99_of_appends(&a, &p, &s, span);
        ratios[i] = with / without;
        ms[0] += with;
        ms[1] += without;
    }
    print_rung("9d", "p99 of 128 KiB appends beside deltas and folds / alone", ratios, pairs,
               "floor 2, strong 1.4");
    printf("      %zu bytes a delta; mean p99 with %.2f ms, without %.2f ms\n", s.bytes.len,
           1e3 * ms[0] / (double)pairs, 1e3 * ms[1] / (double)pairs);
    ckpt_slices_release(&s);
    store_close(&p);
    (void)close(a.fd);
    (void)unlink(path);
    free(a.latency);
    free(dirty);
    free(t.entries);
}

/* ---- 10c ---- */

/* Both sides fill this: open addressing, 16-byte entries, stored in place, hashed, then prefetched,
 * then put. */
struct rebuilt {
    struct entry *slots;
    uint64_t mask;
    size_t used;
};

#define AHEAD 32

struct loader {
    struct rebuilt *r;
    struct entry wait[AHEAD];
    uint64_t hash[AHEAD];
    size_t count;
};

static struct rebuilt rebuilt_new(size_t entries)
{
    uint64_t slots = 1;

    while (slots < entries * 2) {
        slots *= 2;
    }
    struct rebuilt r = {.slots = calloc(slots, sizeof *r.slots), .mask = slots - 1};
    must(r.slots != NULL, "rebuilt");
    return r;
}

static void drain(struct loader *l)
{
    for (size_t i = 0; i < l->count; i++) {
        uint64_t at = l->hash[i] & l->r->mask;
        while (l->r->slots[at].key != 0 && l->r->slots[at].key != l->wait[i].key) {
            at = (at + 1) & l->r->mask;
        }
        l->r->used += l->r->slots[at].key == 0;
        l->r->slots[at] = l->wait[i];
    }
    l->count = 0;
}

static inline void take(struct loader *l, uint64_t key, uint64_t value, uint64_t hash)
{
    __builtin_prefetch(&l->r->slots[hash & l->r->mask], 1);
    l->hash[l->count] = hash;
    l->wait[l->count++] = (struct entry){key, value};
    if (l->count == AHEAD) {
        drain(l);
    }
}

static int load_entry(void *arg, uint32_t tab, const struct ckpt_entry *e, struct levee_error *err)
{
    (void)tab;
    (void)err;
    take(arg, get_le64(e->key.data), get_le64(e->value.data), e->hash);
    return LEVEE_OK;
}

static void rung_10c(void)
{
    static const struct ckpt_load_ops ops = {load_entry, NULL};
    size_t count = quick ? 200000 : 1000000;
    struct table t = table_new(count);
    uint32_t *all = malloc(count * sizeof *all);
    struct published p;
    struct ckpt_slices s;
    struct ckpt_chain chain;
    struct levee_error err;
    double ratios[PAIRS];
    double rate[2] = {0};
    double verify = 0;
    size_t pairs = quick ? 4 : PAIRS;

    must(all != NULL, "memory");
    for (size_t i = 0; i < count; i++) {
        all[i] = (uint32_t)i;
    }
    store_open(&p, "10c");
    gather(&t, all, count, &s);
    struct ckpt_version v = publish(&p, &s);
    ckpt_chain_best(&p.store.versions, &chain);
    for (size_t i = 0; i < pairs + 1; i++) {
        double t0 = seconds();
        check(ckpt_store_verify(&p.store, &p.store.versions.items[0], &err), &err, "verify");
        double t1 = seconds();
        struct rebuilt r = rebuilt_new(count);
        struct loader l = {.r = &r};
        check(ckpt_load(&p.store, &chain, &ops, &l, &err), &err, "load");
        drain(&l);
        double t2 = seconds();
        must(r.used == count, "all entries are there");
        checksum += r.slots[count % r.mask].value;
        free(r.slots);
        double t3 = seconds();
        r = rebuilt_new(count);
        l = (struct loader){.r = &r};
        for (size_t k = 0; k < count; k++) {
            take(&l, t.entries[k].key, t.entries[k].value, hash_key(&t.entries[k].key, 8));
        }
        drain(&l);
        double t4 = seconds();
        must(r.used == count, "all entries are there");
        checksum += r.slots[count % r.mask].value;
        free(r.slots);
        if (i > 0) {
            ratios[i - 1] = (t4 - t3) / (t2 - t1);
            rate[0] += (double)count / (t2 - t1) / (double)pairs;
            rate[1] += (double)count / (t4 - t3) / (double)pairs;
            verify += (t1 - t0) / (double)pairs;
        }
    }
    print_rung("10c", "restore from a base / rebuild from a packed array", ratios, pairs,
               "floor 0.5, strong 0.8");
    printf("      %zu entries, file of %.1f MB: restore %.1f M/s, packed array %.1f M/s, "
           "verification first: %.2f ms\n",
           count, (double)v.size / 1e6, rate[0] / 1e6, rate[1] / 1e6, 1e3 * verify);
    ckpt_slices_release(&s);
    store_close(&p);
    free(all);
    free(t.entries);
}

int main(void)
{
    const char *where = getenv("BENCH_DIR");
    struct levee_error err;

    quick = getenv("BENCH_QUICK") != NULL;
    snprintf(dir, sizeof dir, "%s/bench-checkpoint-XXXXXX", where != NULL ? where : ".");
    must(mkdtemp(dir) != NULL, "directory");
    check(io_posix_new(&io, &err), &err, "io");
    printf("rung  what%-56s median  [quartiles]\n", "");
    rung_9b();
    rung_9c();
    rung_9d();
    rung_10c();
    printf("      (checksum %llu)\n", (unsigned long long)checksum);
    io_free(io);
    (void)rmdir(dir);
    return 0;
}
