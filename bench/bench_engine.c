/*
 * The engine alone, without log, sinks and checkpoints, against bare C loops that do the same work
 * in the same run: what is left of rungs 5a, 5b and 5e once durability is free, and 9a, the pause
 * that gathering a checkpoint makes. One worker; the blocks are encoded beforehand and read from
 * memory, as a batch reads them.
 *
 * Pairs are interleaved (bare, engine, bare, engine …). Printed are the quartiles of the paired
 * ratios and the allocations per record of the last batch. Both sides' results are compared as
 * checksums; a difference ends the program with code 1.
 *
 *   bench_engine [pairs]
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "runtime/engine.h"

#define BLOCK_BYTES (128u << 10)
#define AHEAD       32u /* how far the bare loops prefetch */

/* ---- input: blocks for the engine, an array of records for the bare loop ---- */

struct input {
    uint8_t *bytes;
    struct levee_record *records;
    size_t count, len;
    struct rt_block **blocks;
    size_t block_count, block_cap;
};

static void input_add(struct input *in, struct levee_slice key, struct levee_slice value)
{
    struct rt_block *b = in->block_count ? in->blocks[in->block_count - 1] : NULL;
    struct levee_record r = {.key = key, .value = value};

    if (!b || b->payload.len + key.len + value.len > BLOCK_BYTES) {
        if (b) {
            rt_block_seal(b);
        }
        bench_must(mem_grow((void **)&in->blocks, &in->block_cap, in->block_count + 1, sizeof(b)),
                   "mem");
        b = rt_block_new(0, 0, key.data ? RT_BLOCK_KEYS : 0, slice_of(NULL, 0), BLOCK_BYTES);
        bench_must(b != NULL, "no memory for a block");
        in->blocks[in->block_count++] = b;
    }
    bench_must(rt_block_add(b, &r, 0), "no memory for a record");
    in->records[in->count++] = r;
}

static void input_end(struct input *in)
{
    rt_block_seal(in->blocks[in->block_count - 1]);
}

static void input_release(struct input *in)
{
    for (size_t i = 0; i < in->block_count; i++) {
        rt_block_free(in->blocks[i]);
    }
    mem_free(in->blocks);
    free(in->records);
    free(in->bytes);
}

/* Lines of about 100 bytes; words w<number>, the low numbers more often. */
static void make_lines(struct input *in, size_t lines, unsigned words, uint64_t vocabulary)
{
    uint64_t rng = 42;

    *in = (struct input){0};
    in->bytes = bench_alloc(lines * 120);
    in->records = bench_alloc(lines * sizeof *in->records);
    for (size_t i = 0; i < lines; i++) {
        char *start = (char *)in->bytes + in->len;
        size_t n = 0;
        for (unsigned w = 0; w < words; w++) {
            uint64_t a = rng_next(&rng) % vocabulary, b = rng_next(&rng) % vocabulary;
            uint64_t word = words > 1 ? a * b / vocabulary : a;
            n += (size_t)snprintf(start + n, 16, w ? " w%llu" : "w%llu", (unsigned long long)word);
        }
        while (words == 1 && n < 100) { /* a payload behind the key */
            start[n] = n % 10 ? 'x' : ' ';
            n++;
        }
        in->len += n;
        input_add(in, slice_of(NULL, 0), slice_of(start, n));
    }
    input_end(in);
}

/* Records of 16 bytes: an 8-byte key of 1..keys, an i64. */
static void make_pairs(struct input *in, size_t count, uint64_t keys)
{
    uint64_t rng = 7;

    *in = (struct input){0};
    in->bytes = bench_alloc(count * 16);
    in->records = bench_alloc(count * sizeof *in->records);
    for (size_t i = 0; i < count; i++) {
        uint8_t *p = in->bytes + in->len;
        put_le64(p, rng_next(&rng) % keys);
        put_le64(p + 8, i & 1023);
        in->len += 16;
        input_add(in, slice_of(p, 8), slice_of(p + 8, 8));
    }
    input_end(in);
}

/* ---- the bare loops ---- */

struct bare_entry {
    uint64_t hash;
    int64_t sum;
    const uint8_t *key;
    size_t len;
};
struct bare {
    struct bare_entry *entries;
    size_t mask;
};

static struct bare bare_new(size_t entries)
{
    return (struct bare){bench_alloc(entries * sizeof(struct bare_entry)), entries - 1};
}

