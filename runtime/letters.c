/*
 * Dead letters: records that a function or a sink would not take. Each is decided once, with its
 * batch, and logged in the batch's BATCH_RESULT.
 *
 * What a function refused is known when the batch is computed (call.c). What a sink refuses is
 * known only when it is offered the batch, and BATCH_RESULT is durable by then. So the try ends
 * there (the sink aborts, nothing of it shows), the refused records leave the sink's output, and an
 * amended BATCH_RESULT with a higher try becomes durable before the sink is offered the batch again
 * (4d.5). A replay by the same program takes them out again before anything is compared.
 *
 * Where they go: into the store, which every checkpoint holds whole, or, when the graph has sinks
 * on levee_dead_letters, to those as their output of the batch. They are called for a batch after
 * all other sinks have it, for only then are its letters complete. A letter that such a sink
 * refuses itself goes to the store.
 *
 * A range that a source skipped for good (levee_inlet_gap) is a letter as well, of the batch that
 * takes it: the log has it as a block, so nothing of it needs to be decided.
 *
 * Invariants. L1  a checkpoint of batch b holds the letters of batches up to b and no others,
 * whenever they were decided: what is refused after the candidate was gathered is added to it. L2
 * the place of a refused record is its place in the output as computed, whatever left before it.
 */
#include <stdlib.h>

#include "runtime/exec.h"

#include "runtime/context.h"

#define LETTERS_MAX       100000u
#define LETTERS_BYTES_MAX (64u << 20)

/* ---- the store ---- */

static int store_full(const struct rt_batch *b, struct levee_error *err)
{
    const levee_context *ctx = b->ctx;

    err_set(err, LEVEE_ELIMIT, "batch %llu: the dead-letter store is full",
            (unsigned long long)b->header.id);
    err_expected(err, "at most %u records in %u bytes", LETTERS_MAX, LETTERS_BYTES_MAX);
    err_found(err, "%llu records, %zu bytes", (unsigned long long)ctx->letters.count,
              ctx->letters.bytes.len);
    return LEVEE_ELIMIT;
}

static void encode(uint64_t batch, const struct rt_decision *d, const struct rt_origin *o,
                   struct buf *ret)
{
    buf_u64(ret, batch);
    rt_decision_encode(d, ret);
    rt_origin_encode(o, ret);
}

static int store(struct rt_batch *b, const struct rt_decision *d, const struct rt_origin *o,
                 struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    struct rt_ckpt *c = &ctx->ckpt;

    if (ctx->letters.count >= LETTERS_MAX || ctx->letters.bytes.len > LETTERS_BYTES_MAX) {
        return store_full(b, err);
    }
    encode(b->header.id, d, o, &ctx->letters.bytes);
    ctx->letters.count++;
    if (c->stage == RT_CKPT_GATHERED && b->header.id <= c->batch) { /* L1 */
        encode(b->header.id, d, o, &c->letters.bytes);
        c->letters.count++;
    }
    return ctx->letters.bytes.failed || c->letters.bytes.failed
               ? err_nomem(err, ctx->letters.bytes.len)
               : LEVEE_OK;
}

void rt_letters_encode(const struct rt_letters *l, struct buf *ret)
{
    buf_u64(ret, l->count);
    buf_put(ret, l->bytes.data, l->bytes.len);
}

int rt_letters_decode(struct rt_letters *l, struct levee_slice bytes, struct levee_error *err)
{
    struct cursor c = cursor_of(bytes);

    l->count = cur_u64(&c);
    if (c.bad) {
        return err_set(err, LEVEE_ECKPT_CORRUPT, "stored dead letters do not parse");
    }
    buf_clear(&l->bytes);
    buf_put(&l->bytes, c.p, cur_left(&c));
    return l->bytes.failed ? err_nomem(err, bytes.len) : LEVEE_OK;
}

/* ---- sinks that take them ---- */

bool rt_takes_letters(const struct rt_sink *s)
{
    return s->node->parents[0]->kind == RT_LETTERS;
}

static bool any_takes_letters(const struct rt_graph *g)
{
    for (size_t i = 0; i < g->sink_count; i++) {
        if (rt_takes_letters(g->sinks[i]->sink)) {
            return true;
        }
    }
    return false;
}

