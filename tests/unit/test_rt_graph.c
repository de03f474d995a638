/*
 * Building graphs: what builders refuse, where they say the mistake is, and how a stored graph is
 * compared with the present one (design 7: unchanged, operator added, state without operator,
 * another version).
 */
#include "tests/unit/test_rt_functions.h"

static struct rt_graph *graph;

static void setup(void)
{
    graph = rt_graph_new(NULL, 8, 1000);
    MUST(graph != NULL);
}

static void teardown(void)
{
    rt_graph_free(graph);
    graph = NULL;
}

static levee_stream *source(const char *uid)
{
    return rt_graph_add(graph, RT_SOURCE, "source", uid, true, NULL, 0, "graph.c", 1);
}

static levee_stream *stateful(levee_stream *s, const char *uid, uint32_t version)
{
    struct levee_state_options o = {.version = version};

    return levee_update_state_by_key_at(s, uid, &o, levee_update_sum_i64, NULL, "graph.c", 9);
}

static void expect(int code, const char *where, const char *part)
{
    ck_assert_int_eq(graph->error.code, code);
    ck_assert_str_eq(graph->error.where, where);
    if (!strstr(graph->error.what, part)) {
        ck_abort_msg("\"%s\" does not say \"%s\"", graph->error.what, part);
    }
}

START_TEST(nodes_know_where_they_were_built)
{
    levee_stream *s = source("in");
    levee_stream *m = levee_map(s, fn_swap, NULL);
    int line = __LINE__ - 1;

    ck_assert_str_eq(m->file, __FILE__);
    ck_assert_int_eq(m->line, line);
    ck_assert_str_eq(m->name, "map");
    ck_assert_ptr_eq(m->parents[0], s);
    ck_assert_uint_eq(m->id, 1);
    ck_assert_int_eq(graph->error.code, LEVEE_OK);
}
END_TEST

START_TEST(partitions_follow_the_operators)
{
    levee_stream *s = source("in"), *keyed, *both[2];

    s->partitions = 3;
    keyed = levee_reduce_by_key(levee_map(s, fn_swap, NULL), &levee_sum_i64);
    ck_assert_uint_eq(keyed->partitions, 8);
    both[0] = s;
    both[1] = keyed;
    ck_assert_uint_eq(levee_union(both, 2)->partitions, 11);
    ck_assert_uint_eq(levee_count(keyed)->partitions, 1);
    ck_assert_uint_eq(levee_group_by_key(s)->partitions, 8);
    ck_assert_uint_eq(levee_filter(s, fn_odd, NULL)->partitions, 3);
}
END_TEST

START_TEST(a_null_stream_gives_null_and_is_nobodys_error)
{
    levee_stream *none[2] = {NULL, NULL};

    ck_assert_ptr_null(levee_map(NULL, fn_swap, NULL));
    ck_assert_ptr_null(levee_flat_map(NULL, fn_words, NULL));
    ck_assert_ptr_null(levee_flat_map_many(NULL, fn_twice, NULL));
    ck_assert_ptr_null(levee_filter(NULL, fn_odd, NULL));
    ck_assert_ptr_null(levee_map_values(NULL, fn_length, NULL));
    ck_assert_ptr_null(levee_map_to_i64(NULL, 1));
    ck_assert_ptr_null(levee_union(none, 2));
    ck_assert_ptr_null(levee_union(NULL, 0));
    ck_assert_ptr_null(levee_count(NULL));
    ck_assert_ptr_null(levee_reduce(NULL, &levee_sum_i64));
    ck_assert_ptr_null(levee_reduce_by_key(NULL, &levee_sum_i64));
    ck_assert_ptr_null(levee_group_by_key(NULL));
    ck_assert_ptr_null(levee_update_state_by_key(NULL, "s", NULL, levee_update_sum_i64, NULL));
    ck_assert_ptr_null(rt_graph_add(NULL, RT_SOURCE, "source", "x", true, NULL, 0, "f", 1));
    ck_assert_ptr_null(rt_graph_fail(NULL, "f", 1, LEVEE_EINVALID, "nothing"));
    ck_assert_int_eq(graph->error.code, LEVEE_OK);
    none[0] = source("in");
    ck_assert_ptr_null(levee_union_at(none, 2, "graph.c", 4));
    expect(LEVEE_EINVALID, "graph.c:4", "a stream is NULL");
}
END_TEST

