/*
 * The engine against a model: random graphs of random operators over random input are built twice,
 * once through the public builders, once for a naive interpreter. Every record of every node's
 * output in every batch must be equal, in order and partition, and so must digests and gathered
 * state, whatever the number of workers and on any schedule.
 */
#include "tests/unit/test_rt_model.h"

static levee_stream *build_two(enum op op, levee_stream *a, levee_stream *b)
{
    levee_stream *left = levee_map_partitions(a, fn_first_three, NULL);
    levee_stream *right = levee_map_partitions(b, fn_first_three, NULL);

    if (op == OP_COGROUP) {
        return levee_cogroup(left, right);
    }
    if (op == OP_SORTED) {
        return levee_transform_with(left, right, fn_sorted, NULL);
    }
    return levee_join(left, right,
                      op == OP_JOIN    ? LEVEE_INNER
                      : op == OP_LEFT  ? LEVEE_LEFT_OUTER
                      : op == OP_RIGHT ? LEVEE_RIGHT_OUTER
                                       : LEVEE_FULL_OUTER);
}

static levee_stream *build_state(enum op op, levee_stream *a, const char *uid)
{
    static const struct levee_state_options every = {.every_key = true};

    switch ((int)op) {
    case OP_STATE_SUM:
        return levee_update_state_by_key(a, uid, NULL, levee_update_sum_i64, NULL);
    case OP_STATE_TALLY:
        return levee_update_state_by_key(a, uid, NULL, fn_tally, NULL);
    case OP_STATE_TALLY_EVERY:
        return levee_update_state_by_key(a, uid, &every, fn_tally, NULL);
    case OP_STATE_LOG:
        return levee_update_state_by_key(a, uid, NULL, fn_log, NULL);
    case OP_TALLY_ALL:
        return levee_update_state_by_partition(a, uid, NULL, fn_tally_all, NULL);
    case OP_TALLY_ALL_EVERY:
        return levee_update_state_by_partition(a, uid, &every, fn_tally_all, NULL);
    case OP_VISIT:
        return levee_map_with_state(a, uid, NULL, fn_visit, NULL);
    case OP_VISIT_TIMED:
        return levee_map_with_state(a, uid, &(struct levee_map_state_options){.timeout_ms = 1000},
                                    fn_visit, NULL);
    case OP_SNAPSHOTS:
        return levee_state_snapshots(a);
    default:
        return NULL;
    }
}

static levee_stream *build_reduced(enum op op, levee_stream *a)
{
    switch ((int)op) {
    case OP_SUM:
        return levee_reduce_by_key(a, &levee_sum_i64);
    case OP_COUNT_KEY:
        return levee_reduce_by_key(a, &levee_count_values);
    case OP_MIN:
        return levee_reduce_by_key(a, &levee_min_i64);
    case OP_CONCAT:
        return levee_reduce_by_key(a, &levee_concat);
    case OP_COUNT_VALUE:
        return levee_count_by_value(a);
    case OP_COMBINE:
        return levee_combine_by_key(a, &span);
    case OP_SPAN:
        return levee_reduce_by_key(a, &span);
    case OP_GROUP:
        return levee_group_by_key(a);
    case OP_COUNT:
        return levee_count(a);
    case OP_REDUCE_CONCAT:
        return levee_reduce(a, &levee_concat);
    case OP_REDUCE_SUM:
        return levee_reduce(a, &levee_sum_i64);
    default:
        return NULL;
    }
}

