/*
 * What the tests of the engine share: a machine (real lanes or the simulator), a graph whose
 * sources are fed from arrays, batches run one by one, and byte strings that live until the test
 * ends.
 */
#ifndef LEVEE_TEST_RT_H
#define LEVEE_TEST_RT_H

#include <stdio.h>
#include <stdlib.h>

#include "runtime/dataset.h"
#include "runtime/engine.h"
#include "runtime/exec.h"
#include "runtime/operator.h"
#include "tests/support/suite.h"

#define BED_SOURCES 4u

struct bed {
    struct io *io;
    struct io_lane *loop;
    struct rt_graph *graph;
    struct rt_engine *engine;
    struct rt_engine_options opt;
    struct rt_compute compute;
    struct rt_input inputs[BED_SOURCES];
    struct rt_block **blocks[BED_SOURCES];
    size_t block_cap[BED_SOURCES];
    levee_stream *sources[BED_SOURCES];
    uint64_t batch;
    _Atomic bool done;
    struct levee_error err;
};

/* seed 0: the real machine. */
static inline void bed_init(struct bed *b, uint32_t workers, uint64_t seed)
{
    *b = (struct bed){0};
    if (seed) {
        struct sim_faults f = {.seed = seed};
        MUST(io_sim_new(&f, &b->io, NULL) == LEVEE_OK);
    } else {
        MUST(io_posix_new(&b->io, NULL) == LEVEE_OK);
    }
    MUST(b->io->ops->lane_open(b->io, "loop", &b->loop, NULL) == LEVEE_OK);
    b->graph = rt_graph_new(NULL, 8, 1000);
    MUST(b->graph != NULL);
    b->opt = (struct rt_engine_options){.io = b->io, .loop = b->loop, .workers = workers};
}

static inline levee_stream *bed_source(struct bed *b, uint32_t partitions)
{
    char uid[16];
    size_t i = b->graph->source_count;

    MUST(i < BED_SOURCES);
    (void)snprintf(uid, sizeof uid, "source%zu", i);
    b->sources[i] =
        rt_graph_add(b->graph, RT_SOURCE, "source", uid, true, NULL, 0, __FILE__, __LINE__);
    MUST(b->sources[i] != NULL);
    b->sources[i]->partitions = partitions;
    return b->sources[i];
}

/* Returns the sink's ordinal. */
static inline size_t bed_sink(struct bed *b, levee_stream *s)
{
    char uid[16];

    (void)snprintf(uid, sizeof uid, "sink%zu", b->graph->sink_count);
    levee_stream *n = rt_graph_add(b->graph, RT_SINK, "sink", uid, true, &s, 1, __FILE__, __LINE__);
    if (!n) {
        ck_abort_msg("%s", b->graph->error.what);
    }
    return n->ordinal;
}

static inline int bed_open(struct bed *b)
{
    return rt_engine_open(b->graph, &b->opt, &b->engine, &b->err);
}

/* One more block for the next batch of a source. */
static inline void bed_feed(struct bed *b, size_t source, uint16_t partition,
                            const struct levee_record *records, size_t n)
{
    struct rt_input *in = &b->inputs[source];
    struct rt_block *block = rt_block_new((uint32_t)source, partition,
                                          RT_BLOCK_KEYS | RT_BLOCK_TIMES, slice_of(NULL, 0), 64);

    MUST(block != NULL);
    for (size_t i = 0; i < n; i++) {
        MUST(rt_block_add(block, &records[i], 0));
    }
    rt_block_seal(block);
    MUST(mem_grow((void **)&b->blocks[source], &b->block_cap[source], in->count + 1,
                  sizeof(struct rt_block *)));
    b->blocks[source][in->count++] = block;
    in->blocks = b->blocks[source];
}

/* Values only, into partition 0 of source 0. */
static inline void bed_feed_text(struct bed *b, const char *const *lines, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct levee_record r = {.value = slice_str(lines[i])};
        bed_feed(b, 0, 0, &r, 1);
    }
}

