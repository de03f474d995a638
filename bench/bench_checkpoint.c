/*
 * Rungs of the ladder that checkpoint/ answers for.
 *
 *   9b   a durable delta of 10 k dirty entries (pack, build, hash, read back, sync, rename, sync
 * the directory) / a raw LMDB transaction with the same bytes as packed blobs in a warm, recycled
 *        file. Beside it the bare file: the same bytes written to a new file, fdatasync, rename,
 *        fsync of the directory, which is the least that a file written once costs.
 *   9c   the same delta out of 10 M keys / out of 100 k keys.
 *   9d   p99 of a 128 KiB append + fdatasync on a written file while deltas of 1 MiB every 200 ms
 *        and paced folds run beside it / without. (The log itself is measured by bench_log.)
 *   10c  restoring 1 M entries from a base into a hash table, entries/s / rebuilding the same table
 *        from a packed array with prefetch. Verification by pread is shown separately.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/published.h"

#define DIRTY    10000u
#define WAL_UNIT ((size_t)128 << 10)

static struct io *io;
static uint64_t checksum; /* of everything computed: nothing may be optimised away */

/* ---- the two ways to make bytes durable that a published delta is held against ---- */

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

    bench_check(io_path(r->path, bench_scratch(), "raw.mdb", &err), &err, "path");
    r->epoch = 0;
    bench_must(mdb_env_create(&r->env) == 0 && mdb_env_set_mapsize(r->env, (size_t)64 << 20) == 0,
               "raw LMDB");
    bench_must(mdb_env_open(r->env, r->path, MDB_NOSUBDIR | MDB_NOLOCK, 0666) == 0,
               "raw LMDB open");
    bench_must(mdb_txn_begin(r->env, NULL, 0, &txn) == 0 &&
                   mdb_dbi_open(txn, NULL, 0, &r->dbi) == 0 && mdb_txn_commit(txn) == 0,
               "raw LMDB");
}

/* One synced transaction: the new blobs in append order, the ones of two epochs ago deleted so that
 * pages recycle. */
static void raw_put(struct raw_lmdb *r, const struct ckpt_slices *s)
{
    MDB_txn *txn;
    uint8_t key[16];
    MDB_val k = {sizeof key, key};

    bench_must(mdb_txn_begin(r->env, NULL, 0, &txn) == 0, "raw LMDB begin");
    for (size_t i = 0; i < s->mark_count; i++) {
        MDB_val v = {s->marks[i].len, NULL};
        put_be64(key, r->epoch);
        put_be64(key + 8, i);
        bench_must(mdb_put(txn, r->dbi, &k, &v, MDB_APPEND | MDB_RESERVE) == 0, "raw LMDB put");
        memcpy(v.mv_data, s->bytes.data + s->marks[i].offset, s->marks[i].len);
        if (r->epoch >= 2) {
            put_be64(key, r->epoch - 2);
            int rc = mdb_del(txn, r->dbi, &k, NULL);
            bench_must(rc == 0 || rc == MDB_NOTFOUND, "raw LMDB delete");
        }
    }
    bench_must(mdb_txn_commit(txn) == 0, "raw LMDB commit");
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

    bench_check(io_path(temp, bench_scratch(), "bare.tmp", &err), &err, "path");
    bench_check(io_path(path, bench_scratch(), "bare", &err), &err, "path");
    int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bench_must(fd >= 0 && pwrite(fd, s->bytes.data, s->bytes.len, 0) == (ssize_t)s->bytes.len,
               "bare write");
    bench_must(fdatasync(fd) == 0 && close(fd) == 0 && rename(temp, path) == 0, "bare sync");
    bench_check(io->ops->sync_dir(io, bench_scratch(), &err), &err, "bare directory");
    (void)unlink(path); /* unsynced, as retention is */
}

/* ---- 9b ---- */