static inline void bare_add(struct bare *t, uint64_t h, const uint8_t *key, size_t len, int64_t n)
{
    size_t at = h & t->mask;

    while (t->entries[at].hash && !(t->entries[at].hash == h && t->entries[at].len == len &&
                                    memcmp(t->entries[at].key, key, len) == 0)) {
        at = (at + 1) & t->mask;
    }
    if (!t->entries[at].hash) {
        t->entries[at] = (struct bare_entry){h, 0, key, len};
    }
    t->entries[at].sum += n;
}

static uint64_t checksum_of(struct levee_slice key, int64_t sum)
{
    return hash_key(key.data, key.len) * ((uint64_t)sum + 1);
}

static uint64_t bare_checksum(const struct bare *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i <= t->mask; i++) {
        const struct bare_entry *e = &t->entries[i];
        sum += e->hash ? checksum_of(slice_of(e->key, e->len), e->sum) : 0;
    }
    return sum;
}

static inline bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void bare_all_words(struct bare *t, const struct input *in)
{
    for (size_t i = 0; i < in->count; i++) {
        const uint8_t *p = in->records[i].value.data, *end = p + in->records[i].value.len;
        while (p < end) {
            while (p < end && is_space(*p)) {
                p++;
            }
            const uint8_t *start = p;
            while (p < end && !is_space(*p)) {
                p++;
            }
            if (p > start) {
                size_t len = (size_t)(p - start);
                bare_add(t, hash_key(start, len), start, len, 1);
            }
        }
    }
}

static struct levee_slice first_word(struct levee_slice line)
{
    size_t n = 0;

    while (n < line.len && !is_space(line.data[n])) {
        n++;
    }
    return slice_of(line.data, n);
}

/* Hashes a vector, prefetches, then probes: the best simple loop for tables beyond the cache. */
static void bare_vectors(struct bare *t, const struct input *in, bool words)
{
    struct levee_slice keys[AHEAD];
    uint64_t hashes[AHEAD];

    for (size_t i = 0; i < in->count; i += AHEAD) {
        size_t n = in->count - i < AHEAD ? in->count - i : AHEAD;
        for (size_t k = 0; k < n; k++) {
            const struct levee_record *r = &in->records[i + k];
            keys[k] = words ? first_word(r->value) : r->key;
            hashes[k] = hash_key(keys[k].data, keys[k].len);
            __builtin_prefetch(&t->entries[hashes[k] & t->mask]);
        }
        for (size_t k = 0; k < n; k++) {
            int64_t v = words ? 1 : levee_i64(in->records[i + k].value);
            bare_add(t, hashes[k], keys[k].data, keys[k].len, v);
        }
    }
}

/* ---- the engine ---- */

struct bed {
    struct io *io;
    struct io_lane *loop;
    struct rt_graph *graph;
    struct rt_engine *engine;
    struct rt_compute compute;
    struct rt_input input;
    _Atomic bool done;
    uint64_t batch;
};

static void compute_done(struct rt_compute *c)
{
    struct bed *b = CONTAINER_OF(c, struct bed, compute);

    atomic_store(&b->done, true);
    b->io->ops->notify(b->io);
}

struct begin {
    struct io_task task;
    struct bed *bed;
};

static void begin(struct io_task *t)
{
    struct bed *b = CONTAINER_OF(t, struct begin, task)->bed;

    rt_engine_compute(b->engine, &b->compute);
}

static bool is_done(void *arg)
{
    return atomic_load(&((struct bed *)arg)->done);
}

/* One batch over blocks [first, first + count) of the input. */
static void run_batch(struct bed *b, const struct input *in, size_t first, size_t count)
{
    struct begin go = {.task = {.run = begin}, .bed = b};

    b->input = (struct rt_input){in->blocks + first, count};
    b->compute = (struct rt_compute){.header = {.id = ++b->batch, .time_ms = (int64_t)b->batch},
                                     .inputs = &b->input,
                                     .done = compute_done};
    atomic_store(&b->done, false);
    b->io->ops->lane_post(b->loop, &go.task);
    (void)b->io->ops->wait(b->io, is_done, b, UINT64_MAX);
    bench_must(b->compute.code == LEVEE_OK, b->compute.err.what);
}

static void bed_init(struct bed *b)
{
    *b = (struct bed){0};
    bench_must(io_posix_new(&b->io, NULL) == LEVEE_OK, "io");
    bench_must(b->io->ops->lane_open(b->io, "loop", &b->loop, NULL) == LEVEE_OK, "lane");
    b->graph = rt_graph_new(NULL, 8, 1000);
    bench_must(b->graph != NULL, "graph");
}

static levee_stream *bed_source(struct bed *b)
{
    return rt_graph_add(b->graph, RT_SOURCE, "source", "in", true, NULL, 0, __FILE__, __LINE__);
}

