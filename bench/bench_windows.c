/*
 * Windows, the engine alone: does a slide cost what changes, or what is in the window? Two jobs run
 * in turn over the same input, one with a window of 10 batches, one with a window of 1,000, both
 * sliding by one batch, with 100 k keys of which every fifth comes in a batch. Both show all keys
 * on every slide, so what differs is how much lies behind each of them: 2 parts, or 200.
 *
 * A pair is STEP slides of each, the long window over the short one; before the first pair the long
 * window has been filled, so that as much leaves as comes. The sum of every output is compared with
 * what the definition of a window gives. A slide that is much longer than the others would show in
 * the line below a row: the longest of all slides that were timed.
 *
 *   bench_windows [pairs]
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "runtime/engine.h"

#define BLOCK_BYTES (128u << 10)
#define PHASES      5u  /* a key comes in one of so many batches */
#define SHORT       10u /* batches */
#define STEP        10u /* slides of a pair */

/* ---- input: one run of blocks per phase ---- */

struct phase {
    struct rt_block **blocks;
    size_t count, cap;
};
struct input {
    struct phase phases[PHASES];
    int64_t sum; /* of one round through the phases */
};

static void phase_add(struct phase *p, const struct levee_record *r)
{
    struct rt_block *b = p->count ? p->blocks[p->count - 1] : NULL;

    if (!b || b->payload.len + r->key.len + r->value.len > BLOCK_BYTES) {
        if (b) {
            rt_block_seal(b);
        }
        bench_must(mem_grow((void **)&p->blocks, &p->cap, p->count + 1, sizeof(b)), "mem");
        b = rt_block_new(0, 0, RT_BLOCK_KEYS, slice_of(NULL, 0), BLOCK_BYTES);
        bench_must(b != NULL, "no memory for a block");
        p->blocks[p->count++] = b;
    }
    bench_must(rt_block_add(b, r, 0), "no memory for a record");
}

static void input_make(struct input *in, uint64_t keys)
{
    *in = (struct input){.sum = 0};
    for (uint64_t k = 0; k < keys; k++) {
        uint8_t key[8], value[8];
        int64_t n = (int64_t)(k & 1023);
        put_le64(key, k);
        put_le64(value, (uint64_t)n);
        struct levee_record r = {.key = slice_of(key, 8), .value = slice_of(value, 8)};
        phase_add(&in->phases[k % PHASES], &r);
        in->sum += n;
    }
    for (size_t i = 0; i < PHASES; i++) {
        rt_block_seal(in->phases[i].blocks[in->phases[i].count - 1]);
    }
}

static void input_release(struct input *in)
{
    for (size_t i = 0; i < PHASES; i++) {
        for (size_t k = 0; k < in->phases[i].count; k++) {
            rt_block_free(in->phases[i].blocks[k]);
        }
        mem_free(in->phases[i].blocks);
    }
}

/* ---- a job ---- */

struct job {
    struct io *io;
    struct io_lane *loop;
    struct io_task begin;
    struct rt_graph *graph;
    struct rt_engine *engine;
    struct rt_compute compute;
    struct rt_input input;
    _Atomic bool done;
    uint32_t length; /* of the window, in batches */
    uint64_t batch, keys;
};

static void compute_done(struct rt_compute *c)
{
    struct job *j = CONTAINER_OF(c, struct job, compute);

    atomic_store(&j->done, true);
    j->io->ops->notify(j->io);
}

static void begin(struct io_task *t)
{
    struct job *j = CONTAINER_OF(t, struct job, begin);

    rt_engine_compute(j->engine, &j->compute);
}

static bool is_done(void *arg)
{
    return atomic_load(&((struct job *)arg)->done);
}

static void job_open(struct job *j, uint32_t length, uint64_t keys, bool inverse)
{
    struct levee_window w = {.length_ms = length * 1000, .slide_ms = 1000, .inverse = inverse};
    struct levee_error err = {0};

    *j = (struct job){.length = length, .keys = keys, .begin = {.run = begin}};
    bench_must(io_posix_new(&j->io, NULL) == LEVEE_OK, "io");
    bench_must(j->io->ops->lane_open(j->io, "loop", &j->loop, NULL) == LEVEE_OK, "lane");
    j->graph = rt_graph_new(NULL, 8, 1000);
    bench_must(j->graph != NULL, "graph");
    levee_stream *s =
        rt_graph_add(j->graph, RT_SOURCE, "source", "in", true, NULL, 0, __FILE__, __LINE__);
    s = levee_reduce_by_key_and_window(s, "window", &levee_sum_i64, &w);
    bench_must(rt_graph_add(j->graph, RT_SINK, "sink", "out", true, &s, 1, __FILE__, __LINE__) !=
                   NULL,
               j->graph->error.what);
    struct rt_engine_options o = {.io = j->io, .loop = j->loop, .workers = 1};
    bench_must(rt_engine_open(j->graph, &o, &j->engine, &err) == LEVEE_OK, err.what);
}