static struct rt_sink *sink_of(const struct rt_graph *g, uint32_t node_hash)
{
    for (size_t i = 0; i < g->sink_count; i++) {
        if (rt_node_hash(g->sinks[i], 0) == node_hash) {
            return g->sinks[i]->sink;
        }
    }
    return NULL;
}

/* The letter as a record: its value is batch, decision and origin. */
static bool add_letter(struct rt_batch *b, const struct rt_decision *d, const struct rt_origin *o,
                       struct rt_records *ret)
{
    struct buf bytes = {0};

    encode(b->header.id, d, o, &bytes);
    const uint8_t *copy = bytes.failed ? NULL : arena_copy(&b->letters, bytes.data, bytes.len);
    struct levee_record r = {.key = d->key, .value = slice_of(copy, bytes.len)};
    buf_release(&bytes);
    if (!copy || !mem_grow((void **)&ret->items, &ret->cap, ret->count + 1, sizeof r)) {
        return false;
    }
    ret->items[ret->count++] = r;
    return true;
}

static bool add_decided(struct rt_batch *b, const struct rt_decision *d, struct rt_records *ret)
{
    struct rt_origin o;

    rt_origin_of(b, d, &o);
    return add_letter(b, d, &o, ret);
}

static bool add_gaps(struct rt_batch *b, struct rt_records *ret)
{
    struct rt_decision d;
    struct rt_origin o;
    bool ok = true;

    for (size_t at = 0; ok && rt_next_gap(b, &at, &d, &o);) {
        ok = add_letter(b, &d, &o, ret);
    }
    return ok;
}

/* All letters of the batch: gaps, then the others in order of their places, whenever each was
 * decided: a replay finds them in one go. Those of sinks that take letters themselves are not among
 * them. */
static bool fill(struct rt_batch *b, struct rt_records *ret)
{
    const struct rt_compute *c = &b->compute;
    size_t at = 0;

    ret->count = 0;
    bool ok = add_gaps(b, ret);
    for (size_t i = 0; i <= c->decision_count && ok; i++) {
        const struct rt_decision *next = i < c->decision_count ? &c->decisions[i] : NULL;
        for (; at < b->refusal_count && ok; at++) {
            const struct rt_decision *d = &b->refusals[at];
            if (next && rt_decision_order(d, next) > 0) {
                break;
            }
            const struct rt_sink *by = sink_of(b->ctx->graph, d->node_uid_hash);
            ok = (by && rt_takes_letters(by)) || add_decided(b, d, ret);
        }
        ok = ok && (!next || add_decided(b, next, ret));
    }
    return ok;
}

/* The output of every sink that takes letters. None of them is at work: they wait for the others.
 */
static int give_letters(struct rt_batch *b, struct levee_error *err)
{
    const struct rt_graph *g = b->ctx->graph;

    arena_reset(&b->letters);
    for (size_t i = 0; i < g->sink_count; i++) {
        if (!rt_takes_letters(g->sinks[i]->sink)) {
            continue;
        }
        if (!fill(b, &b->compute.outputs[i].parts[0])) {
            return err_nomem(err, b->refusal_count * sizeof(struct levee_record));
        }
        rt_run_digest(&b->compute, i);
        if (b->stage == RT_SINKING && b->sink_done[i] && b->compute.output_records[i]) {
            b->sink_done[i] = false; /* there was nothing for it until now */
            b->sinks_left++;
        }
    }
    return LEVEE_OK;
}

static int keep(struct rt_batch *b, const struct rt_decision *d, const struct rt_origin *o,
                struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    const struct rt_sink *by = sink_of(ctx->graph, d->node_uid_hash);
    bool to_sinks = any_takes_letters(ctx->graph) && !(by && rt_takes_letters(by));

    rt_say(ctx, 1, "batch %llu: dead letter at %s, partition %u, record %llu, code %d",
           (unsigned long long)b->header.id, d->uid, d->partition, (unsigned long long)d->index,
           d->code);
    counter_add(&ctx->count.dead_letters, 1);
    return to_sinks ? LEVEE_OK : store(b, d, o, err);
}