static levee_stream *build(enum op op, levee_stream *a, levee_stream *b, const char *uid)
{
    levee_stream *both[2] = {a, b};

    switch (op) {
    case OP_WORDS:
        return levee_flat_map(a, fn_words, NULL);
    case OP_SWAP:
        return levee_map(a, fn_swap, NULL);
    case OP_ODD:
        return levee_filter(a, fn_odd, NULL);
    case OP_LENGTH:
        return levee_map_values(a, fn_length, NULL);
    case OP_SEVEN:
        return levee_map_to_i64(a, 7);
    case OP_TWICE:
        return levee_flat_map_many(a, fn_twice, NULL);
    case OP_SOME_VALUES:
        return levee_flat_map_values(a, fn_some_values, NULL);
    case OP_CENSUS:
        return levee_map_partitions(a, fn_census, NULL);
    case OP_FIRST_THREE:
        return levee_map_partitions(a, fn_first_three, NULL);
    case OP_GLOM:
        return levee_glom(a);
    case OP_UNION:
        return levee_union(both, 2);
    case OP_TURNS:
        return levee_repartition(a, 5);
    case OP_PLACED:
        return levee_repartition_by(a, 3, place_by_key, NULL);
    case OP_COGROUP:
    case OP_JOIN:
    case OP_LEFT:
    case OP_RIGHT:
    case OP_FULL:
    case OP_SORTED:
        return build_two(op, a, b);
    case OP_SUM:
    case OP_COUNT_KEY:
    case OP_MIN:
    case OP_CONCAT:
    case OP_COUNT_VALUE:
    case OP_COMBINE:
    case OP_SPAN:
    case OP_GROUP:
    case OP_COUNT:
    case OP_REDUCE_CONCAT:
    case OP_REDUCE_SUM:
        return build_reduced(op, a);
    case OP_STATE_SUM:
    case OP_STATE_TALLY:
    case OP_STATE_TALLY_EVERY:
    case OP_STATE_LOG:
    case OP_TALLY_ALL:
    case OP_TALLY_ALL_EVERY:
    case OP_VISIT:
    case OP_VISIT_TIMED:
    case OP_SNAPSHOTS:
        return build_state(op, a, uid);
    case OP_END:
        break;
    }
    ck_abort_msg("no such operation");
    return NULL;
}

/* ---- random graphs ---- */

#define NODES 14u

struct plan { /* nodes 0 and 1 are sources */
    enum op ops[NODES];
    uint32_t a[NODES], b[NODES];
    uint32_t keyed[NODES]; /* partitions, where the operator is one by key */
    uint32_t partitions[NODES];
    uint32_t count;
};

static uint64_t below(uint64_t *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

static bool has_state(const struct plan *p, uint32_t node)
{
    return node >= 2 && p->ops[node] >= OP_STATE_SUM && p->ops[node] < OP_SNAPSHOTS;
}

static void make_plan(struct plan *p, uint64_t *rng)
{
    p->count = 4 + (uint32_t)below(rng, NODES - 4);
    p->partitions[0] = 1 + (uint32_t)below(rng, 3);
    p->partitions[1] = 1 + (uint32_t)below(rng, 4);
    for (uint32_t i = 2; i < p->count; i++) {
        do {
            static const uint32_t keyed[] = {8, 1, 3, 13};
            p->ops[i] = (enum op)below(rng, OP_END);
            p->a[i] = (uint32_t)below(rng, i);
            p->b[i] = (uint32_t)below(rng, i);
            p->keyed[i] = keyed[below(rng, ARRAY_LEN(keyed))];
            p->partitions[i] = partitions_of(p->ops[i], p->partitions[p->a[i]],
                                             p->partitions[p->b[i]], p->keyed[i]);
        } while (p->partitions[i] > 40 || (p->ops[i] == OP_SNAPSHOTS && !has_state(p, p->a[i])));
    }
}

/* Every node has a sink of its own, so that every edge is looked at. */
static void build_plan(const struct plan *p, struct bed *b)
{
    levee_stream *nodes[NODES];
    char uid[16];

    for (uint32_t i = 0; i < p->count; i++) {
        (void)snprintf(uid, sizeof uid, "node%u", i);
        nodes[i] = i < 2 ? bed_source(b, p->partitions[i])
                         : build(p->ops[i], nodes[p->a[i]], nodes[p->b[i]], uid);
        if (i >= 2 && p->ops[i] > OP_PLACED && !is_to_one(p->ops[i]) &&
            (p->keyed[i] != 8 || p->ops[i] == OP_SNAPSHOTS || p->ops[i] == OP_SORTED)) {
            nodes[i] = levee_partitions(nodes[i], p->keyed[i]);
        }
        if (!nodes[i]) {
            ck_abort_msg("node %u: %s", i, b->graph->error.what);
        }
        MUST(nodes[i]->partitions == p->partitions[i]);
        MUST(bed_sink(b, nodes[i]) == i);
    }
}

/* Lines of a small vocabulary, some keys and values absent or empty, some long. */
static struct rec make_record(uint64_t *rng, int64_t time)
{
    static const char *const words[] = {"a",  "b",   "to",   "be",    "or",         "not",
                                        "it", "the", "that", "stone", "parliament", "x"};
    char text[512];
    size_t len = 0;
    struct rec r = {.time = time};

    for (uint64_t n = below(rng, 6); n > 0; n--) {
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%s",
                                words[below(rng, ARRAY_LEN(words))], n % 3 ? " " : "\t\n");
    }
    if (below(rng, 8) == 0) {
        len += (size_t)snprintf(text + len, sizeof text - len, " w%llu",
                                (unsigned long long)below(rng, 300));
    }
    r.value = below(rng, 10) ? bytes_of(text, len) : (struct bytes){NULL, 0};
    r.value = below(rng, 6) ? r.value : number((int64_t)rng_next(rng));
    len = (size_t)snprintf(text, sizeof text, "%s%s", words[below(rng, ARRAY_LEN(words))],
                           below(rng, 9) ? "" : " with a tail that does not fit an entry");
    r.key = below(rng, 10) ? bytes_of(text, below(rng, 20) ? len : 0) : (struct bytes){NULL, 0};
    return r;
}