static void job_release(struct job *j)
{
    j->io->ops->lane_close(j->loop);
    rt_engine_close(j->engine);
    rt_graph_free(j->graph);
    io_free(j->io);
}

/* Once the window is a number of whole rounds long, every key has had its value once per round. */
static void check_output(const struct job *j, const struct input *in)
{
    uint64_t inside = j->batch < j->length ? j->batch : j->length;
    int64_t sum = 0;
    uint64_t count = 0;

    for (uint32_t p = 0; p < j->compute.outputs[0].partitions; p++) {
        const struct rt_records *part = &j->compute.outputs[0].parts[p];
        for (size_t i = 0; i < part->count; i++) {
            sum += levee_i64(part->items[i].value);
        }
        count += part->count;
    }
    if (inside % PHASES == 0) {
        bench_must(count == j->keys && sum == in->sum * (int64_t)(inside / PHASES),
                   "a window's sums are wrong");
    }
}

/* One batch, from its begin to its result. */
static struct bench_time slide(struct job *j, const struct input *in)
{
    const struct phase *p = &in->phases[j->batch++ % PHASES];

    j->input = (struct rt_input){p->blocks, p->count};
    j->compute =
        (struct rt_compute){.header = {.id = j->batch, .time_ms = (int64_t)j->batch * 1000},
                            .inputs = &j->input,
                            .done = compute_done};
    atomic_store(&j->done, false);
    struct bench_time from = bench_start();
    j->io->ops->lane_post(j->loop, &j->begin);
    (void)j->io->ops->wait(j->io, is_done, j, UINT64_MAX);
    struct bench_time took = bench_since(from);
    bench_must(j->compute.code == LEVEE_OK, j->compute.err.what);
    check_output(j, in);
    rt_compute_release(j->engine, &j->compute);
    return took;
}

/* ---- rungs ---- */

struct pair {
    struct job jobs[2]; /* the short window, the long one */
    double *times[2];   /* of single slides, wall */
    double wall, cpu;   /* ratios of the last pair */
};

static void run_pair(struct pair *p, const struct input *in, size_t at)
{
    struct bench_time sum[2] = {{0, 0}, {0, 0}};

    for (size_t k = 0; k < STEP; k++) {
        for (size_t i = 0; i < 2; i++) {
            struct bench_time t = slide(&p->jobs[i], in);
            p->times[i][at * STEP + k] = t.wall;
            sum[i].wall += t.wall;
            sum[i].cpu += t.cpu;
        }
    }
    p->wall = sum[1].wall / sum[0].wall;
    p->cpu = sum[1].cpu / sum[0].cpu;
}

static void rung(const struct bench_goal *goal, uint64_t keys, uint32_t length, bool inverse,
                 size_t pairs)
{
    static const char *const names[] = {"short", "long"};
    struct input in;
    struct pair p;
    double *wall = bench_alloc(pairs * sizeof *wall), *cpu = bench_alloc(pairs * sizeof *cpu);

    input_make(&in, keys);
    for (size_t i = 0; i < 2; i++) {
        p.times[i] = bench_alloc(pairs * STEP * sizeof(double));
        job_open(&p.jobs[i], i ? length : SHORT, keys, inverse);
        for (uint32_t k = 0; k < p.jobs[i].length + 2 * PHASES; k++) { /* then in the same phase */
            (void)slide(&p.jobs[i], &in);
        }
    }
    for (size_t i = 0; i < pairs; i++) {
        run_pair(&p, &in, i);
        wall[i] = p.wall;
        cpu[i] = p.cpu;
    }
    bench_row(goal, wall, pairs);
    bench_aside("the same by processor time", cpu, pairs);
    for (size_t i = 0; i < 2; i++) {
        size_t n = pairs * STEP;
        (void)printf("     %s window, %u batches: a slide %.2f ms, longest %.2f ms\n", names[i],
                     p.jobs[i].length, bench_median(p.times[i], n) * 1e3,
                     bench_quantile(p.times[i], n, 1.0) * 1e3);
        job_release(&p.jobs[i]);
        free(p.times[i]);
    }
    input_release(&in);
    free(wall);
    free(cpu);
}

int main(int argc, char **argv)
{
    static const struct bench_goal goals[] = {
        {"win-inverse", "a slide of 1,000 batches / of 10, with inverse, 100 k keys", 1.2, 1.1,
         1.05, true},
        {"win-stacks", "a slide of 1,000 batches / of 10, without inverse, 100 k keys", 1.5, 1.3,
         1.1, true},
    };

    bench_init("bench_windows");
    size_t pairs = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : bench_quick ? 3 : BENCH_PAIRS;
    pairs = pairs ? pairs : 1;
    for (size_t i = 0; i < ARRAY_LEN(goals); i++) {
        if (bench_wanted(goals[i].rung)) {
            rung(&goals[i], bench_quick ? 5000 : 100000, bench_quick ? 100 : 1000, i == 0, pairs);
        }
    }
    return 0;
}