static inline void bed_drop_input(struct bed *b)
{
    for (size_t s = 0; s < BED_SOURCES; s++) {
        for (size_t i = 0; i < b->inputs[s].count; i++) {
            rt_block_free(b->blocks[s][i]);
        }
        b->inputs[s].count = 0;
    }
}

static inline void bed_done(struct rt_compute *c)
{
    struct bed *b = CONTAINER_OF(c, struct bed, compute);

    MUST(!atomic_load(&b->done));
    MUST(b->io->ops->lane_current(b->loop));
    atomic_store(&b->done, true);
    b->io->ops->notify(b->io);
}

struct bed_task {
    struct io_task task;
    struct bed *bed;
};

static inline void bed_begin(struct io_task *t)
{
    struct bed *b = CONTAINER_OF(t, struct bed_task, task)->bed;

    rt_engine_compute(b->engine, &b->compute);
    MUST(!atomic_load(&b->done)); /* later, never from in there */
}

static inline bool bed_is_done(void *arg)
{
    return atomic_load(&((struct bed *)arg)->done);
}

/* Runs what was fed as the next batch; b->compute is then as rt_engine_compute left it. What the
 * test has set in b->compute.apply* and .watermarks is used. Returns its code. */
static inline int bed_run(struct bed *b)
{
    struct bed_task go = {.task = {.run = bed_begin}, .bed = b};
    struct rt_compute c = {.inputs = b->inputs,
                           .apply = b->compute.apply,
                           .apply_count = b->compute.apply_count,
                           .apply_only = b->compute.apply_only,
                           .watermarks = b->compute.watermarks,
                           .done = bed_done};

    b->batch++;
    c.header = (struct rt_header){
        .id = b->batch, .time_ms = (int64_t)b->batch * 1000, .ticks = 1, .seed = b->batch * 77};
    b->compute = c;
    atomic_store(&b->done, false);
    b->io->ops->lane_post(b->loop, &go.task);
    MUST(b->io->ops->wait(b->io, bed_is_done, b, UINT64_MAX));
    return b->compute.code;
}

static inline void bed_end_batch(struct bed *b)
{
    rt_compute_release(b->engine, &b->compute);
    bed_drop_input(b);
    b->compute = (struct rt_compute){0};
}

static inline void bed_release(struct bed *b)
{
    if (b->engine) {
        bed_end_batch(b);
    }
    bed_drop_input(b);
    rt_engine_stop(b->engine);
    b->io->ops->lane_close(b->loop);
    rt_engine_close(b->engine);
    rt_graph_free(b->graph);
    for (size_t s = 0; s < BED_SOURCES; s++) {
        mem_free(b->blocks[s]);
    }
    io_free(b->io);
}

static inline const struct rt_dataset *bed_output(const struct bed *b, size_t sink)
{
    MUST(b->compute.code == LEVEE_OK);
    return &b->compute.outputs[sink];
}

/* Loads what one engine has gathered since the last time into another; NULL: only gathers. */
static inline void bed_copy_delta(struct bed *from, struct bed *to)
{
    struct ckpt_slices *s;
    size_t n;

    MUST(rt_engine_gather(from->engine, &s, &n, NULL) == LEVEE_OK);
    for (size_t t = 0; t < n && to; t++) {
        MUST(t == 0 || s[t - 1].table < s[t].table);
        for (size_t m = 0; m < s[t].mark_count; m++) {
            struct ckpt_slice_cursor c;
            struct ckpt_entry e;
            struct ckpt_slice_mark mark = s[t].marks[m];
            MUST(ckpt_slice_open(slice_of(s[t].bytes.data + mark.offset, mark.len), s[t].table,
                                 (uint32_t)m, &c, NULL) == LEVEE_OK);
            while (ckpt_slice_next(&c, &e)) {
                MUST(rt_engine_load(to->engine, s[t].table, &e, NULL) == LEVEE_OK);
            }
        }
    }
    rt_engine_free_slices(s, n);
}