static void rung_9b(void)
{
    struct table t = table_new(bench_quick ? 100000 : 1000000);
    static uint32_t dirty[DIRTY];
    struct published p;
    struct raw_lmdb raw;
    struct ckpt_slices s;
    double ratios[BENCH_PAIRS];
    double bare[BENCH_PAIRS];
    double ms[3] = {0};
    double pack = 0;
    uint64_t rng = 3;
    size_t pairs = bench_quick ? 6 : BENCH_PAIRS;
    size_t bytes = 0;

    published_open(&p, io, "9b");
    raw_open(&raw);
    for (size_t i = 0; i < pairs + 3;
         i++) { /* three rounds to warm up: the raw file recycles from then on */
        size_t n = table_touch(&t, dirty, DIRTY, &rng);
        double t0 = bench_now();
        table_gather(&t, dirty, n, &s);
        double t1 = bench_now();
        (void)published_add(&p, &s);
        double t2 = bench_now();
        raw_put(&raw, &s);
        double t3 = bench_now();
        bare_file(&s);
        double t4 = bench_now();
        bytes = s.bytes.len;
        ckpt_slices_release(&s);
        published_trim(&p);
        if (i >= 3) {
            ratios[i - 3] = (t2 - t0) / (t3 - t2);
            bare[i - 3] = (t2 - t0) / (t4 - t3);
            pack += t1 - t0;
            ms[0] += t2 - t0;
            ms[1] += t3 - t2;
            ms[2] += t4 - t3;
        }
    }
    bench_row(&(struct bench_goal){"9b", "delta of 10 k entries / raw LMDB blob transaction", 3,
                                   1.5, 1.1, true},
              ratios, pairs);
    bench_aside("  / bare new file: write, sync, rename, sync directory", bare, pairs);
    printf("      %zu bytes; means: delta %.2f ms (packing %.2f), raw LMDB %.2f ms, bare file %.2f "
           "ms; "
           "syncs per delta %.2f\n",
           bytes, 1e3 * ms[0] / (double)pairs, 1e3 * pack / (double)pairs,
           1e3 * ms[1] / (double)pairs, 1e3 * ms[2] / (double)pairs,
           (double)counter_get(&io->counts.syncs) / (double)(pairs + 3));
    raw_close(&raw);
    published_close(&p);
    free(t.entries);
}

/* ---- 9c ---- */