/* Feeds both: blocks for the bed, the same in a set. */
static void make_input(uint64_t *rng, const struct plan *p, struct bed *b, struct set in[2],
                       uint64_t batch)
{
    for (uint32_t s = 0; s < 2; s++) {
        in[s] = (struct set){.partitions = p->partitions[s]};
        for (uint64_t blocks = below(rng, 5); blocks > 0; blocks--) {
            uint32_t part = (uint32_t)below(rng, p->partitions[s]);
            struct levee_record records[700];
            size_t n = below(rng, 6) ? below(rng, 40) : below(rng, 700);
            for (size_t i = 0; i < n; i++) {
                struct rec r = make_record(rng, (int64_t)batch * 10);
                add(&in[s], part, r);
                records[i] = (struct levee_record){
                    {r.key.data, r.key.len}, {r.value.data, r.value.len}, r.time};
            }
            bed_feed(b, s, (uint16_t)part, records, n);
        }
    }
}

static bool equal(struct bytes want, struct levee_slice got)
{
    return (want.data == NULL) == (got.data == NULL) && same(want, view(got));
}

static void compare(const struct set *want, const struct rt_dataset *got, const char *who)
{
    if (want->partitions != got->partitions) {
        ck_abort_msg("%s: %u partitions, expected %u", who, got->partitions, want->partitions);
    }
    for (uint32_t p = 0; p < want->partitions; p++) {
        if (want->count[p] != got->parts[p].count) {
            ck_abort_msg("%s, partition %u: %zu records, expected %zu", who, p, got->parts[p].count,
                         want->count[p]);
        }
        for (size_t i = 0; i < want->count[p]; i++) {
            const struct rec *w = &want->items[p][i];
            const struct levee_record *g = &got->parts[p].items[i];
            if (!equal(w->key, g->key) || !equal(w->value, g->value) || w->time != g->time_ms) {
                ck_abort_msg("%s, partition %u, record %zu: expected %.*s=%.*s at %lld, got "
                             "%.*s=%.*s at %lld",
                             who, p, i, (int)w->key.len, (const char *)w->key.data,
                             (int)w->value.len, (const char *)w->value.data, (long long)w->time,
                             (int)g->key.len, (const char *)g->key.data, (int)g->value.len,
                             (const char *)g->value.data, (long long)g->time_ms);
            }
        }
    }
}

/* The state as the engine enumerates it against the model's. */
struct state_check {
    struct memory *m;
    size_t seen;
};
static int check_entry(void *arg, struct levee_slice key, struct levee_slice value)
{
    struct state_check *c = arg;
    size_t k = place_of(c->m, view(key));

    MUST(c->m->there[k]);
    MUST(same(c->m->values[k], view(value)));
    c->seen++;
    return 0;
}