static int keep_decided(struct rt_batch *b, const struct rt_decision *d, struct levee_error *err)
{
    struct rt_origin o;

    rt_origin_of(b, d, &o);
    return keep(b, d, &o, err);
}

static int keep_gaps(struct rt_batch *b, struct levee_error *err)
{
    struct rt_decision d;
    struct rt_origin o;
    int code = LEVEE_OK;

    for (size_t at = 0; code == LEVEE_OK && rt_next_gap(b, &at, &d, &o);) {
        code = keep(b, &d, &o, err);
    }
    return code;
}

/* ---- what a sink refused ---- */

/* Where the record that was offered as number `place` lay when it was computed (L2). refusals of
 * one sink and partition are sorted by index. */
static uint64_t original_index(const struct rt_batch *b, uint32_t hash, uint32_t partition,
                               uint64_t place)
{
    for (size_t i = 0; i < b->refusal_count; i++) {
        const struct rt_decision *d = &b->refusals[i];
        if (d->node_uid_hash == hash && d->partition == partition && d->index <= place) {
            place++;
        }
    }
    return place;
}

static void take_out(struct rt_dataset *output, const struct rt_decision *d, uint64_t place)
{
    struct rt_records *part = &output->parts[d->partition];

    ASSERT(place < part->count);
    part->count--;
    memmove(&part->items[place], &part->items[place + 1],
            (part->count - place) * sizeof *part->items);
}

static int add_refusal(struct rt_batch *b, const struct rt_decision *d, struct levee_error *err)
{
    void *all = b->refusals;
    size_t at = b->refusal_count;

    if (!mem_grow(&all, &b->refusal_cap, b->refusal_count + 1, sizeof *b->refusals)) {
        return err_nomem(err, sizeof *b->refusals);
    }
    b->refusals = all;
    for (; at > 0 && rt_decision_order(d, &b->refusals[at - 1]) < 0; at--) {
        b->refusals[at] = b->refusals[at - 1];
    }
    b->refusals[at] = *d;
    b->refusal_count++;
    return LEVEE_OK;
}

/* Takes the record at `place` of the partition out of the sink's output, as a letter. The output's
 * digest is taken anew by the caller, when all of them are out. */
static int refuse(struct rt_batch *b, struct rt_sink *s, struct rt_decision *d, uint64_t place,
                  struct levee_error *err)
{
    struct rt_dataset *output = &b->compute.outputs[s->ordinal];
    const struct levee_record *r = &output->parts[d->partition].items[place];

    rt_decision_name(d, s->node, 0);
    d->index = original_index(b, d->node_uid_hash, d->partition, place);
    d->key = r->key;
    d->value = r->value;
    int code = add_refusal(b, d, err);
    if (code) {
        return code;
    }
    take_out(output, d, place);
    return keep_decided(b, d, err);
}

static int by_place_falling(const void *a, const void *b)
{
    const struct levee_refusal *x = a, *y = b;

    return (x->index < y->index) - (x->index > y->index);
}

int rt_letters_refused(struct rt_sink *s, struct levee_error *err)
{
    struct rt_batch *b = s->batch;
    struct levee_refusal *list = s->refusals;
    const struct rt_dataset *output = &b->compute.outputs[s->ordinal];
    size_t n = s->refusal_count;

    if (b->ctx->opt.on_failure != LEVEE_DEAD_LETTER) {
        return s->code; /* stop, with the sink's own words */
    }
    if (n == 0) {
        return err_set(err, LEVEE_ESINK_FAILED, "sink %s refused a record without naming it",
                       s->node->uid);
    }
    /* From the last to the first, so that a removal moves nothing that is still to be removed. */
    qsort(list, n, sizeof *list, by_place_falling);
    for (size_t i = 0; i < n; i++) {
        uint64_t place = list[i].index;
        struct rt_decision d = {.code = list[i].code, .attempts = 1};
        while (d.partition < output->partitions && place >= output->parts[d.partition].count) {
            place -= output->parts[d.partition++].count;
        }
        if (d.partition == output->partitions || (i && list[i].index == list[i - 1].index)) {
            err_set(err, LEVEE_ESINK_FAILED, "sink %s refused a record that it was not offered",
                    s->node->uid);
            err_found(err, "record %llu", (unsigned long long)list[i].index);
            return LEVEE_ESINK_FAILED;
        }
        int code = refuse(b, s, &d, place, err);
        if (code) {
            return code;
        }
    }
    rt_run_digest(&b->compute, s->ordinal);
    int code = give_letters(b, err);
    return code ? code : rt_batch_amend(b, err);
}