START_TEST(the_first_error_is_kept)
{
    levee_stream *s = source("in");

    ck_assert_ptr_null(levee_map_at(s, NULL, NULL, "graph.c", 11));
    ck_assert_ptr_null(levee_filter_at(s, NULL, NULL, "graph.c", 12));
    ck_assert_ptr_null(stateful(s, "no good", 1));
    expect(LEVEE_EINVALID, "graph.c:11", "map: no function");
}
END_TEST

START_TEST(uids_are_checked)
{
    static const char *const bad[] = {
        "", "a b", "a/b", "\xc3\xa9",
        "12345678901234567890123456789012345678901234567890123456789012345"};
    static const char *const good[] = {
        "a", "A-Z.0_9", "1234567890123456789012345678901234567890123456789012345678901234"};

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        ck_assert_ptr_nonnull(source(good[i]));
        ck_assert_str_eq(graph->nodes[i]->uid, good[i]);
        ck_assert_uint_eq(graph->nodes[i]->table, rt_uid_hash(good[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        graph->error.code = LEVEE_OK;
        ck_assert_ptr_null(source(bad[i]));
        expect(LEVEE_EGRAPH_UID, "graph.c:1", "needs a uid");
    }
    graph->error.code = LEVEE_OK;
    ck_assert_ptr_null(source(NULL));
    expect(LEVEE_EGRAPH_UID, "graph.c:1", "needs a uid");
    graph->error.code = LEVEE_OK;
    ck_assert_ptr_null(stateful(graph->nodes[0], "a", 1));
    expect(LEVEE_EGRAPH_UID, "graph.c:9", "the uid a is used twice: first at graph.c:1");
    ck_assert_uint_eq(graph->count, ARRAY_LEN(good));
}
END_TEST

/* Two uids with one 32-bit hash would share a table: found by trying, the birthday way. */
START_TEST(two_uids_with_one_hash_are_refused)
{
    enum { SLOTS = 1 << 20 };
    uint32_t *seen = calloc(SLOTS, sizeof *seen);
    char a[16] = "", b[16] = "";

    MUST(seen != NULL);
    for (uint32_t i = 1; i < 4000000 && !b[0]; i++) {
        char uid[16];
        (void)snprintf(uid, sizeof uid, "u%u", i);
        uint32_t h = rt_uid_hash(uid), other = seen[h % SLOTS];
        (void)snprintf(a, sizeof a, "u%u", other);
        if (other && rt_uid_hash(a) == h) {
            memcpy(b, uid, sizeof b);
        }
        seen[h % SLOTS] = i;
    }
    free(seen);
    MUST(b[0]);
    ck_assert_ptr_nonnull(source(a));
    ck_assert_ptr_null(source(b));
    expect(LEVEE_EGRAPH_UID, "graph.c:1", "the same hash");
}
END_TEST

START_TEST(graphs_do_not_mix_and_do_not_change_after_start)
{
    struct rt_graph *other = rt_graph_new(NULL, 8, 1000), *own = graph;
    levee_stream *both[2];

    MUST(other != NULL);
    both[0] = source("in");
    graph = other;
    both[1] = source("in");
    graph = own;
    ck_assert_ptr_null(levee_union_at(both, 2, "graph.c", 4));
    expect(LEVEE_EGRAPH, "graph.c:4", "another context");
    graph->error.code = LEVEE_OK;
    graph->frozen = true;
    ck_assert_ptr_null(levee_count_at(both[0], "graph.c", 6));
    expect(LEVEE_EGRAPH_FROZEN, "graph.c:6", "frozen");
    rt_graph_free(other);
}
END_TEST

START_TEST(absurd_graphs_are_refused)
{
    levee_stream *s = source("in"), *both[2];
    struct levee_reducer r = levee_sum_i64;

    r.version = 2;
    ck_assert_ptr_null(levee_reduce_at(s, &r, "graph.c", 2));
    expect(LEVEE_EINVALID, "graph.c:2", "a reducer needs version 1");
    graph->error.code = LEVEE_OK;
    r = levee_sum_i64;
    r.size = 0;
    ck_assert_ptr_null(levee_reduce_by_key_at(s, &r, "graph.c", 3));
    expect(LEVEE_EINVALID, "graph.c:3", "a size");
    graph->error.code = LEVEE_OK;
    ck_assert_ptr_null(levee_reduce_at(s, NULL, "graph.c", 4));
    expect(LEVEE_EINVALID, "graph.c:4", "a reducer needs");
    graph->error.code = LEVEE_OK;
    struct levee_state_options o = {.initial_count = 1};
    ck_assert_ptr_null(
        levee_update_state_by_key_at(s, "s", &o, levee_update_sum_i64, NULL, "graph.c", 5));
    expect(LEVEE_EINVALID, "graph.c:5", "no initial state");
    graph->error.code = LEVEE_OK;
    both[0] = both[1] = s;
    for (int i = 0; i < 40 && both[0]; i++) {
        both[0] = both[1] = levee_union_at(both, 2, "graph.c", 8);
    }
    expect(LEVEE_EGRAPH, "graph.c:8", "partitions");
    graph->error.code = LEVEE_OK;
    while (s) {
        s = levee_map_at(s, fn_swap, NULL, "graph.c", 7);
    }
    expect(LEVEE_EGRAPH, "graph.c:7", "at most 4096 nodes");
}
END_TEST

/* ---- stored and present ---- */

static struct buf described(void)
{
    struct buf b = {0};

    rt_graph_describe(graph, &b);
    MUST(!b.failed);
    return b;
}

static int compared(const struct buf *stored, bool drop, size_t *ret_n, uint32_t *ret_first,
                    struct levee_error *err)
{
    uint32_t *orphans = NULL;
    int code = rt_graph_compare(graph, buf_view(stored), drop, &orphans, ret_n, err);

    if (code == LEVEE_OK && *ret_n) {
        *ret_first = orphans[0];
    }
    mem_free(orphans);
    return code;
}

START_TEST(a_stored_graph_is_compared_by_uid)
{
    struct levee_error err = {0};
    uint32_t first = 0;
    size_t n = 9;

    levee_stream *s = stateful(levee_map(source("in"), fn_swap, NULL), "totals", 1);
    MUST(rt_graph_add(graph, RT_SINK, "sink", "out", true, &s, 1, "graph.c", 3) != NULL);
    struct buf stored = described(), again = described();
    ck_assert(slice_eq(buf_view(&stored), buf_view(&again)));
    ck_assert_int_eq(compared(&stored, false, &n, &first, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 0);

    /* Another shape, one operator more, the sink gone: all of that is fine. */
    teardown();
    setup();
    (void)stateful(stateful(source("in"), "totals", 1), "more", 4);
    ck_assert_int_eq(compared(&stored, false, &n, &first, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 0);

    /* The state's version differs: both are named. */
    teardown();
    setup();
    (void)stateful(source("in"), "totals", 2);
    ck_assert_int_eq(compared(&stored, true, &n, &first, &err), LEVEE_ESTATE_VERSION);
    ck_assert_str_eq(err.expected, "version 1, as stored");
    ck_assert_str_eq(err.found, "version 2");
    ck_assert_str_eq(err.where, "graph.c:9");
    ck_assert_ptr_nonnull(strstr(err.what, "totals"));

    /* The operator is gone: refused, or its state dropped when told to. */
    teardown();
    setup();
    (void)source("in");
    ck_assert_int_eq(compared(&stored, false, &n, &first, &err), LEVEE_ESTATE_ORPHANED);
    ck_assert_ptr_nonnull(strstr(err.what, "operator totals has stored state"));
    ck_assert_int_eq(compared(&stored, true, &n, &first, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(first, rt_uid_hash("totals"));

    /* The uid names something else now, which no option makes right. */
    teardown();
    setup();
    (void)stateful(source("totals"), "in", 1);
    ck_assert_int_eq(compared(&stored, true, &n, &first, &err), LEVEE_ESTATE_ORPHANED);
    ck_assert_ptr_nonnull(strstr(err.what, "another kind"));
    buf_release(&stored);
    buf_release(&again);
}
END_TEST

/* Cut short or changed anywhere, a description never makes the comparison read beyond it. */
START_TEST(a_damaged_description_is_an_error_or_harmless)
{
    struct levee_error err = {0};
    uint32_t first;
    size_t n;

    (void)stateful(source("in"), "totals", 1);
    struct buf stored = described();
    for (size_t len = 0; len < stored.len; len++) {
        uint8_t *exact = malloc(len ? len : 1);
        MUST(exact != NULL);
        memcpy(exact, stored.data, len);
        struct buf cut = {.data = exact, .len = len};
        ck_assert_int_eq(compared(&cut, false, &n, &first, &err), LEVEE_ECKPT_CORRUPT);
        free(exact);
    }
    for (size_t i = 0; i < stored.len; i++) {
        stored.data[i] ^= 0x41;
        int code = compared(&stored, false, &n, &first, &err);
        ck_assert(code == LEVEE_OK || code == LEVEE_ECKPT_CORRUPT ||
                  code == LEVEE_ESTATE_ORPHANED || code == LEVEE_ESTATE_VERSION);
        stored.data[i] ^= 0x41;
    }
    buf_release(&stored);
}
END_TEST

START_TEST(memory_that_runs_out_while_building_is_remembered)
{
    struct levee_record initial[] = {{slice_str("a"), slice_str("b"), 0}};
    struct levee_state_options o = {.initial = initial, .initial_count = 1};
    struct levee_map_state_options m = {.initial = initial, .initial_count = 1};

    teardown();
    for (uint64_t k = 1, hit = 1; hit; k++) {
        int64_t live = mem_live();
        setup();
        uint64_t before = mem_count();
        mem_fail_at(k);
        levee_stream *s = levee_map(source("in"), fn_swap, NULL);
        levee_stream *both[2] = {s, levee_flat_map_many(s, fn_twice, NULL)};
        s = levee_map_to_i64(levee_union(both, 2), 5);
        s = levee_reduce_by_key(s, &levee_sum_i64);
        s = levee_update_state_by_key(s, "s", &o, levee_update_sum_i64, NULL);
        s = levee_map_with_state(s, "m", &m, fn_visit, NULL);
        s = levee_update_state_by_partition(s, "p", &o, fn_tally_all, NULL);
        s = levee_join(levee_glom(s), levee_state_snapshots(s), LEVEE_INNER);
        s = levee_transform(&s, 1, fn_sorted, NULL);
        s = levee_cogroup(levee_count_by_value(s), levee_repartition_by(s, 2, place_by_key, NULL));
        s = levee_map_partitions(levee_combine_by_key(s, &span), fn_census, NULL);
        hit = mem_count() - before >= k;
        mem_fail_at(0);
        MUST((graph->error.code == LEVEE_ENOMEM) == (hit != 0));
        MUST((s == NULL) == (hit != 0));
        teardown();
        MUST(mem_live() == live);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_graph");
    TCase *t = tcase_create("building");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nodes_know_where_they_were_built);
    tcase_add_test(t, partitions_follow_the_operators);
    tcase_add_test(t, a_null_stream_gives_null_and_is_nobodys_error);
    tcase_add_test(t, the_first_error_is_kept);
    tcase_add_test(t, uids_are_checked);
    tcase_add_test(t, two_uids_with_one_hash_are_refused);
    tcase_add_test(t, graphs_do_not_mix_and_do_not_change_after_start);
    tcase_add_test(t, absurd_graphs_are_refused);
    tcase_add_test(t, a_stored_graph_is_compared_by_uid);
    tcase_add_test(t, a_damaged_description_is_an_error_or_harmless);
    tcase_add_test(t, memory_that_runs_out_while_building_is_remembered);
    suite_add_tcase(s, t);
    return suite_main(s);
}