static void bed_open(struct bed *b, levee_stream *out)
{
    struct rt_engine_options o = {.io = b->io, .loop = b->loop, .workers = 1};
    struct levee_error err = {0};

    bench_must(rt_graph_add(b->graph, RT_SINK, "sink", "out", true, &out, 1, __FILE__, __LINE__) !=
                   NULL,
               b->graph->error.what);
    bench_must(rt_engine_open(b->graph, &o, &b->engine, &err) == LEVEE_OK, err.what);
}

static void bed_release(struct bed *b)
{
    b->io->ops->lane_close(b->loop);
    rt_engine_close(b->engine);
    rt_graph_free(b->graph);
    io_free(b->io);
}

static uint64_t output_checksum(const struct bed *b)
{
    uint64_t sum = 0;

    for (uint32_t p = 0; p < b->compute.outputs[0].partitions; p++) {
        const struct rt_records *part = &b->compute.outputs[0].parts[p];
        for (size_t i = 0; i < part->count; i++) {
            sum += checksum_of(part->items[i].key, levee_i64(part->items[i].value));
        }
    }
    return sum;
}

static int add_entry(void *arg, struct levee_slice key, struct levee_slice value)
{
    *(uint64_t *)arg += checksum_of(key, levee_i64(value));
    return 0;
}

static uint64_t state_checksum(const struct bed *b)
{
    uint64_t sum = 0;

    (void)rt_engine_each(b->engine, rt_uid_hash("totals"), add_entry, &sum);
    return sum;
}

/* ---- functions of the graphs ---- */

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int key_of(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit(out, first_word(line->value), slice_of(NULL, 0));
}

/* ---- rungs ---- */

static void rung_5a(size_t lines, size_t pairs)
{
    struct input in;
    struct bed bed;
    double *ratios = bench_alloc(pairs * sizeof *ratios), bare_best = 1e9, ours_best = 1e9;
    uint64_t allocations = 0;

    make_lines(&in, lines, 14, 10000);
    bed_init(&bed);
    bed_open(&bed,
             levee_reduce_by_key(levee_map_to_i64(levee_flat_map(bed_source(&bed), split, NULL), 1),
                                 &levee_sum_i64));
    for (size_t i = 0; i <= pairs; i++) { /* the first pair is cold and not counted */
        struct bare t = bare_new(65536);
        double from = bench_now();
        bare_all_words(&t, &in);
        double bare = bench_now() - from;
        uint64_t before = mem_count();
        from = bench_now();
        run_batch(&bed, &in, 0, in.block_count);
        double ours = bench_now() - from;
        allocations = mem_count() - before;
        bench_must(output_checksum(&bed) == bare_checksum(&t), "5a: the counts differ");
        rt_compute_release(bed.engine, &bed.compute);
        free(t.entries);
        if (i > 0) {
            ratios[i - 1] = bare / ours;
            bare_best = bare < bare_best ? bare : bare_best;
            ours_best = ours < ours_best ? ours : ours_best;
        }
    }
    bench_row(&(struct bench_goal){"5a",
                                   "engine alone: words counted per second / bare loop, 10 k words",
                                   0.85, 0.95, 0.98, false},
              ratios, pairs);
    double words = (double)lines * 14 / 1e6;
    (void)printf("     engine %.1f M words/s, bare %.1f M words/s; %.6f allocations per line\n",
                 words / ours_best, words / bare_best, (double)allocations / (double)lines);
    bed_release(&bed);
    input_release(&in);
    free(ratios);
}

/* Keyed state: one key per record into update_state_by_key, `batches` batches over the input. */
static void rung_keyed(const struct bench_goal *goal, bool words, size_t count, uint64_t keys,
                       size_t pairs)
{
    struct input in;
    struct bed bed;
    struct bare t = bare_new(keys * 2 < 65536 ? 65536 : (size_t)1 << 21);
    double *ratios = bench_alloc(pairs * sizeof *ratios), bare_best = 1e9, ours_best = 1e9;
    uint64_t allocations = 0;

    if (words) {
        make_lines(&in, count, 1, keys);
    } else {
        make_pairs(&in, count, keys);
    }
    bed_init(&bed);
    levee_stream *s = bed_source(&bed);
    s = words ? levee_map_to_i64(levee_flat_map(s, key_of, NULL), 1) : s;
    bed_open(&bed, levee_update_state_by_key(s, "totals", NULL, levee_update_sum_i64, NULL));
    for (size_t i = 0; i <= pairs; i++) {
        double from = bench_now();
        bare_vectors(&t, &in, words);
        double bare = bench_now() - from;
        uint64_t before = mem_count();
        from = bench_now();
        size_t step = in.block_count / 4 + 1;
        for (size_t b = 0; b < in.block_count; b += step) {
            run_batch(&bed, &in, b, in.block_count - b < step ? in.block_count - b : step);
            rt_compute_release(bed.engine, &bed.compute);
        }
        double ours = bench_now() - from;
        allocations = mem_count() - before;
        if (i > 0) {
            ratios[i - 1] = bare / ours;
            bare_best = bare < bare_best ? bare : bare_best;
            ours_best = ours < ours_best ? ours : ours_best;
        }
    }
    bench_must(state_checksum(&bed) == bare_checksum(&t), "the state differs");
    bench_row(goal, ratios, pairs);
    double n = (double)count / 1e6;
    (void)printf("     engine %.1f M records/s, bare %.1f M records/s; %.6f allocations per "
                 "record\n",
                 n / ours_best, n / bare_best, (double)allocations / (double)count);
    bed_release(&bed);
    input_release(&in);
    free(t.entries);
    free(ratios);
}