/* ---- a batch that was just computed ---- */

/* What sinks refused when the batch first ran, under the same program. */
static int refuse_again(struct rt_batch *b, struct levee_error *err)
{
    const struct rt_sink *last = NULL;

    for (size_t i = b->compute.apply_count; i-- > 0;) {
        struct rt_decision d = b->compute.apply[i];
        struct rt_sink *s = sink_of(b->ctx->graph, d.node_uid_hash);
        const struct rt_dataset *output = s ? &b->compute.outputs[s->ordinal] : NULL;
        if (!s || d.partition >= output->partitions ||
            d.index >= output->parts[d.partition].count) {
            continue; /* a function's; or another output, which the comparison will find */
        }
        if (last && last != s) {
            rt_run_digest(&b->compute, last->ordinal);
        }
        last = s;
        /* Sorted by place and taken from the last: nothing before this one has left yet. */
        int code = refuse(b, s, &d, d.index, err);
        if (code) {
            return code;
        }
    }
    if (last) {
        rt_run_digest(&b->compute, last->ordinal);
    }
    return LEVEE_OK;
}

int rt_letters_computed(struct rt_batch *b, struct levee_error *err)
{
    int code = keep_gaps(b, err);

    for (size_t i = 0; i < b->compute.decision_count && code == LEVEE_OK; i++) {
        code = keep_decided(b, &b->compute.decisions[i], err);
    }
    code = code ? code : refuse_again(b, err);
    return code ? code : give_letters(b, err);
}

/* ---- the public side ---- */

levee_stream *levee_dead_letters_at(levee_context *ctx, const char *file, int line)
{
    struct rt_graph *g = rt_context_graph(ctx);

    for (size_t i = 0; g && i < g->count; i++) {
        if (g->nodes[i]->kind == RT_LETTERS) {
            return g->nodes[i];
        }
    }
    return rt_graph_add(g, RT_LETTERS, "dead_letters", NULL, false, NULL, 0, file, line);
}

static bool next_letter(struct cursor *c, struct levee_dead_letter *ret)
{
    struct rt_decision d;
    struct rt_origin o;

    ret->batch = cur_u64(c);
    if (!rt_decision_decode(c, &d) || !rt_origin_decode(c, &o)) {
        return false;
    }
    memcpy(ret->uid, d.uid, sizeof ret->uid);
    ret->partition = d.partition;
    ret->index = d.index;
    ret->code = d.code;
    ret->attempts = d.attempts;
    ret->key = d.key;
    ret->value = d.value;
    memcpy(ret->source, o.source, sizeof ret->source);
    ret->producer = o.producer;
    ret->first = o.first;
    ret->last = o.last;
    return true;
}

bool levee_dead_letter_of(const struct levee_record *record, struct levee_dead_letter *ret)
{
    struct cursor c = cursor_of(record->value);
    struct levee_dead_letter letter;

    if (!next_letter(&c, &letter) || cur_left(&c)) {
        return false;
    }
    *ret = letter;
    return true;
}

int levee_dead_letters_each(levee_context *ctx,
                            int (*each)(void *arg, const struct levee_dead_letter *letter),
                            void *arg, struct levee_error *err)
{
    if (!ctx || !each) {
        return err_set(err, LEVEE_EINVALID, "levee_dead_letters_each: an argument is NULL");
    }
    if (atomic_load(&ctx->life) != RT_STOPPED) {
        return err_set(err, LEVEE_ESTATE, "levee_dead_letters_each: the context is %s",
                       rt_life_name((enum rt_life)atomic_load(&ctx->life)));
    }
    struct cursor c = cursor_of(buf_view(&ctx->letters.bytes));
    struct levee_dead_letter letter;
    int rc = 0;
    while (rc == 0 && cur_left(&c) && next_letter(&c, &letter)) {
        rc = each(arg, &letter);
    }
    return rc;
}