/* What is present in one engine's tables into another's. */
static inline void bed_copy_state(const struct bed *from, struct bed *to)
{
    for (size_t i = 0; i < from->engine->table_count; i++) {
        const struct rt_table *t = &from->engine->tables[i];
        for (size_t at = 0; at < RT_KEY_GROUPS; at++) {
            for (uint32_t k = 0; k < t->groups[at].count; k++) {
                const struct rt_entry *e = &t->groups[at].entries[k];
                struct levee_slice key = rt_entry_key(e);
                struct ckpt_entry x = {.group = (uint32_t)at,
                                       .key = key,
                                       .value = rt_entry_value(e),
                                       .hash = hash_key(key.data, key.len),
                                       .touch_ms = e->touch_ms,
                                       .timer_ms = e->timer_ms};
                MUST(!e->present || rt_engine_load(to->engine, t->id, &x, NULL) == LEVEE_OK);
            }
        }
    }
}

/* A new life: tables and clocks of one into a fresh other, which is what a chain of checkpoints
 * comes to. `from` was on the heap and is gone. */
static inline void bed_hand_over(struct bed *from, struct bed *to)
{
    uint32_t tables[8];
    size_t n = from->engine->table_count;
    struct buf clocks = {0};

    MUST(n <= ARRAY_LEN(tables));
    for (size_t i = 0; i < n; i++) {
        tables[i] = from->engine->tables[i].id;
    }
    bed_copy_delta(from, NULL); /* its digest is then up to date */
    bed_copy_state(from, to);
    rt_engine_encode_clocks(from->engine, &clocks);
    MUST(clocks.len == 0 ||
         rt_engine_decode_clocks(to->engine, buf_view(&clocks), NULL) == LEVEE_OK);
    MUST(rt_engine_loaded(to->engine, tables, n, NULL) == LEVEE_OK);
    ck_assert_uint_eq(rt_engine_state_digest(to->engine), rt_engine_state_digest(from->engine));
    to->batch = from->batch;
    buf_release(&clocks);
    bed_release(from);
    free(from);
}

/* "key=value key=value|…" with one | between partitions; values of 8 bytes as numbers. */
static inline char *bed_show(const struct bed *b, size_t sink, char *buf, size_t size)
{
    const struct rt_dataset *d = bed_output(b, sink);
    size_t at = 0;

    buf[0] = 0;
    for (uint32_t p = 0; p < d->partitions; p++) {
        for (size_t i = 0; i < d->parts[p].count && at < size; i++) {
            const struct levee_record *r = &d->parts[p].items[i];
            at += (size_t)snprintf(buf + at, size - at, "%s%.*s=", i ? " " : "", (int)r->key.len,
                                   r->key.data ? (const char *)r->key.data : "");
            if (at < size && r->value.len == 8) {
                at += (size_t)snprintf(buf + at, size - at, "%lld", (long long)levee_i64(r->value));
            } else if (at < size) {
                at += (size_t)snprintf(buf + at, size - at, "%.*s", (int)r->value.len,
                                       r->value.data ? (const char *)r->value.data : "");
            }
        }
        if (p + 1 < d->partitions && at + 1 < size) {
            buf[at++] = '|';
            buf[at] = 0;
        }
    }
    return buf;
}

/* The sum of all partitions, for outputs whose place does not matter: records sorted as text. */
static inline int bed_by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}
static inline char *bed_show_sorted(const struct bed *b, size_t sink, char *buf, size_t size)
{
    char *words[256];
    size_t n = 0, at = 0;
    char *copy = malloc(size);

    MUST(copy != NULL);
    (void)bed_show(b, sink, copy, size);
    for (char *w = strtok(copy, "| "); w; w = strtok(NULL, "| ")) {
        MUST(n < ARRAY_LEN(words));
        words[n++] = w;
    }
    qsort(words, n, sizeof *words, bed_by_text);
    buf[0] = 0;
    for (size_t i = 0; i < n; i++) {
        at += (size_t)snprintf(buf + at, size - at, "%s%s", i ? " " : "", words[i]);
        MUST(at < size);
    }
    free(copy);
    return buf;
}

#endif