static void compare_state(const struct bed *b, const char *uid, struct memory *m)
{
    struct state_check c = {m, 0};
    size_t there = 0;

    MUST(rt_engine_each(b->engine, rt_uid_hash(uid), check_entry, &c) == 0);
    for (size_t k = 0; k < m->n; k++) {
        there += m->there[k];
    }
    MUST(c.seen == there);
}

static uint64_t gathered(struct bed *b)
{
    struct ckpt_slices *slices;
    uint64_t h = 1;
    size_t n;

    MUST(rt_engine_gather(b->engine, &slices, &n, &b->err) == LEVEE_OK);
    for (size_t i = 0; i < n; i++) {
        h = hash64(slices[i].bytes.data, slices[i].bytes.len, h + slices[i].table);
    }
    rt_engine_free_slices(slices, n);
    return h;
}

/* Runs a seed's graph for some batches; the fingerprint of all that must not depend on workers. */
static uint64_t run_seed(uint64_t seed, uint32_t workers, uint64_t schedule)
{
    struct plan p = {0};
    struct bed b;
    struct memory *memories[NODES];
    static struct set sets[NODES];
    uint64_t rng = seed, print = 0;
    char who[64], uid[16];

    make_plan(&p, &rng);
    bed_init(&b, workers, schedule);
    build_plan(&p, &b);
    b.opt.retries = 1;
    MUST(bed_open(&b) == LEVEE_OK);
    for (uint32_t i = 0; i < p.count; i++) {
        memories[i] = calloc(1, sizeof *memories[i]);
        MUST(memories[i] != NULL);
    }
    for (uint64_t batch = 1; batch <= 4; batch++) {
        make_input(&rng, &p, &b, sets, batch);
        MUST(bed_run(&b) == LEVEE_OK);
        for (uint32_t i = 0; i < p.count; i++) {
            if (i >= 2) {
                struct memory *m = memories[p.ops[i] == OP_SNAPSHOTS ? p.a[i] : i];
                m->now = (int64_t)batch * 1000;
                model(p.ops[i], &sets[p.a[i]], &sets[p.b[i]], p.keyed[i], m, &sets[i]);
            }
            (void)snprintf(who, sizeof who, "seed %llu, batch %llu, node %u, operation %d",
                           (unsigned long long)seed, (unsigned long long)batch, i, (int)p.ops[i]);
            compare(&sets[i], bed_output(&b, i), who);
            print = hash64(&b.compute.digests[i], 8, print);
            MUST((b.compute.digests[i] == 0) == (b.compute.output_records[i] == 0));
            (void)snprintf(uid, sizeof uid, "node%u", i);
            if (has_state(&p, i)) {
                compare_state(&b, uid, memories[i]);
            }
        }
        if (batch % 2 == 0) {
            print = gathered(&b) + print * 31;
            print += rt_engine_state_digest(b.engine);
        }
        bed_end_batch(&b);
        drop_pool();
    }
    for (uint32_t i = 0; i < p.count; i++) {
        forget(memories[i]);
    }
    bed_release(&b);
    return print;
}

static uint64_t seeds(uint64_t usual) /* RT_SEEDS: for long runs by hand */
{
    const char *s = getenv("RT_SEEDS");

    return s ? strtoull(s, NULL, 10) : usual;
}

START_TEST(random_graphs_equal_the_model_for_any_number_of_workers)
{
    for (uint64_t seed = 1; seed <= seeds(60); seed++) {
        uint64_t one = run_seed(seed, 1, 0);
        MUST(run_seed(seed, 2, 0) == one);
        MUST(run_seed(seed, 7, 0) == one);
    }
}
END_TEST

START_TEST(random_graphs_equal_the_model_on_any_schedule)
{
    for (uint64_t seed = 1000; seed < 1000 + seeds(40); seed++) {
        uint64_t one = run_seed(seed, 1, 0);
        MUST(run_seed(seed, 3, seed * 5 + 1) == one);
        MUST(run_seed(seed, 3, seed * 7 + 2) == one);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_model");
    TCase *t = tcase_create("model");

    tcase_set_timeout(t, 600);
    tcase_add_test(t, random_graphs_equal_the_model_for_any_number_of_workers);
    tcase_add_test(t, random_graphs_equal_the_model_on_any_schedule);
    suite_add_tcase(s, t);
    return suite_main(s);
}