/* 9a: 1 M keys, 10 k of them dirty: how long gathering holds the next batch up. */
static void rung_9a(uint64_t keys, uint64_t dirty, size_t rounds)
{
    struct input all, some;
    struct bed bed;
    double *pauses = bench_alloc(rounds * sizeof *pauses);
    double *batches = bench_alloc(rounds * sizeof *batches);
    double *ratios = bench_alloc(rounds * sizeof *ratios);
    struct ckpt_slices *slices;
    size_t n;

    make_pairs(&all, keys * 4, keys);
    make_pairs(&some, dirty, keys);
    bed_init(&bed);
    bed_open(&bed, levee_update_state_by_key(bed_source(&bed), "totals", NULL, levee_update_sum_i64,
                                             NULL));
    run_batch(&bed, &all, 0, all.block_count);
    rt_compute_release(bed.engine, &bed.compute);
    bench_must(rt_engine_gather(bed.engine, &slices, &n, NULL) == LEVEE_OK, "gather");
    rt_engine_free_slices(slices, n);
    for (size_t i = 0; i < rounds; i++) {
        double from = bench_now();
        run_batch(&bed, &some, 0, some.block_count);
        batches[i] = bench_now() - from;
        rt_compute_release(bed.engine, &bed.compute);
        from = bench_now();
        bench_must(rt_engine_gather(bed.engine, &slices, &n, NULL) == LEVEE_OK, "gather");
        pauses[i] = bench_now() - from;
        ratios[i] = pauses[i] / 1e-3;
        bench_must(slices[0].entries > dirty / 2, "too few dirty keys");
        rt_engine_free_slices(slices, n);
    }
    bench_row(&(struct bench_goal){"9a",
                                   "pause of a gather, 1 M keys, 10 k dirty / a batch of 1 ms", 1.0,
                                   0.3, 0.1, true},
              ratios, rounds);
    (void)printf(
        "     pause median %.0f us, longest %.0f us; the batch that dirtied them %.0f us\n",
        bench_quantile(pauses, rounds, 0.5) * 1e6, bench_quantile(pauses, rounds, 1.0) * 1e6,
        bench_quantile(batches, rounds, 0.5) * 1e6);
    bed_release(&bed);
    input_release(&all);
    input_release(&some);
    free(pauses);
    free(batches);
    free(ratios);
}

/* The ladder's floors are for the whole path; the engine alone must be well above them. */
int main(int argc, char **argv)
{
    static const struct bench_goal keyed[] = {
        {"5b", "engine alone: one key per 100 B line, 1 M keys / bare loop", 0.6, 0.8, 0.9, false},
        {"5c", "engine alone: one key per 100 B line, 10 k keys / bare loop", 0.3, 0.4, 0.8, false},
        {"5e", "engine alone: 16 B records, 1 M keys / bare loop with prefetch", 0.65, 0.8, 0.95,
         false},
    };
    static const uint64_t keys[] = {1000000, 10000, 1000000};

    bench_init("bench_engine");
    size_t pairs = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : bench_quick ? 3 : BENCH_PAIRS;
    size_t size = bench_quick ? 10 : 1;
    pairs = pairs ? pairs : 1;
    if (bench_wanted("5a")) {
        rung_5a(100000 / size, pairs);
    }
    for (size_t i = 0; i < ARRAY_LEN(keyed); i++) {
        bool words = i < 2;
        if (bench_wanted(keyed[i].rung)) {
            rung_keyed(&keyed[i], words, (words ? 1000000 : 4000000) / size, keys[i], pairs);
        }
    }
    if (bench_wanted("9a")) {
        rung_9a(1000000 / size, 10000 / size, pairs);
    }
    return 0;
}