static void rung_9c(void)
{
    struct table t[2] = {table_new(100000), table_new(bench_quick ? 1000000 : 10000000)};
    static uint32_t dirty[DIRTY];
    struct published p[2];
    double ratios[BENCH_PAIRS];
    double packs[BENCH_PAIRS];
    uint64_t rng = 5;
    size_t pairs = bench_quick ? 6 : BENCH_PAIRS;

    published_open(&p[0], io, "9c-small");
    published_open(&p[1], io, "9c-large");
    for (size_t i = 0; i < pairs + 2; i++) {
        double took[2];
        double packed[2];
        for (int k = 0; k < 2; k++) {
            struct ckpt_slices s;
            size_t n = table_touch(&t[k], dirty, DIRTY, &rng);
            double t0 = bench_now();
            table_gather(&t[k], dirty, n, &s);
            packed[k] = bench_now() - t0;
            (void)published_add(&p[k], &s);
            took[k] = bench_now() - t0;
            ckpt_slices_release(&s);
            published_trim(&p[k]);
        }
        if (i >= 2) {
            ratios[i - 2] = took[1] / took[0];
            packs[i - 2] = packed[1] / packed[0];
        }
    }
    bench_row(&(struct bench_goal){"9c", "the same delta of 10 M keys / of 100 k keys", 1.5, 1.2,
                                   1.05, true},
              ratios, pairs);
    bench_aside("  packing alone", packs, pairs);
    for (int k = 0; k < 2; k++) {
        published_close(&p[k]);
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
    uint8_t *block = bench_alloc(WAL_UNIT);
    uint64_t offset = 0;
    double due = bench_now();

    memset(block, 0x5a, WAL_UNIT);
    while (due < a->until && a->count < a->cap) {
        bench_sleep_until(due);
        bench_must(pwrite(a->fd, block, WAL_UNIT, (off_t)offset) == (ssize_t)WAL_UNIT, "append");
        bench_must(fdatasync(a->fd) == 0, "append sync");
        a->latency[a->count++] = bench_now() - due;
        offset = (offset + WAL_UNIT) % a->file_bytes;
        due += 0.002;
    }
    free(block);
    return NULL;
}

/* Deltas of 1 MiB every 200 ms, folded when due in steps of 256 KiB every 5 ms. */
static void checkpoint_until(struct published *p, const struct ckpt_slices *s, double until)
{
    struct ckpt_fold *fold = NULL;
    struct ckpt_fold_plan plan;
    struct ckpt_version v;
    struct levee_error err;
    double next_delta = bench_now();

    while (bench_now() < until) {
        if (bench_now() >= next_delta) {
            (void)published_add(p, s);
            next_delta += 0.2;
        }
        if (fold == NULL && ckpt_fold_due(&p->store.versions, 4, &plan)) {
            bench_check(ckpt_fold_begin(&p->store, &plan, &fold, &err), &err, "fold");
        }
        bool done = false;
        if (fold != NULL) {
            bench_check(ckpt_fold_step(fold, (size_t)256 << 10, &done, &v, &err), &err,
                        "fold step");
        }
        if (done || fold == NULL) {
            bool keep[256];
            ckpt_fold_free(fold);
            fold = NULL;
            ckpt_retain(&p->store.versions, keep);
            for (size_t i = p->store.versions.count; i-- > 0;) {
                if (!keep[i]) {
                    bench_check(ckpt_remove(&p->store, &p->store.versions.items[i], &err), &err,
                                "remove");
                }
            }
        }
        bench_sleep_until(bench_now() + 0.005);
    }
    ckpt_fold_free(fold);
}

static double p99_of_appends(struct appender *a, struct published *p, const struct ckpt_slices *s,
                             double span)
{
    pthread_t thread;

    a->count = 0;
    a->until = bench_now() + span;
    bench_must(pthread_create(&thread, NULL, append_blocks, a) == 0, "thread");
    if (p != NULL) {
        checkpoint_until(p, s, a->until);
    }
    bench_must(pthread_join(thread, NULL) == 0, "join");
    return bench_quantile(a->latency, a->count, 0.99);
}

static void rung_9d(void)
{
    struct table t = table_new(200000);
    uint32_t *dirty = bench_alloc(60000 * sizeof *dirty);
    struct appender a = {.file_bytes = (uint64_t)32 << 20, .cap = 10000};
    struct published p;
    struct ckpt_slices s;
    char path[IO_PATH_MAX];
    struct levee_error err;
    double ratios[BENCH_PAIRS];
    double ms[2] = {0};
    uint64_t rng = 9;
    size_t pairs = bench_quick ? 2 : 20;
    double span = bench_quick ? 0.1 : 1.0;
    uint8_t *zero = bench_alloc(a.file_bytes);

    a.latency = bench_alloc(a.cap * sizeof *a.latency);
    bench_check(io_path(path, bench_scratch(), "wal", &err), &err, "path");
    a.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bench_must(a.fd >= 0 && pwrite(a.fd, zero, a.file_bytes, 0) == (ssize_t)a.file_bytes &&
                   fsync(a.fd) == 0,
               "wal");
    free(zero);
    published_open(&p, io, "9d");
    size_t n = table_touch(&t, dirty, 60000, &rng);
    table_gather(&t, dirty, n, &s);
    (void)p99_of_appends(&a, NULL, NULL, span / 2);
    for (size_t i = 0; i < pairs; i++) {
        double without = p99_of_appends(&a, NULL, NULL, span);
        double with = p99_of_appends(&a, &p, &s, span);
        ratios[i] = with / without;
        ms[0] += with;
        ms[1] += without;
    }
    bench_row(&(struct bench_goal){"9d", "p99 of 128 KiB appends beside deltas and folds / alone",
                                   2, 1.4, 1.15, true},
              ratios, pairs);
    printf("      %zu bytes a delta; mean p99 with %.2f ms, without %.2f ms\n", s.bytes.len,
           1e3 * ms[0] / (double)pairs, 1e3 * ms[1] / (double)pairs);
    ckpt_slices_release(&s);
    published_close(&p);
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
    return (struct rebuilt){.slots = bench_alloc(slots * sizeof(struct entry)), .mask = slots - 1};
}

static uint64_t rebuilt_sum(const struct rebuilt *r)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i <= r->mask; i++) {
        sum += r->slots[i].key * (r->slots[i].value + 1);
    }
    return sum;
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
    size_t count = bench_quick ? 200000 : 1000000;
    struct table t = table_new(count);
    uint32_t *all = bench_alloc(count * sizeof *all);
    struct published p;
    struct ckpt_slices s;
    struct ckpt_chain chain;
    struct levee_error err;
    double ratios[BENCH_PAIRS];
    double rate[2] = {0};
    double verify = 0;
    size_t pairs = bench_quick ? 4 : BENCH_PAIRS;

    for (size_t i = 0; i < count; i++) {
        all[i] = (uint32_t)i;
    }
    published_open(&p, io, "10c");
    table_gather(&t, all, count, &s);
    struct ckpt_version v = published_add(&p, &s);
    ckpt_chain_best(&p.store.versions, &chain);
    for (size_t i = 0; i < pairs + 1; i++) {
        double t0 = bench_now();
        bench_check(ckpt_store_verify(&p.store, &p.store.versions.items[0], &err), &err, "verify");
        double t1 = bench_now();
        struct rebuilt r = rebuilt_new(count);
        struct loader l = {.r = &r};
        bench_check(ckpt_load(&p.store, &chain, &ops, &l, &err), &err, "load");
        drain(&l);
        double t2 = bench_now();
        bench_must(r.used == count, "all entries are there");
        uint64_t restored = rebuilt_sum(&r);
        free(r.slots);
        double t3 = bench_now();
        r = rebuilt_new(count);
        l = (struct loader){.r = &r};
        for (size_t k = 0; k < count; k++) {
            take(&l, t.entries[k].key, t.entries[k].value, hash_key(&t.entries[k].key, 8));
        }
        drain(&l);
        double t4 = bench_now();
        bench_must(rebuilt_sum(&r) == restored, "both sides hold the same");
        checksum += restored;
        free(r.slots);
        if (i > 0) {
            ratios[i - 1] = (t4 - t3) / (t2 - t1);
            rate[0] += (double)count / (t2 - t1) / (double)pairs;
            rate[1] += (double)count / (t4 - t3) / (double)pairs;
            verify += (t1 - t0) / (double)pairs;
        }
    }
    bench_row(&(struct bench_goal){"10c",
                                   "entries restored from a base / rebuilt from a packed array",
                                   0.5, 0.8, 1.0, false},
              ratios, pairs);
    printf("      %zu entries, file of %.1f MB: restore %.1f M/s, packed array %.1f M/s, "
           "verification first: %.2f ms\n",
           count, (double)v.size / 1e6, rate[0] / 1e6, rate[1] / 1e6, 1e3 * verify);
    ckpt_slices_release(&s);
    published_close(&p);
    free(all);
    free(t.entries);
}

int main(void)
{
    struct levee_error err;

    bench_init("bench_checkpoint");
    bench_check(io_posix_new(&io, &err), &err, "io");
    if (bench_wanted("9b")) {
        rung_9b();
    }
    if (bench_wanted("9c")) {
        rung_9c();
    }
    if (bench_wanted("9d")) {
        rung_9d();
    }
    if (bench_wanted("10c")) {
        rung_10c();
    }
    printf("      checksum %llu\n", (unsigned long long)checksum);
    io_free(io);
    return 0;
}
